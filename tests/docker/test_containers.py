"""Containers by themselves: the first process, crashes, health, the end; and containers that start in any order."""

import csv
import io
import itertools
import json
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.docker.conftest import Engine, Start, containers, networks, wait_for

READ_ONLY = ("--read-only", "--tmpfs", "/run/rumor:exec,uid=900,gid=900", "--tmpfs", "/tmp")
APP = "/run/rumor/service/web-app"
GAP = 10.0
DRAIN = 7.0
"""The drain time that the images have."""
DOCKERS_PATIENCE = 10.0
"""After how long a plain `docker stop` kills."""
KEY = "AAECAwQFBgcICQoLDA0ODw=="


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


def side_by_side(*deeds: Callable[[], object]) -> None:
    """Do what mostly waits at once, and tell of the first that fails."""
    with ThreadPoolExecutor(len(deeds)) as pool:
        for done in [pool.submit(deed) for deed in deeds]:
            done.result()


def stop(engine: Engine, container: str) -> float:
    """Stop as a user does, and return how long it took; it must have ended by itself, and in order.

    From the signal to the end, by the engine's own clock: how long a busy machine takes to start `docker` is not it.
    """
    began = time.time()
    engine.run("stop", container)
    # Docker's kill would be 137; a container that ends by itself says so.
    assert engine.run("inspect", "--format", "{{.State.ExitCode}}", container) == "0", engine.run("logs", container)
    text = engine.run(
        "events", "--since", f"{began:.3f}", "--until", f"{time.time():.3f}", "--filter", f"container={container}",
        "--format", "{{.TimeNano}} {{.Action}}",
    )  # fmt: skip
    at = {action: int(nanoseconds) / 1e9 for nanoseconds, action in map(str.split, text.splitlines())}
    took = at["die"] - at["kill"]
    assert took < DRAIN + 2, engine.run("logs", container, both=True)
    return took


@pytest.mark.timeout(120)
def test_it_runs_read_only_without_root_and_ends_in_order(
    images: Engine, start: Start, network: Callable[..., str]
) -> None:
    alone = ("--network", network(), *READ_ONLY)

    def live(*words: str, first: str) -> None:
        name = start("rumor-webapp", *alone, *words)
        wait_for(lambda: service_state(images, name, APP)[0] == "true", lambda: images.run("logs", name))
        found = {pid: command for pid, _, _, command in processes(images, name)}
        assert first in found[1], found
        assert images.run("exec", name, "id", "-un") == "rumor"
        stop(images, name)

    def hold_the_log() -> None:
        # A child in a session of its own outlives the app, and holds the log open.
        held = "RUMOR_SERVICE_WEB_COMMAND=sh -c 'setsid sleep 1000 & exec python3 /app/webapp.py'"
        name = start("rumor-webapp", *alone, "--env", held)
        wait_for(lambda: "sleep 1000" in str(processes(images, name)), lambda: images.run("logs", name))
        stop(images, name)

    side_by_side(lambda: live(first="s6-svscan"), lambda: live("--init", first="docker-init"), hold_the_log)


@pytest.mark.timeout(120)
def test_it_can_be_stopped_at_any_moment_of_its_start(
    images: Engine, start: Start, network: Callable[..., str]
) -> None:
    """A signal that a first process does not handle is lost, and starting takes a moment."""
    alone = network()

    def stop_after(seconds: float) -> None:
        name = start("rumor-webapp", *READ_ONLY, "--network", alone)
        time.sleep(seconds)  # What is tested is a stop at many moments.
        stop(images, name)

    side_by_side(*(lambda tenths=tenths: stop_after(tenths / 10) for tenths in range(0, 12, 2)))


CRASHERS, CRASHES = 20, 10
CRASHING = """
[service.web]
port          = 3000
longest_pause = "1s"
command       = "sh /etc/rumor/crash.sh web"
""" + "".join(
    f"""
[program.crasher-{number}]
command       = "sh /etc/rumor/crash.sh {number}"
parts         = ["web"]
longest_pause = "1s"
"""
    for number in range(1, CRASHERS)
)
CRASH = """
# Orphans of both kinds: in the app's own group, and out of it.
echo once >> /tmp/crashes-$1
sleep 0.2 &
setsid sleep 0.3 &
[ "$(wc -l < /tmp/crashes-$1)" -le TIMES ] || sleep 1000
kill -KILL $$
"""


@pytest.mark.timeout(120)
def test_two_hundred_crashes_leave_no_zombie_and_do_not_stop_the_container(
    images: Engine, start: Start, network: Callable[..., str], tmp_path: Path
) -> None:
    """Of the app and of programs beside it, so that they crash side by side: each pauses a second."""
    (tmp_path / "rumor.toml").write_text(CRASHING)
    (tmp_path / "crash.sh").write_text(CRASH.replace("TIMES", str(CRASHES)))
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o755)
    name = start(
        "rumor-webapp", *READ_ONLY, "--network", network(), "--volume", f"{tmp_path}:/etc/rumor:ro",
        "--env", "RUMOR_SERVICE_WEB_COMMAND=sh /etc/rumor/crash.sh web",
    )  # fmt: skip

    def crashes() -> list[int]:
        text = images.run("exec", name, "sh", "-c", "cat /tmp/crashes-* | wc -l; ls /tmp | wc -l", check=False)
        return [int(word) for word in text.split()]

    # The last start of each does not crash.
    wait_for(lambda: crashes() == [CRASHERS * (CRASHES + 1), CRASHERS], lambda: str(crashes()), 90)

    def zombies() -> list[object]:
        found = processes(images, name)
        assert 1 in [pid for pid, _, _, _ in found], "something was seen at all"
        return [process for process in found if process[2] == "Z"]

    wait_for(lambda: zombies() == [], lambda: str(processes(images, name)), 10)
    assert images.run("inspect", "--format", "{{.State.Running}} {{.RestartCount}}", name) == "true 0"
    said = json.loads(images.run("exec", name, "rumor", "ps", "--format", "json"))["programs"]
    ends = {one["name"]: (one["state"], one["last_exit"]["text"]) for one in said if one["name"] != "agent"}
    assert set(ends.values()) == {("running", f"ended by SIGKILL, {CRASHES} times in a row")}, ends
    assert len(ends) == CRASHERS


# --- a balancer and what comes to it


@dataclass(frozen=True, slots=True)
class Cluster:
    """A balancer in a network that no route leads out of, with a key from a file."""

    engine: Engine
    network: str
    secret: Path
    balancer: str

    def words(self, node: str) -> tuple[str, ...]:
        return (
            "--network", self.network, "--hostname", node, "--network-alias", node, "--env", "RUMOR_JOIN=balancer",
            "--env", "RUMOR_KEY_FILE=/run/secrets/key", "--volume", f"{self.secret}:/run/secrets/key:ro",
        )  # fmt: skip

    def address(self, container: str) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.engine.run("inspect", "--format", form, container)

    def until_up(self, *nodes: str, balancer: str = "") -> None:
        address = self.address(balancer or self.balancer)
        wait_for(lambda: up(address) >= set(nodes), lambda: f"{up(address)}\n{self.engine.run('logs', self.balancer)}")


@pytest.fixture(scope="module")
def cluster(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    secret = tmp_path_factory.mktemp("secrets") / "key"
    secret.write_text(f"{KEY}\n")
    for path in (*secret.parents[:2], secret):
        path.chmod(0o755)
    with networks(images) as make, containers(images) as run:
        one = Cluster(images, make("--internal"), secret, f"rumor-{uuid.uuid4().hex[:8]}")
        run("rumor-balancer", *one.words("balancer"), name=one.balancer)
        yield one


def ask(address: str, *, post: bool = False) -> int:
    request = urllib.request.Request(f"http://{address}:8080/", method="POST" if post else "GET")
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            reply.read()
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.timeout(120)
def test_a_container_takes_its_part_tags_and_key_from_the_environment(cluster: Cluster, start: Start) -> None:
    # In an internal network there is no way out: the address must be found without one.
    web = start(
        "rumor-webapp", *cluster.words("told"), "--env", "ROLE=backend", "--env", "RUMOR_TAGS=dc=a,rack=7",
        "--env", "RUMOR_KEY_FILE_UNUSED=",
    )  # fmt: skip
    cluster.until_up("told")
    members = {
        member["name"]: member
        for member in json.loads(cluster.engine.run("exec", web, "rumor", "members", "--format", "json"))["members"]
    }
    assert members["told"]["addr"] == f"{cluster.address(web)}:7946"
    assert {name: members["told"]["tags"][name] for name in ("dc", "rack")} == {"dc": "a", "rack": "7"}
    assert "balancer" in members, "the key is the same"
    said = cluster.engine.run("logs", web, both=True)
    assert "RUMOR_KEY_FILE_UNUSED: nobody reads it" in said
    assert "gossip_in_the_clear" not in said


@pytest.mark.timeout(120)
def test_a_container_is_healthy_as_long_as_its_app_is(cluster: Cluster, start: Start) -> None:
    # The image's own check, only oftener.
    often = ("--health-interval", "1s", "--health-retries", "2")
    web = start("rumor-webapp", *cluster.words("well"), *often)

    def health() -> str:
        return cluster.engine.run("inspect", "--format", "{{.State.Health.Status}}", web)

    wait_for(lambda: health() == "healthy", lambda: cluster.engine.run("inspect", web))
    cluster.engine.run("exec", web, "s6-svc", "-d", APP)
    wait_for(lambda: health() == "unhealthy", lambda: cluster.engine.run("inspect", web))


@pytest.mark.timeout(120)
def test_a_session_that_does_not_end_does_not_keep_a_container_beyond_its_drain_time(
    cluster: Cluster, start: Start, tmp_path: Path
) -> None:
    """With the timings of a real network, and with the ten seconds that a plain `docker stop` gives."""
    web = start("rumor-webapp", *cluster.words("slow"), "--env", "DELAY=30000")
    cluster.until_up("slow")
    address = cluster.address(cluster.balancer)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(ask, address, post=True)
        wait_for(lambda: sessions(address, "slow") == 1, lambda: str(sessions(address, "slow")))
        took = stop(cluster.engine, web)
        assert request.result() in (0, 502), "it was cut, for it would have taken far longer"
    assert DRAIN < took < DOCKERS_PATIENCE
    cluster.engine.run("cp", f"{web}:/var/lib/rumor/slow/journal.db", str(tmp_path / "journal.db"))
    with sqlite3.connect(tmp_path / "journal.db") as journal:
        records = dict(journal.execute("SELECT kind, text FROM records WHERE kind LIKE 'drain%'").fetchall())
    journal.close()
    assert records == {"drain_deadline": "the drain time is over: balancer holds 1 session of web"}


@pytest.mark.timeout(120)
def test_a_balancer_that_stops_lets_requests_end(cluster: Cluster, start: Start) -> None:
    balancer = start("rumor-balancer", *cluster.words("second"))
    start("rumor-webapp", *cluster.words("late"), "--env", "DELAY=2500")
    cluster.until_up("late", balancer=balancer)
    address = cluster.address(balancer)
    with ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(ask, address, post=number % 2 == 0) for number in range(8)]
        wait_for(lambda: sessions(address, "late") == 8, lambda: str(sessions(address, "late")))
        stop(cluster.engine, balancer)
        assert [request.result() for request in requests] == [200] * 8


@pytest.mark.timeout(240)
def test_the_order_of_starting_does_not_matter(images: Engine, start: Start, network: Callable[..., str]) -> None:
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
                # Eighteen containers that check their health each ten seconds would keep a core busy by that alone.
                "--no-healthcheck",
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


def statistics(balancer: str) -> list[dict[str, str]]:
    """Return the servers of `web` as a balancer's HAProxy shows them: asking costs the machine nothing."""
    try:
        with urllib.request.urlopen(f"http://{balancer}:1936/;csv", timeout=2) as reply:
            rows = list(csv.DictReader(io.StringIO(reply.read().decode().removeprefix("# "))))
    except OSError:
        return []
    return [row for row in rows if row["pxname"] == "web" and row["type"] == "2"]


def up(balancer: str) -> set[str]:
    """Return the servers that a balancer's HAProxy holds up."""
    return {row["svname"] for row in statistics(balancer) if row["status"] == "UP"}


def sessions(balancer: str, server: str) -> int:
    return sum(int(row["scur"]) for row in statistics(balancer) if row["svname"] == server)
