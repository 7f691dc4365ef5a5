"""`rumor install --systemd --apply` under a real systemd, and what people do with the programs of such a host."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.systemd_here import Machine, systemd_here

from rumor.supervise.base import ProgramState, ProgramStatus
from rumor.supervise.systemd import Systemd

DEADLINE = 30.0
APP = """
import http.server, sys
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words): pass
class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *words): pass
print("serving at", sys.argv[1], flush=True)
if "falls" in sys.argv:
    sys.exit("no such table: orders")
Server(("127.0.0.1", int(sys.argv[1])), Quiet).serve_forever()
"""
FILE = f"""
[cluster]
key = "AAAAAAAAAAAAAAAAAAAAAA=="
bind = "127.0.0.1:7946"

[balancer]
bind = [":80"]

[service.web]
command = "{sys.executable} -u {{directory}}/app.py {{port}}"
port = 3000
check = {{ http = "/", interval = "200ms", timeout = "1s" }}
drain = "1s"
environment = {{ TOKEN = "secret" }}
"""
WORKER = """
[program.worker]
command = "sleep 1000"
parts = ["web"]
"""
ALL = {"agent", "haproxy", "web-app"}


class Host:
    """A host with one node that plays everything."""

    def __init__(self, machine: Machine, haproxy: Path) -> None:
        self.machine = machine
        self.haproxy = haproxy
        self.file = machine.shared / "rumor.toml"
        (machine.shared / "app.py").write_text(APP)
        self.configure()

    def configure(self, more: str = "", *, replaced: tuple[str, str] = ("", "")) -> str:
        text = (FILE.replace("{directory}", str(self.machine.shared)) + more).replace(*replaced)
        self.file.write_text(text)
        return text

    def rumor(self, *words: str, status: int = 0) -> str:
        environment = (f"RUMOR_HAPROXY={self.haproxy}", f"RUMOR_FILE={self.file}")
        done = self.machine.run("env", *environment, sys.executable, "-m", "rumor", *words, check=False)
        assert done.returncode == status, f"{words}: {done.stdout}{done.stderr}{self.machine.journal()}"
        return done.stdout + done.stderr

    def install(self, *words: str) -> str:
        return self.rumor("install", "--systemd", *(words or ("--apply",)), "--node", "n1", "balancer", "web")

    def ps(self) -> dict[str, dict[str, Any]]:
        done = self.machine.run(sys.executable, "-m", "rumor", "ps", "--format", "json", check=False)
        value = json.loads(done.stdout)
        assert value["supervisor"] == "systemd"
        return {program["name"]: program for program in value["programs"]}

    def states(self) -> dict[str, ProgramStatus]:
        """Return what rumor knows, without its command line."""
        systemd = Systemd(self.machine.root, (*self.machine.enter, "systemctl"))
        return {status.name: status for status in asyncio.run(systemd.states())}

    def pids(self) -> dict[str, int | None]:
        return {name: status.pid for name, status in self.states().items()}

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}\n{self.machine.journal()}"
            time.sleep(0.1)

    def runs(self, *names: str) -> bool:
        states = self.states()
        return all(name in states and states[name].state is ProgramState.RUNNING for name in names)

    def until_running(self, *names: str) -> None:
        self.until(lambda: self.runs(*names), f"{names} run")

    def show(self, unit: str, key: str) -> str:
        return self.machine.run("systemctl", "show", "--value", f"--property={key}", unit).stdout.strip()

    def sh(self, script: str) -> str:
        return self.machine.run("sh", "-c", script).stdout


@pytest.fixture(scope="module")
def installed(haproxy_program: Path) -> Iterator[Host]:
    with systemd_here() as machine:
        host = Host(machine, haproxy_program)
        assert "ExecStart=" in host.install("--dry-run")
        assert host.sh("ls /etc/systemd/system; id rumor || true") == ""
        said = host.install("--apply")
        assert "making the user rumor" in said
        assert "writing /etc/systemd/system/rumor-agent.service" in said
        yield host


@pytest.fixture
def host(installed: Host) -> Host:
    """A host on which all runs, by the file that it began with."""
    changed = installed.file.read_text() != installed.configure()
    if changed or not installed.runs(*ALL):
        installed.install()
    installed.until_running(*ALL)
    return installed


def test_what_is_installed_runs_and_serves(host: Host) -> None:
    assert set(host.ps()) == ALL
    fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:80/', timeout=5).status)"

    def serves() -> bool:
        return host.machine.run(sys.executable, "-c", fetch, check=False).stdout.strip() == "200"

    host.until(serves, "a request is served")
    assert host.machine.run("systemctl", "is-enabled", "rumor.target").stdout.strip() == "enabled"
    pids = ",".join(map(str, host.pids().values()))
    assert set(host.sh(f"ps -o user= -p {pids}").split()) == {"rumor"}


def test_what_is_secret_is_for_root_alone(host: Host) -> None:
    modes = host.sh("stat -c '%a %U %n' /etc/rumor/programs.json /etc/rumor/environment/*").splitlines()
    assert modes
    assert all(line.startswith("600 root ") for line in modes)
    assert "secret" not in host.sh("cat /etc/systemd/system/rumor*")
    assert host.sh("stat -c %U /var/lib/rumor /var/lib/rumor/n1").split() == ["rumor", "rumor"]


def test_installing_again_restarts_only_what_has_changed(host: Host) -> None:
    before = host.pids()
    assert "writing" not in host.install()
    assert host.pids() == before
    host.configure(replaced=('drain = "1s"', 'drain = "2s"'))
    assert "try-restart rumor-agent.service" in host.install()
    host.until_running(*ALL)
    after = host.pids()
    assert after["agent"] != before["agent"]
    assert host.states()["agent"].last_exit is None, "somebody asked for it"
    assert (after["web-app"], after["haproxy"]) == (before["web-app"], before["haproxy"])
    # An app that is gone takes its unit along.
    assert "removing /etc/systemd/system/rumor-web-app.service" in host.install(
        "--apply", "--set", "service.web.command="
    )
    assert set(host.states()) == {"agent", "haproxy"}
    assert host.sh("ls /etc/rumor/environment") == ""


def test_programs_stop_in_their_order_and_start_again(host: Host) -> None:
    before = host.pids()
    said = host.rumor("stop", "web-app", "haproxy", "agent")
    assert {"agent: stopped", "haproxy: stopped", "web-app: stopped"} <= set(said.splitlines())
    assert not any(host.machine.is_alive(pid) for pid in before.values() if pid)
    ended = {name: int(host.show(f"rumor-{name}.service", "InactiveEnterTimestampMonotonic")) for name in ALL}
    assert ended["agent"] < ended["haproxy"] < ended["web-app"]
    assert all(status.last_exit is None for status in host.states().values()), "somebody asked for it"
    host.rumor("start", "web-app", "haproxy", "agent")
    assert host.runs(*ALL)
    first = host.pids()
    assert "web-app: running" in host.rumor("restart", "web")
    now = host.pids()
    assert now["web-app"] != first["web-app"]
    assert now["agent"] == first["agent"]


def test_the_target_stops_all_in_their_order(host: Host) -> None:
    host.machine.run("systemctl", "stop", "rumor.target", *(f"rumor-{name}.service" for name in ALL))
    ended = {name: int(host.show(f"rumor-{name}.service", "InactiveEnterTimestampMonotonic")) for name in ALL}
    assert ended["agent"] < ended["haproxy"] < ended["web-app"]


def test_a_crash_is_told_with_its_signal_and_its_last_words(host: Host) -> None:
    pid = host.pids()["web-app"]
    assert pid is not None
    host.machine.kill(pid)
    host.until(lambda: host.pids()["web-app"] not in (None, pid), "it is back")
    told = host.ps()["web-app"]
    assert (told["last_exit"]["signal"], told["last_exit"]["text"]) == (9, "ended by SIGKILL")
    assert told["words"] == ["serving at 3000"]
    assert (
        host.sh("stat -c %U /var/lib/rumor/n1/exits/web-app /var/lib/rumor/n1/log/web-app.log").split() == ["rumor"] * 2
    )
    host.until(lambda: "ended by SIGKILL" in host.rumor("why", "n1", "--data", "/var/lib/rumor"), "its agent tells it")


def test_what_keeps_falling_is_told_with_its_last_words(host: Host) -> None:
    host.configure(replaced=("app.py {port}", "app.py {port} falls"))
    said = host.rumor("reload-services", "--timeout", "1s", status=1)
    assert "changing web-app" in said

    def waits() -> bool:
        now = host.states()["web-app"]
        return now.state is ProgramState.BACKOFF and now.last_exit is not None and now.last_exit.failures >= 2

    host.until(waits, "it fell twice, and waits for its next try")
    falling = host.ps()["web-app"]
    assert falling["last_exit"]["status"] == 1
    assert falling["last_exit"]["pause"] == 2 ** (falling["last_exit"]["failures"] - 1)
    assert falling["words"] == ["serving at 3000", "no such table: orders"]


def test_programs_come_and_go_with_rumor_toml(host: Host) -> None:
    before = host.pids()
    host.configure(WORKER)
    assert "added: worker" in host.rumor("reload-services")
    host.until_running("worker")
    assert {name: pid for name, pid in host.pids().items() if name != "worker"} == before
    assert "rumor-worker.service" in host.show("rumor.target", "Wants")
    host.configure()
    assert "removed: worker" in host.rumor("reload-services")
    assert host.pids() == before
    assert host.show("rumor-worker.service", "LoadState") == "not-found"


def test_only_root_is_told(host: Host) -> None:
    done = host.machine.run(
        "setpriv", "--reuid", "rumor", "--regid", "rumor", "--clear-groups", sys.executable, "-m", "rumor", "ps",
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "told to root alone, so use sudo" in done.stderr


def test_who_names_another_directory_does_not_mean_this_host(host: Host, tmp_path: Path) -> None:
    assert "nothing is supervised here" in host.rumor("ps", "--data", str(tmp_path), status=1)
