"""One node's agent as a process: joins in any order, says what it finds, drains, leaves, ends with 0."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rumor.api_client import AgentApi
from rumor.errors import RumorError
from rumor.places import places

FILE = """
[balancer]
bind = "127.0.0.1:{http}"

[service.web]
port = {app}
check = {{ http = "/", interval = "200ms", timeout = "200ms" }}
drain = "3s"
"""


class Cluster:
    """Agents, an app and a HAProxy that this test started, each by its pid."""

    def __init__(self, directory: Path, free_port: Callable[[], int], haproxy: Path) -> None:
        self.directory = directory
        self.data = directory / "d"
        self.haproxy = haproxy
        self.free_port = free_port
        self.http, self.app = free_port(), free_port()
        self.gossip = {name: free_port() for name in ("balancer", "web-1", "web-2")}
        (directory / "rumor.toml").write_text(FILE.format(http=self.http, app=self.app))
        self.processes: list[subprocess.Popen[str]] = []

    def agent(self, part: str, node: str, *words: str) -> subprocess.Popen[str]:
        joins = [f"--join=127.0.0.1:{port}" for name, port in self.gossip.items() if name != node]
        return self._start(
            sys.executable, "-m", "rumor", "agent", part, "--file", str(self.directory / "rumor.toml"),
            "--data", str(self.data), "--node", node, "--bind", f"127.0.0.1:{self.gossip[node]}", "--preset", "local",
            *joins, *words,
        )  # fmt: skip

    def start_app(self) -> subprocess.Popen[str]:
        return self._start(sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(self.app))

    def start_haproxy(self) -> subprocess.Popen[str]:
        place = places(self.data, "balancer")
        wait_for(place.haproxy_config.exists, "haproxy.cfg")
        return self._start(
            str(self.haproxy), "-W", "-S", f"{place.master_socket},mode,600", "-f", str(place.haproxy_config)
        )

    def _start(self, *command: str) -> subprocess.Popen[str]:
        log = (self.directory / f"{len(self.processes)}.log").open("w")
        with log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, cwd=self.directory
            )
        self.processes.append(process)
        return process

    def ask(self, path: str, node: str = "balancer") -> dict[str, Any]:
        return AgentApi(socket_path=places(self.data, node).agent_socket).get(path)

    def server_states(self) -> dict[str, str]:
        with contextlib.suppress(RumorError):
            table = self.ask("/v1/table")
            return {server["name"]: server["state"] for service in table["services"] for server in service["servers"]}
        return {}

    def statuses(self, node: str) -> dict[str, str]:
        with contextlib.suppress(RumorError):
            return {member["name"]: member["status"] for member in self.ask("/v1/members", node)["members"]}
        return {}

    def ask_ready(self, node: str) -> bool:
        with contextlib.suppress(RumorError):
            return bool(self.ask("/v1/status", node)["ready"])
        return False

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("*.log")))

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def wait_for(holds: Callable[[], bool], what: str, deadline: float = 20.0) -> None:
    end = time.monotonic() + deadline
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {deadline:g} s"
        time.sleep(0.02)


@pytest.fixture
def cluster(free_port: Callable[[], int], haproxy_program: Path) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ru") as directory:
        cluster = Cluster(Path(directory), free_port, haproxy_program)
        try:
            yield cluster
        finally:
            cluster.end()


def test_a_web_node_may_start_before_anybody_else(cluster: Cluster) -> None:
    cluster.agent("web", "web-1")
    wait_for(lambda: cluster.statuses("web-1") == {"web-1": "alive"}, "web-1 alone")
    cluster.agent("balancer", "balancer")
    cluster.start_haproxy()
    wait_for(lambda: cluster.server_states() == {"web-1": "drain"}, f"web-1 is starting\n{cluster.logs()}")
    cluster.start_app()
    wait_for(lambda: cluster.server_states() == {"web-1": "ready"}, "web-1 is ready")


def test_sigterm_drains_leaves_and_ends_with_0(cluster: Cluster) -> None:
    cluster.start_app()
    cluster.agent("balancer", "balancer")
    cluster.start_haproxy()
    web = cluster.agent("web", "web-1")
    wait_for(lambda: cluster.server_states() == {"web-1": "ready"}, "web-1 is ready")
    web.send_signal(signal.SIGTERM)
    assert web.wait(20) == 0
    wait_for(lambda: cluster.statuses("balancer").get("web-1") == "left", "the balancer sees that web-1 has left")
    wait_for(lambda: cluster.server_states() == {}, "web-1 is out of the table")
    kinds = [record["kind"] for record in cluster.ask("/v1/journal?limit=100")["records"]]
    assert {"server_ready", "server_drain", "server_removed", "member_left"} <= set(kinds)
    # The balancer said that no session was left, long before the drain time was over.
    assert "drained services=web" in cluster.logs()
    assert "drain_deadline" not in cluster.logs()


class SlowApp(BaseHTTPRequestHandler):
    """Answers at once, but `/slow` only when it is let go."""

    let_go = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.let_go.wait(60)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def slow_app(cluster: Cluster) -> Iterator[threading.Event]:
    SlowApp.let_go.clear()
    server = ThreadingHTTPServer(("127.0.0.1", cluster.app), SlowApp)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SlowApp.let_go
    SlowApp.let_go.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("drain", ["30s", "1s"])
def test_a_node_leaves_when_the_balancer_holds_no_session_or_its_time_is_over(
    cluster: Cluster, slow_app: threading.Event, drain: str
) -> None:
    cluster.agent("balancer", "balancer", "--set", f"service.web.drain={drain}")
    cluster.start_haproxy()
    web = cluster.agent("web", "web-1", "--set", f"service.web.drain={drain}")
    wait_for(lambda: cluster.server_states() == {"web-1": "ready"}, "web-1 is ready")
    answers: list[bytes] = []

    def ask(path: str) -> bool:
        url = f"http://127.0.0.1:{cluster.http}{path}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:
            answers.append(answer.read())
            return True
        return False

    wait_for(lambda: ask("/"), "HAProxy serves")
    client = threading.Thread(target=ask, args=("/slow",), daemon=True)
    client.start()
    wait_for(lambda: _sessions(cluster) == 1, "the request runs")
    web.send_signal(signal.SIGTERM)
    if drain == "1s":
        assert web.wait(20) == 0
        wait_for(lambda: "balancer holds 1 session of web" in cluster.logs(), "it says whom it did not wait for")
        return
    wait_for(lambda: cluster.server_states() == {"web-1": "drain"}, "web-1 is drained")
    assert web.poll() is None
    slow_app.set()
    assert web.wait(20) == 0
    client.join(10)
    assert answers == [b"ok", b"ok"]
    assert "drained services=web" in cluster.logs()
    assert "drain_deadline" not in cluster.logs()


def _sessions(cluster: Cluster) -> int:
    table = cluster.ask("/v1/table")
    servers = [server for service in table["services"] for server in service["servers"]]
    return sum(int((server["haproxy"] or {}).get("sessions", 0)) for server in servers)


def test_an_app_that_stops_answering_is_drained_and_comes_back(cluster: Cluster) -> None:
    app = cluster.start_app()
    cluster.agent("balancer", "balancer")
    cluster.start_haproxy()
    cluster.agent("web", "web-1")
    wait_for(lambda: cluster.server_states() == {"web-1": "ready"}, "web-1 is ready")
    app.kill()
    wait_for(lambda: cluster.server_states() == {"web-1": "drain"}, "web-1 says down")
    cluster.start_app()
    wait_for(lambda: cluster.server_states() == {"web-1": "ready"}, "web-1 is ready again")


def test_a_restarted_agent_rejoins_from_its_snapshot_alone(cluster: Cluster) -> None:
    first = cluster.agent("web", "web-1")
    cluster.agent("web", "web-2")
    wait_for(lambda: len(cluster.statuses("web-1")) == 2, "web-1 and web-2 have met")
    first.kill()
    first.wait(10)
    file, data = str(cluster.directory / "rumor.toml"), str(cluster.data)
    cluster._start(
        sys.executable, "-m", "rumor", "agent", "web", "--file", file, "--data", data, "--node", "web-1",
        "--bind", f"127.0.0.1:{cluster.gossip['web-1']}", "--preset", "local",
    )  # fmt: skip
    wait_for(lambda: cluster.statuses("web-1") == {"web-1": "alive", "web-2": "alive"}, "web-1 is back")
    wait_for(lambda: cluster.statuses("web-2").get("web-1") == "alive", "web-2 sees web-1 again")


def test_two_agents_of_one_node_are_refused(cluster: Cluster) -> None:
    cluster.agent("web", "web-1")
    wait_for(lambda: bool(cluster.statuses("web-1")), "web-1 answers")
    cluster.gossip["web-1"] = cluster.free_port()
    assert cluster.agent("web", "web-1").wait(20) == 2
    assert "another agent runs in" in cluster.logs()
    assert "Traceback" not in cluster.logs()


def test_a_reload_brings_a_changed_file_and_refuses_a_broken_one(cluster: Cluster) -> None:
    balancer = cluster.agent("balancer", "balancer")
    cluster.start_haproxy()
    wait_for(lambda: not _is_missing(cluster), "HAProxy is steered")
    worker = cluster.ask("/v1/status")["haproxy"]["worker_pid"]
    file = cluster.directory / "rumor.toml"
    good = file.read_text()
    file.write_text(good.replace("[service.web]", "[service.wbe]\nprot = 1\n[service.web]"))
    balancer.send_signal(signal.SIGHUP)
    wait_for(lambda: "reload_refused" in cluster.logs(), "the broken file is refused")
    file.write_text(good + 'balance = "roundrobin"\n')
    balancer.send_signal(signal.SIGHUP)
    wait_for(lambda: "balance roundrobin" in _running_text(cluster), "the new file is rendered")
    wait_for(lambda: cluster.ask("/v1/status")["haproxy"]["worker_pid"] != worker, "HAProxy has reloaded")
    assert balancer.poll() is None


def test_a_service_that_a_reload_brought_is_served(cluster: Cluster) -> None:
    balancer = cluster.agent("balancer", "balancer")
    cluster.start_haproxy()
    wait_for(lambda: not _is_missing(cluster), "HAProxy is steered")
    file = cluster.directory / "rumor.toml"
    file.write_text(file.read_text() + f'[service.shop]\nport = {cluster.app}\nroute = {{ path = "/shop" }}\n')
    balancer.send_signal(signal.SIGHUP)
    wait_for(lambda: "reloaded" in cluster.logs(), "the file is read again")
    cluster.start_app()
    cluster.agent("shop", "web-1")
    wait_for(
        lambda: cluster.server_states() == {"web-1": "ready"}, f"the new service's server is ready\n{cluster.logs()}"
    )
    services = {service["name"]: service for service in cluster.ask("/v1/table")["services"]}
    assert services["shop"]["routes"] == ["*/shop"]
    assert balancer.poll() is None


def test_a_node_without_a_balancer_stays_small(cluster: Cluster) -> None:
    web = cluster.agent("web", "web-1")
    cluster.start_app()
    wait_for(lambda: cluster.ask_ready("web-1"), "web-1 is ready")
    pages = int(Path(f"/proc/{web.pid}/statm").read_text().split()[1])
    assert pages * os.sysconf("SC_PAGE_SIZE") < 50 * 1024 * 1024


def _is_missing(cluster: Cluster) -> bool:
    with contextlib.suppress(RumorError):
        return not cluster.ask("/v1/status")["haproxy"]["converged"]
    return True


def _running_text(cluster: Cluster) -> str:
    with contextlib.suppress(RumorError):
        revision = cluster.ask("/v1/status")["haproxy"]["revision"]
        return str(cluster.ask(f"/v1/config/revisions/{revision}")["text"]) if revision else ""
    return ""
