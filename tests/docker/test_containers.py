"""One container by itself: its first process, its crashes, its end; and containers that start in any order."""

import csv
import io
import itertools
import json
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.docker.conftest import Engine, wait_for

READ_ONLY = ("--read-only", "--tmpfs", "/run/rumor:exec,uid=900,gid=900", "--tmpfs", "/tmp")
APP = "/run/rumor/service/web-app"
GAP = 10.0


@pytest.fixture
def start(images: Engine) -> Iterator[Callable[..., str]]:
    """Start a container of an image; return its name. All are gone afterwards."""
    started: list[str] = []

    def run(image: str, *words: str, name: str = "") -> str:
        name = name or f"rumor-{uuid.uuid4().hex[:8]}"
        images.run("run", "--detach", "--name", name, *words, image)
        started.append(name)
        return name

    yield run
    if started:
        images.run("rm", "--force", "--volumes", *started)


@pytest.fixture
def network(images: Engine) -> Iterator[Callable[[], str]]:
    made: list[str] = []

    def make() -> str:
        made.append(f"rumor-{uuid.uuid4().hex[:8]}")
        images.run("network", "create", made[-1])
        return made[-1]

    yield make
    for name in made:
        images.run("network", "rm", name, check=False)


def service_state(engine: Engine, container: str, service: str) -> tuple[str, int]:
    """Return whether s6 holds it up, and its pid."""
    words = engine.run("exec", container, "s6-svstat", "-o", "up,pid", service, check=False).split()
    return (words[0], int(words[1])) if len(words) == 2 else ("", -1)


def table(engine: Engine, balancer: str) -> dict[str, str]:
    text = engine.run("exec", balancer, "rumor", "table", "--format", "json", check=False)
    if not text.startswith("{"):
        return {}
    servers = [server for service in json.loads(text)["services"] for server in service["servers"]]
    return {server["name"]: server["state"] for server in servers}


def processes(engine: Engine, container: str) -> list[tuple[int, int, str, str]]:
    """Return pid and parent, both inside the container, state and command line of each process."""
    script = (
        "for p in /proc/[0-9]*; do printf '%s|' \"$(cat $p/stat 2>/dev/null)\"; tr '\\0' ' ' < $p/cmdline; echo; done"
    )
    found = []
    for line in engine.run("exec", container, "sh", "-c", script, check=False).splitlines():
        stat, _, command = line.partition("|")
        fields = stat.rpartition(")")[2].split()
        if len(fields) > 2:
            found.append((int(stat.split()[0]), int(fields[1]), fields[0], command.strip()))
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("words", [(), ("--init",)], ids=["alone", "init"])
def test_it_runs_read_only_without_root_and_ends_in_order(
    images: Engine, start: Callable[..., str], words: tuple[str, ...]
) -> None:
    name = start("rumor-webapp", *READ_ONLY, *words)
    wait_for(lambda: service_state(images, name, APP)[0] == "true", lambda: images.run("logs", name))
    found = processes(images, name)
    first = next(command for pid, _, _, command in found if pid == 1)
    assert ("s6-svscan" in first) != bool(words), "tini with --init, s6 without"
    assert images.run("exec", name, "id", "-un") == "rumor"
    began = time.monotonic()
    images.run("stop", "--time", "20", name)
    assert time.monotonic() - began < 7 + 2
    assert images.run("inspect", "--format", "{{.State.ExitCode}}", name) == "0"


@pytest.mark.timeout(120)
def test_crashes_leave_no_zombie_and_do_not_stop_the_container(images: Engine, start: Callable[..., str]) -> None:
    crash(images, start("rumor-webapp", *READ_ONLY), 5)


@pytest.mark.soak
def test_two_hundred_crashes_leave_no_zombie(images: Engine, start: Callable[..., str]) -> None:
    crash(images, start("rumor-webapp", *READ_ONLY), 200)


def crash(engine: Engine, name: str, times: int) -> None:
    last = 0
    for number in range(times):
        wait_for(
            lambda: service_state(engine, name, APP)[1] not in (-1, last),  # noqa: B023
            lambda: f"crash {number}: {engine.run('logs', '--tail', '20', name)}",  # noqa: B023
        )
        last = service_state(engine, name, APP)[1]
        # A child that nobody waits for goes with it: an orphan that somebody must reap.
        engine.run("exec", "--detach", name, "sh", "-c", "sleep 0.2 & exit 0")
        engine.run("exec", name, "s6-svc", "-k", APP)
    wait_for(lambda: service_state(engine, name, APP)[1] not in (-1, last), lambda: engine.run("logs", name))
    wait_for(
        lambda: [it for it in processes(engine, name) if it[2] == "Z"] == [], lambda: str(processes(engine, name)), 10
    )
    assert engine.run("inspect", "--format", "{{.State.Running}} {{.RestartCount}}", name) == "true 0"


@pytest.mark.timeout(240)
def test_the_order_of_starting_does_not_matter(
    images: Engine, start: Callable[..., str], network: Callable[[], str]
) -> None:
    """All six orders of balancer, s1 and s2, ten seconds between the starts of each, in networks of their own.

    The orders run side by side, so offset that no two containers of the eighteen start in one moment.
    """
    orders = list(itertools.permutations(("balancer", "s1", "s2")))
    nets = [network() for _ in orders]

    def run(number: int) -> float:
        time.sleep(number * GAP / len(orders))
        for node in orders[number]:
            if node != orders[number][0]:
                time.sleep(GAP)  # What is tested is an order with time between.
            start(
                "rumor-balancer" if node == "balancer" else "rumor-webapp",
                "--network", nets[number], "--network-alias", node, "--hostname", node,
                "--env", "RUMOR_JOIN=balancer", "--env", "RUMOR_CLUSTER_PRESET=local",
                name=f"{nets[number]}-{node}",
            )  # fmt: skip
        balancer = f"{nets[number]}-balancer"
        address = images.run(
            "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", balancer
        )
        took = wait_for(
            lambda: up(address) == {"s1", "s2"},
            lambda: f"{orders[number]}: {up(address)}\n{images.run('logs', balancer)}",
        )
        assert table(images, balancer) == {"s1": "ready", "s2": "ready"}
        return took

    with ThreadPoolExecutor(len(orders)) as pool:
        took = dict(zip(orders, pool.map(run, range(len(orders))), strict=True))
    assert max(took.values()) < 5.0, took


def up(balancer: str) -> set[str]:
    """Return the servers that a balancer's HAProxy holds up, by its statistics: asking costs the machine nothing."""
    try:
        with urllib.request.urlopen(f"http://{balancer}:1936/;csv", timeout=2) as reply:
            rows = list(csv.DictReader(io.StringIO(reply.read().decode().removeprefix("# "))))
    except OSError:
        return set()
    return {row["svname"] for row in rows if row["pxname"] == "web" and row["type"] == "2" and row["status"] == "UP"}
