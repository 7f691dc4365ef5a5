"""`rumor up` as a user runs it: it serves, it shows itself, and it leaves nothing behind."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from rumor.api_client import AgentApi
from rumor.errors import RumorError
from rumor.local.processes import ProcessId, is_running, read_record
from rumor.places import places

WEBAPP = Path(__file__).parents[2] / "examples" / "webapp" / "webapp.py"
APP = f"{sys.executable} {WEBAPP} --host {{host}} --port {{port}}"
FILE = f"""
[service.web]
command = "{APP}"
replicas = 2
check = {{ http = "/health", interval = "300ms", timeout = "300ms" }}
drain = "3s"
"""


class Up:
    """One `rumor up`, started by this test."""

    def __init__(self, directory: Path, *words: str) -> None:
        self.directory = directory
        self.out = directory / "up.out"
        self.data = directory / ".rumor"
        with self.out.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rumor", "up", *words],
                cwd=directory, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self.out.read_text()

    def wait_ready(self) -> str:
        """Return the URL of the ready line."""
        wait_for(lambda: "ready: " in self.text or self.process.poll() is not None, lambda: self.text, 60)
        found = re.search(r"^ready: (http://\S+) \((\d+) servers?\), stats (http://\S+)$", self.text, re.MULTILINE)
        assert found, self.text
        return found[1]

    def processes(self) -> dict[str, ProcessId]:
        return read_record(self.data / "processes.json")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def end(self) -> None:
        """Whatever happened: nothing of ours survives the test."""
        ours = self.processes()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        # supervisord first: it would start again what falls before it.
        for _, process in sorted(ours.items(), key=lambda entry: entry[0] != "supervisord"):
            if is_running(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        # One that was started again a moment ago is in no record yet, but has our data directory in its command.
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if os.fsencode(f"{self.data}/") in command.read_bytes():
                    os.kill(int(command.parent.name), signal.SIGKILL)


def wait_for(holds: Callable[[], bool], what: Callable[[], str], deadline: float = 30.0) -> None:
    end = time.monotonic() + deadline
    while not holds():
        assert time.monotonic() < end, f"not within {deadline:g} s:\n{what()}"
        time.sleep(0.05)


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def rumor(directory: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rumor", *words], cwd=directory, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def start() -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start_one(directory: Path, *words: str) -> Up:
        started.append(Up(directory, *words))
        return started[-1]

    yield start_one
    for up in started:
        up.end()


def nothing_is_left(up: Up, processes: dict[str, ProcessId]) -> None:
    assert [name for name, process in processes.items() if is_running(process)] == []
    assert list(up.data.rglob("*.sock")) == []


@pytest.mark.timeout(120)
def test_a_cluster_serves_shows_itself_and_leaves_nothing_behind(tmp_path: Path, start: Callable[..., Up]) -> None:
    (tmp_path / "rumor.toml").write_text(FILE)
    up = start(tmp_path)
    url = up.wait_ready()
    assert {json.loads(get(url)[1])["tag"] for _ in range(8)} == {"web-1", "web-2"}
    members = json.loads(rumor(tmp_path, "members", "--format", "json"))["members"]
    assert {member["name"]: member["status"] for member in members} == {
        "balancer": "alive", "web-1": "alive", "web-2": "alive",
    }  # fmt: skip
    table = json.loads(rumor(tmp_path, "table", "-format", "json"))
    assert [server["state"] for server in table["services"][0]["servers"]] == ["ready", "ready"]
    for words in (("members",), ("table",), ("config", "history")):
        assert "web-1" in rumor(tmp_path, *words)
    revisions = json.loads(rumor(tmp_path, "config", "history", "--format", "json"))["revisions"]
    assert rumor(tmp_path, "config", "show").count("    server web-") == 2
    if len(revisions) > 1:
        assert "server web-" in rumor(tmp_path, "config", "diff", revisions[-1]["id"][:8], revisions[0]["id"][:8])
    # Nothing but servers differed from the file that HAProxy was started with, so it was never reloaded.
    assert {revision["how"] for revision in revisions} == {"runtime"}
    processes = up.processes()
    assert set(processes) >= {"supervisord", "haproxy", "balancer-agent", "web-1-agent", "web-1-app", "web-2-app"}
    assert up.stop() == 0, up.text
    nothing_is_left(up, processes)
    assert "Traceback" not in up.text


@pytest.mark.timeout(120)
def test_an_operator_drains_a_server_is_told_why_and_takes_it_back(tmp_path: Path, start: Callable[..., Up]) -> None:
    (tmp_path / "rumor.toml").write_text(FILE)
    url = start(tmp_path).wait_ready()

    def answering() -> set[str]:
        return {json.loads(get(url)[1])["tag"] for _ in range(8)}

    assert rumor(tmp_path, "drain", "web-1", "--wait", "10s") == "web/web-1: drained\n"
    assert answering() == {"web-2"}
    # The word outlives the agent that took it.
    os.kill(status_pid(tmp_path), signal.SIGKILL)
    wait_for(lambda: is_answering(tmp_path), lambda: "the agent is back")
    said = rumor(tmp_path, "why", "web-1")
    assert re.search(r"^web-1 of web at 127\.0\.0\.1:\d+: (drain|maint), weight 100$", said, re.MULTILINE), said
    assert re.search(r"^  operator  drain, by \S+@\S+, since ", said, re.MULTILINE), said
    assert re.search(r"says of web-1 of web: drain$", said, re.MULTILINE), said
    assert answering() == {"web-2"}
    assert rumor(tmp_path, "ready", "web/web-1") == "web/web-1: may serve again\n"
    wait_for(lambda: answering() == {"web-1", "web-2"}, lambda: rumor(tmp_path, "why", "web-1"))
    assert rumor(tmp_path, "weight", "web-2", "0") == "web/web-2: weight 0\n"
    wait_for(lambda: answering() == {"web-1"}, lambda: rumor(tmp_path, "table"))
    history = json.loads(rumor(tmp_path, "why", "web", "--format", "json"))
    assert {server["name"]: server["weight"] for server in history["servers"]} == {"web-1": 100, "web-2": 0}
    times = [record["at"] for record in history["records"]]
    assert times == sorted(times)
    unknown = subprocess.run(
        [sys.executable, "-m", "rumor", "why", "web-11"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (unknown.returncode, unknown.stderr) == (1, "error: nothing is known of web-11; did you mean web-1?\n")


@pytest.mark.timeout(120)
def test_the_doctor_knows_whose_ports_are_taken(
    tmp_path: Path, start: Callable[..., Up], free_port: Callable[[], int]
) -> None:
    bind, stats, app, tcp = (free_port() for _ in range(4))
    balancer = f'[balancer]\nbind = "127.0.0.1:{bind}"\nstats = "127.0.0.1:{stats}"\n'
    (tmp_path / "rumor.toml").write_text(f"{balancer}{FILE}port = {app}\n")
    start(tmp_path).wait_ready()

    def found() -> dict[str, tuple[bool, str]]:
        done = subprocess.run(
            [sys.executable, "-m", "rumor", "doctor", "--format", "json"],
            cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        value = json.loads(done.stdout)
        assert value["ok"] == (done.returncode == 0)
        return {one["what"]: (one["ok"], one["found"]) for one in value["findings"]}

    healthy = found()
    assert all(ok for ok, _ in healthy.values()), healthy
    assert healthy["balancer.bind"] == (True, f"127.0.0.1:{bind} is held by the HAProxy of balancer")
    assert healthy["balancer.stats"] == (True, f"127.0.0.1:{stats} is held by the HAProxy of balancer")
    assert healthy["service.web.port"] == (True, f"127.0.0.1:{app} is held by the app of web-1")
    # What another has stays a finding.
    with socket.create_server(("127.0.0.1", tcp)):
        service = f'[service.db]\nmode = "tcp"\nport = 5432\nbind = "127.0.0.1:{tcp}"\n'
        (tmp_path / "rumor.toml").write_text(f"{balancer}{FILE}port = {app}\n{service}")
        assert found()["service.db.bind"] == (False, f"127.0.0.1:{tcp} is taken")


def health(directory: Path) -> dict[str, Any]:
    return AgentApi(socket_path=places(directory / ".rumor", "balancer").agent_socket).get("/health")


def status_pid(directory: Path) -> int:
    found: int = AgentApi(socket_path=places(directory / ".rumor", "balancer").agent_socket).get("/v1/status")["pid"]
    return found


def is_answering(directory: Path) -> bool:
    with contextlib.suppress(RumorError):
        client = AgentApi(socket_path=places(directory / ".rumor", "balancer").agent_socket)
        return bool(client.get("/v1/status")["haproxy"]["converged"])
    return False


@pytest.mark.timeout(120)
def test_with_no_file_an_app_is_enough(tmp_path: Path, start: Callable[..., Up]) -> None:
    up = start(tmp_path, "--app", APP, "--replicas", "1")
    assert get(up.wait_ready())[0] == 200
    assert up.stop() == 0, up.text


@pytest.mark.timeout(120)
def test_two_clusters_do_not_collide(tmp_path: Path, start: Callable[..., Up]) -> None:
    ups = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ups.append(start(tmp_path / name, "--app", APP, "--replicas", "1"))
    first, second = (up.wait_ready() for up in ups)
    assert first != second
    assert (get(first)[0], get(second)[0]) == (200, 200)
    for name in ("a", "b"):
        assert len(json.loads(rumor(tmp_path / name, "members", "--format", "json"))["members"]) == 2
    assert [up.stop() for up in ups] == [0, 0]


@pytest.mark.timeout(120)
def test_a_second_up_in_one_directory_is_refused(tmp_path: Path, start: Callable[..., Up]) -> None:
    first = start(tmp_path, "--app", APP)
    first.wait_ready()
    done = subprocess.run(
        [sys.executable, "-m", "rumor", "up", "--app", APP],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"is run by process {first.process.pid} already" in done.stderr
    assert first.stop() == 0


@pytest.mark.timeout(120)
def test_what_a_killed_up_has_left_is_ended_by_the_next(tmp_path: Path, start: Callable[..., Up]) -> None:
    first = start(tmp_path, "--app", APP)
    first.wait_ready()
    left = first.processes()
    first.process.kill()
    first.process.wait(10)
    assert any(is_running(process) for process in left.values())
    first.out.unlink()
    second = start(tmp_path, "--app", APP)
    assert get(second.wait_ready())[0] == 200
    assert [name for name, process in left.items() if is_running(process)] == []
    assert second.stop() == 0


@pytest.mark.timeout(120)
def test_down_ends_a_cluster_that_nobody_holds(tmp_path: Path, start: Callable[..., Up]) -> None:
    up = start(tmp_path, "--app", APP)
    up.wait_ready()
    processes = up.processes()
    up.process.kill()
    up.process.wait(10)
    rumor(tmp_path, "down")
    nothing_is_left(up, processes)


@pytest.mark.timeout(120)
def test_a_deep_data_directory_gets_short_sockets(tmp_path: Path, start: Callable[..., Up]) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-directory-name"] * 5)
    deep.mkdir(parents=True)
    up = start(deep, "--app", APP)
    assert get(up.wait_ready())[0] == 200
    assert len(json.loads(rumor(deep, "members", "--format", "json"))["members"]) == 2
    assert up.stop() == 0, up.text


@pytest.mark.timeout(120)
def test_an_app_that_is_killed_comes_back(tmp_path: Path, start: Callable[..., Up]) -> None:
    (tmp_path / "rumor.toml").write_text(FILE)
    up = start(tmp_path)
    url = up.wait_ready()
    killed = up.processes()["web-1-app"]
    os.kill(killed.pid, signal.SIGKILL)
    wait_for(lambda: up.processes().get("web-1-app", killed) != killed, lambda: up.text)
    wait_for(lambda: {json.loads(get(url)[1])["tag"] for _ in range(4)} == {"web-1", "web-2"}, lambda: up.text)
    assert up.stop() == 0, up.text


@pytest.mark.timeout(120)
def test_an_app_that_falls_at_once_is_tried_again_and_told(tmp_path: Path, start: Callable[..., Up]) -> None:
    count = tmp_path / "count"
    script = tmp_path / "falls.sh"
    script.write_text(f"#!/bin/sh\necho x >> {count}\nexit 3\n")
    script.chmod(0o755)
    up = start(tmp_path, "--app", str(script))
    wait_for(lambda: count.exists() and count.read_text().count("x") >= 3, lambda: up.text, 40)
    assert up.stop() == 0, up.text


def refused(directory: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rumor", "up", *words],
        cwd=directory, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not (directory / ".rumor" / "supervisord.conf").exists()
    return done.stderr


def test_a_command_that_does_not_exist_is_refused_before_anything_starts(tmp_path: Path) -> None:
    assert "there is no program 'no-such-program'" in refused(tmp_path, "--app", "no-such-program {port}")


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "rumor.toml").write_text(FILE + f"port = {port}\n")
        assert f"service.web.port: port {port} of web-1/app is taken" in refused(tmp_path)
        (tmp_path / "rumor.toml").write_text(FILE + f'[balancer]\nbind = "127.0.0.1:{port}"\n')
        assert f"balancer.bind: port {port}" in refused(tmp_path)


SLOW = """
import http.server, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            print("slow request", flush=True)
            time.sleep(2.5)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


@pytest.mark.timeout(120)
def test_a_request_that_runs_is_finished_before_the_cluster_stops(tmp_path: Path, start: Callable[..., Up]) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    # A relative path: an app given by --app runs where `rumor up` was called.
    up = start(tmp_path, "--app", f"{sys.executable} slow.py {{host}} {{port}}", "--replicas", "2")
    url = up.wait_ready()
    answers: list[tuple[int, str]] = []
    client = threading.Thread(target=lambda: answers.append(get(f"{url}/slow")))
    client.start()
    logs = up.data.glob("web-*/log/app.log")
    paths = list(logs)
    wait_for(lambda: any("slow request" in path.read_text() for path in paths), lambda: up.text)
    assert up.stop() == 0, up.text
    client.join(10)
    assert answers == [(200, "ok")]


@pytest.mark.timeout(120)
def test_a_closed_terminal_ends_the_cluster_in_order(tmp_path: Path, start: Callable[..., Up]) -> None:
    up = start(tmp_path, "--app", APP)
    up.wait_ready()
    processes = up.processes()
    up.process.send_signal(signal.SIGHUP)
    assert up.process.wait(60) == 0
    nothing_is_left(up, processes)


@pytest.mark.timeout(120)
def test_what_set_says_reaches_every_agent_and_secrets_reach_no_command_line(
    tmp_path: Path, start: Callable[..., Up]
) -> None:
    key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    up = start(tmp_path, "--app", APP, "--set", f"cluster.key={key}", "--set", "balancer.maxconn=77")
    up.wait_ready()
    assert json.loads(rumor(tmp_path, "info", "-format=json", "--node", "web-1"))["serf"]["encrypted"] == "true"
    assert "maxconn 77" in rumor(tmp_path, "config", "show")
    for process in up.processes().values():
        assert key not in Path(f"/proc/{process.pid}/cmdline").read_text()
    assert up.stop() == 0, up.text


@pytest.mark.timeout(120)
def test_a_refused_second_up_leaves_the_firsts_file_alone(tmp_path: Path, start: Callable[..., Up]) -> None:
    up = start(tmp_path, "--app", APP, "--replicas", "2")
    up.wait_ready()
    before = (up.data / "app.toml").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "rumor", "up", "--app", "sleep 99"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is run by process" in done.stderr
    assert (up.data / "app.toml").read_text() == before
    assert "replicas = 2" in before


def test_an_app_that_cannot_start_is_told_at_once_with_its_words(tmp_path: Path, start: Callable[..., Up]) -> None:
    up = start(tmp_path, "--app", f"{sys.executable} no-such-file.py {{port}}")
    wait_for(lambda: "web-1-app ended with status 2, and is tried again" in up.text, lambda: up.text, 20)
    assert "No such file or directory" in up.text
    up.stop()


@pytest.mark.timeout(120)
def test_a_bad_part_is_set_aside_and_an_operator_goes_back_and_forth(tmp_path: Path, start: Callable[..., Up]) -> None:
    def write(header: str, raw: str = "") -> None:
        line = f"http-response set-header X-Edition {header}\n{raw}"
        (tmp_path / "rumor.toml").write_text(f"{FILE}\n[service.web.raw]\nbackend = '''\n{line}'''\n")

    def edition() -> str | None:
        with urllib.request.urlopen(url, timeout=5) as response:
            return cast("str | None", response.headers["X-Edition"])

    def reread() -> str:
        client = AgentApi(socket_path=places(tmp_path / ".rumor", "balancer").agent_socket)
        return str(client.post("/v1/reload")["text"])

    write("first")
    url = start(tmp_path).wait_ready()
    assert edition() == "first"
    write("second")
    reread()
    wait_for(lambda: edition() == "second", lambda: rumor(tmp_path, "config", "history"))
    write("third", "no-such-word\n")
    assert "web stays as it was: " in reread()
    assert "unknown keyword 'no-such-word'" in rumor(tmp_path, "table")
    # Its servers still come and go.
    rumor(tmp_path, "drain", "web-1")
    wait_for(lambda: {json.loads(get(url)[1])["tag"] for _ in range(6)} == {"web-2"}, lambda: rumor(tmp_path, "table"))
    assert edition() == "second"
    rumor(tmp_path, "ready", "web-1")
    write("fourth")
    reread()
    wait_for(lambda: edition() == "fourth", lambda: rumor(tmp_path, "config", "history"))

    assert "pinned to revision" in rumor(tmp_path, "config", "rollback")
    wait_for(lambda: edition() == "second", lambda: rumor(tmp_path, "config", "history"))
    os.kill(status_pid(tmp_path), signal.SIGKILL)
    wait_for(lambda: is_answering(tmp_path), lambda: "the agent is back")
    write("fifth")
    assert "stays pinned to" in reread()
    for words in (("table",), ("config", "history"), ("why", "web-1")):
        assert "the configuration is pinned to" in rumor(tmp_path, *words), words
    (notice,) = health(tmp_path)["notices"]
    assert re.match(r"the configuration is pinned to revision [0-9a-f]{12} since .*`rumor config release`", notice)
    assert "pinned to revision" in rumor(tmp_path, "doctor")
    assert edition() == "second"
    assert "released from revision" in rumor(tmp_path, "config", "release")
    wait_for(lambda: edition() == "fifth", lambda: rumor(tmp_path, "config", "history"))
    assert health(tmp_path)["notices"] == []
