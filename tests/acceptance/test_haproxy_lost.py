"""HAProxy killed, its sockets removed, its disk full: service again by itself, or a clear word about what is wrong."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.test_up import APP, Up, get, start, wait_for  # noqa: F401 - a fixture among them

from rumor.api_client import AgentApi
from rumor.errors import RumorError
from rumor.places import Places, places

FILE = f"""
[service.web]
command = "{APP}"
replicas = 2
check = {{ http = "/health", interval = "300ms", timeout = "300ms" }}
drain = "1s"
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rumor-"))
    (path / "rumor.toml").write_text(FILE)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def place(directory: Path) -> Places:
    return places(directory / ".rumor", "balancer")


def asked(directory: Path, path: str) -> dict[str, Any]:
    return AgentApi(socket_path=place(directory).agent_socket).get(path)


def problems(directory: Path) -> list[str]:
    return list(asked(directory, "/health")["problems"])


def haproxy(directory: Path) -> tuple[int, int]:
    """Return the pids of master and worker, as the agent sees them."""
    found = asked(directory, "/v1/status")["haproxy"]
    return int(found["master_pid"] or 0), int(found["worker_pid"] or 0)


def is_well(directory: Path, url: str) -> bool:
    try:
        return get(url)[0] == 200 and asked(directory, "/v1/status")["haproxy"]["converged"] and not problems(directory)
    except (RumorError, urllib.error.URLError, OSError, TypeError):
        return False


def kinds(directory: Path) -> list[str]:
    return [record["kind"] for record in asked(directory, "/v1/journal?limit=1000")["records"]]


def doctor(directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rumor", "doctor"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout


@pytest.mark.timeout(120)
def test_a_killed_haproxy_serves_again_and_the_agent_takes_it_over(
    directory: Path,
    start: Callable[..., Up],  # noqa: F811
) -> None:
    url = start(directory).wait_ready()
    for victims in ("worker", "master", "both"):
        wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
        master, worker = haproxy(directory)
        for pid in {"worker": (worker,), "master": (master,), "both": (master, worker)}[victims]:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: _serves(url), lambda: "it serves again")
        wait_for(lambda: haproxy(directory)[0] not in (0, master), lambda: "the agent has seen the new one")  # noqa: B023
        wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    assert kinds(directory).count("haproxy_restarted") == 3


def _serves(url: str) -> bool:
    try:
        return get(url)[0] == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.timeout(120)
def test_without_its_command_sockets_haproxy_is_still_steered(
    directory: Path,
    start: Callable[..., Up],  # noqa: F811
) -> None:
    url = start(directory).wait_ready()
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    master, _ = haproxy(directory)
    run = place(directory).run_directory
    (run / "haproxy.sock").unlink()
    rumor(directory, "drain", "web-1")
    wait_for(lambda: {tag(url) for _ in range(6)} == {"web-2"}, lambda: rumor(directory, "table"))
    rumor(directory, "ready", "web-1")
    (run / "master.sock").unlink()
    wait_for(lambda: {tag(url) for _ in range(6)} == {"web-1", "web-2"}, lambda: rumor(directory, "table"))
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    assert haproxy(directory)[0] == master, "it was not restarted"


@pytest.mark.timeout(120)
def test_an_agent_that_starts_anew_finds_a_haproxy_without_its_sockets(
    directory: Path,
    start: Callable[..., Up],  # noqa: F811
) -> None:
    url = start(directory).wait_ready()
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    master, _ = haproxy(directory)
    run, agent = place(directory).run_directory, int(asked(directory, "/v1/status")["pid"])
    (run / "haproxy.sock").unlink()
    (run / "master.sock").unlink()
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    assert haproxy(directory)[0] == master, "it was not restarted"
    rumor(directory, "drain", "web-1")
    wait_for(lambda: {tag(url) for _ in range(6)} == {"web-2"}, lambda: rumor(directory, "table"))


def state(directory: Path, name: str) -> str:
    """Return what the balancer wants of a server."""
    servers = asked(directory, "/v1/table")["services"][0]["servers"]
    found = next((server for server in servers if server["name"] == name), None)
    return "gone" if found is None else str(found["state"])


def tag(url: str) -> str:
    return str(json.loads(get(url)[1])["tag"])


def rumor(directory: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rumor", *words], cwd=directory, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk of one's own wants root: mount -t tmpfs")
def test_on_a_full_disk_servers_come_and_go_and_everybody_is_told(
    directory: Path,
    start: Callable[..., Up],  # noqa: F811
) -> None:
    small = directory / ".rumor"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mount -t tmpfs is not allowed here")
    up = start(directory)
    try:
        url = up.wait_ready()
        wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
        fill = small / "fill"
        with fill.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass
        app = up.processes()["web-2-app"].pid
        os.kill(app, signal.SIGSTOP)
        wait_for(
            lambda: any("cannot be written" in one for one in problems(directory)), lambda: rumor(directory, "table")
        )
        wait_for(lambda: state(directory, "web-2") != "ready", lambda: rumor(directory, "table"))
        assert {tag(url) for _ in range(6)} == {"web-1"}
        assert "No space left on device" in doctor(directory)
        refused = subprocess.run(
            [sys.executable, "-m", "rumor", "drain", "web-1"],
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "cannot be kept" in refused.stderr
        fill.unlink()
        os.kill(app, signal.SIGCONT)
        wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
        wait_for(lambda: {tag(url) for _ in range(6)} == {"web-1", "web-2"}, lambda: rumor(directory, "table"))
        assert up.stop() == 0, up.text
    finally:
        # Before the disk goes, since the record of what to end is on it.
        up.end()
        subprocess.run(["umount", "-l", str(small)], check=False)


def add_frontend_line(directory: Path, line: str) -> str:
    """Let rumor.toml have a line of the operator's own; return what the agent says of it."""
    (directory / "rumor.toml").write_text(f"{FILE}\n[balancer.raw]\nfrontend = {json.dumps(line)}\n")
    return str(AgentApi(socket_path=place(directory).agent_socket).post("/v1/reload")["text"])


@pytest.mark.timeout(120)
def test_a_reload_that_haproxy_refuses_freezes_nothing_and_is_told_everywhere(
    directory: Path,
    start: Callable[..., Up],  # noqa: F811
) -> None:
    url = start(directory).wait_ready()
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    # Neither `haproxy -c` nor a test-bind looks at abstract sockets: only HAProxy itself finds out that it is taken.
    taken = f"rumor-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind(f"\0{taken}".ljust(108, "\0"))
        holder.listen()
        _refused_but_not_frozen(directory, url, f"bind abns@{taken}")
    said = add_frontend_line(directory, "option http-ignore-probes")
    assert said.endswith("is accepted")
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))


def _refused_but_not_frozen(directory: Path, url: str, line: str) -> None:
    said = add_frontend_line(directory, line)
    assert "was refused by HAProxy" in said
    rumor(directory, "drain", "web-1")
    wait_for(lambda: {tag(url) for _ in range(6)} == {"web-2"}, lambda: rumor(directory, "table"))
    rumor(directory, "weight", "web-2", "7")
    rumor(directory, "ready", "web-1")
    wait_for(lambda: {tag(url) for _ in range(9)} == {"web-1", "web-2"}, lambda: rumor(directory, "table"))
    wait_for(lambda: asked(directory, "/v1/status")["haproxy"]["converged"], lambda: rumor(directory, "table"))
    assert any("was refused by HAProxy" in problem for problem in problems(directory))
    assert "was refused by HAProxy" in doctor(directory)
    history = asked(directory, "/v1/config/history?limit=100")["revisions"]
    tries = [entry["how"] for entry in history if entry["outcome"] == "refused"]
    assert tries == ["reload"], "one, and not one at each change"

    assert "was refused by HAProxy" in asked(directory, "/v1/table")["services"][0]["set_aside"]


@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="a file that root cannot write wants a mount")
def test_where_haproxys_file_cannot_be_written_servers_come_and_go_and_everybody_is_told(
    directory: Path,
    start: Callable[..., Up],  # noqa: F811
) -> None:
    url = start(directory).wait_ready()
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    config = place(directory).haproxy_config
    if subprocess.run(["mount", "--bind", str(config), str(config)], check=False).returncode:
        pytest.skip("mount --bind is not allowed here")
    try:
        before = config.read_text()
        rumor(directory, "drain", "web-1")
        wait_for(lambda: {tag(url) for _ in range(6)} == {"web-2"}, lambda: rumor(directory, "table"))
        wait_for(
            lambda: any("haproxy.cfg cannot be written" in one for one in problems(directory)),
            lambda: str(problems(directory)),
        )
        assert "haproxy.cfg cannot be written" in doctor(directory)
        assert kinds(directory).count("config_not_written") == 1
        assert config.read_text() == before
    finally:
        subprocess.run(["umount", "-l", str(config)], check=False)
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    assert "config_written_again" in kinds(directory)
    assert config.read_text() != before, "a restart would bring the drain, too"
    assert {tag(url) for _ in range(6)} == {"web-2"}


@pytest.mark.timeout(120)
def test_a_lost_file_is_written_again_by_the_next_agent(
    directory: Path,
    start: Callable[..., Up],  # noqa: F811
) -> None:
    url = start(directory).wait_ready()
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    config = place(directory).haproxy_config
    text = config.read_text()
    pid = int(asked(directory, "/v1/status")["pid"])
    config.unlink()
    os.kill(pid, signal.SIGKILL)
    wait_for(config.exists, lambda: "the file is back")
    wait_for(lambda: is_well(directory, url), lambda: str(problems(directory)))
    assert config.read_text() == text
