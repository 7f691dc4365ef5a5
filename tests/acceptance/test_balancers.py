"""Two balancers as processes, each with a HAProxy of its own: they find each other, share, take certificates, damp."""

import contextlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from tests.certificates import certificate
from tests.integration.test_agent import Cluster, wait_for

from rumor.places import places

FILE = """
[balancer]
bind = "127.0.0.1:{http}"
tls = {{ bind = "127.0.0.1:{https}", certificates = "mine" }}
peers = "127.0.0.1:{peers}"

[service.web]
check = {{ http = "/", interval = "100ms", timeout = "500ms", rise = 1, fall = 1 }}
rate_limit = {{ requests = 10000, per = "10s" }}
drain = "1s"
"""


class App(BaseHTTPRequestHandler):
    is_well = True

    def do_GET(self) -> None:
        self.send_response(200 if self.is_well else 500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class First(App):
    """The app of the first node."""


class Balancers(Cluster):
    """Two balancers, two web nodes; the first app can be made unwell."""

    def __init__(self, directory: Path, free_port: Callable[[], int], haproxy: Path) -> None:
        super().__init__(directory, free_port, haproxy)
        self.gossip = {name: free_port() for name in ("lb-1", "lb-2", "web-1", "web-2")}
        self.https = {"lb-1": free_port(), "lb-2": free_port()}
        (directory / "mine").mkdir()
        for node, https in self.https.items():
            text = FILE.format(http=free_port(), https=https, peers=free_port())
            (directory / f"{node}.toml").write_text(text)
            (directory / "rumor.toml").write_text(text)
        self.apps = [ThreadingHTTPServer(("127.0.0.1", 0), app) for app in (First, App)]
        for app in self.apps:
            threading.Thread(target=app.serve_forever, daemon=True).start()

    def start(self) -> None:
        for node in self.https:
            self.agent("balancer", node, "--file", str(self.directory / f"{node}.toml"))
            config = places(self.data, node).haproxy_config
            wait_for(config.exists, f"the configuration of {node}\n{self.logs()}")
            self._start(
                str(self.haproxy), "-W", "-S", f"{places(self.data, node).master_socket},mode,600", "-f", str(config)
            )
        for number, app in enumerate(self.apps, start=1):
            self.agent("web", f"web-{number}", "--port", f"web={app.server_port}")

    def offer(self, node: str) -> str:
        """Return what a node says of its app, as lb-1 has heard it."""
        members = self.ask("/v1/members", "lb-1")["members"]
        tags = next(member["tags"] for member in members if member["name"] == node)
        return str(tags["service:web"]).partition("state=")[2].partition(";")[0] or "ready"

    def states(self, node: str) -> dict[str, str]:
        servers = [server for service in self.ask("/v1/table", node)["services"] for server in service["servers"]]
        return {server["name"]: server["state"] for server in servers}

    def kinds(self, node: str) -> list[str]:
        return [record["kind"] for record in self.ask("/v1/journal?limit=1000", node)["records"]]

    def converged(self, node: str) -> bool:
        haproxy = self.ask("/v1/status", node)["haproxy"]
        return bool(haproxy and haproxy["converged"])

    def worker(self, node: str) -> int:
        return int(self.ask("/v1/status", node)["haproxy"]["worker_pid"])

    def serial(self, node: str) -> int:
        with contextlib.suppress(OSError):
            pem = ssl.get_server_certificate(("127.0.0.1", self.https[node]), timeout=5)
            return x509.load_pem_x509_certificate(pem.encode()).serial_number
        return 0

    def end(self) -> None:
        super().end()
        for app in self.apps:
            app.shutdown()
            app.server_close()


@pytest.fixture
def cluster(free_port: Callable[[], int], haproxy_program: Path) -> Iterator[Balancers]:
    with tempfile.TemporaryDirectory(prefix="ru") as directory:
        cluster = Balancers(Path(directory), free_port, haproxy_program)
        try:
            yield cluster
        finally:
            cluster.end()


def say(socket_path: Path, words: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(socket_path))
        client.sendall(f"{words}\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


@pytest.mark.timeout(120)
def test_two_balancers_share_tables_take_certificates_and_hold_a_flapping_server_back(cluster: Balancers) -> None:
    own = cluster.directory / "mine" / "a.test.pem"
    own.write_text(certificate("a.test", serial=1))
    cluster.start()
    both = ("lb-1", "lb-2")
    ready = {"web-1": "ready", "web-2": "ready"}
    for node in both:
        wait_for(lambda: cluster.states(node) == ready and cluster.converged(node), f"{node} serves\n{cluster.logs()}")  # noqa: B023
        sockets = places(cluster.data, node).run_directory / "haproxy.sock"
        wait_for(lambda: "last_status=ESTA" in say(sockets, "show peers"), f"{node} has found the other")  # noqa: B023
        wait_for(lambda: cluster.serial(node) == 1, f"{node} serves by TLS")  # noqa: B023

    workers = [cluster.worker(node) for node in both]
    own.write_text(certificate("a.test", serial=2))
    for node in both:
        wait_for(lambda: cluster.serial(node) == 2, f"{node} has the new certificate")  # noqa: B023
        wait_for(lambda: "certificate_loaded" in cluster.kinds(node), f"{node} says so")  # noqa: B023
    assert [cluster.worker(node) for node in both] == workers, "no reload was needed"

    for number in range(1, 6):
        First.is_well = False
        wait_for(lambda: cluster.states("lb-1")["web-1"] != "ready", "web-1 is out")
        First.is_well = True
        wait_for(lambda: cluster.offer("web-1") == "ready", "its app is well again")
        if number < 5:
            wait_for(lambda: cluster.states("lb-1")["web-1"] == "ready", f"web-1 is back in time {number}")
    wait_for(lambda: "held back" in why(cluster), "web-1 is held back")
    assert cluster.states("lb-1") == {"web-1": "drain", "web-2": "ready"}


def why(cluster: Balancers) -> str:
    return subprocess.run(
        [sys.executable, "-m", "rumor", "why", "web-1", "--data", str(cluster.data), "--node", "lb-1"],
        capture_output=True, text=True, timeout=30, check=False, cwd=cluster.directory,
    ).stdout  # fmt: skip
