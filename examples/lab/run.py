"""The classic exercise: a balancer and web nodes in containers, started in any order, stopped and killed.

    docker/build && python examples/lab/run.py [--logs DIR]

Each scenario has a network of its own. After each step the balancer's haproxy.cfg, the members as the balancer's agent
sees them, and the containers as Docker sees them are written to DIR/SCENARIO/NN-STEP/, and the file is compared with
what must be in it: one server for each web container that runs, at that container's address, and no other. Ends with
status 1 and the difference where they do not agree within ten seconds. Standard library only; needs `docker`.
"""

import argparse
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 10.0
BALANCER = "ha"
_SERVER = re.compile(r"^\s+server (\S+) (\S+) ", re.MULTILINE)

Step = tuple[str, str, str]
"""Its name, what is done (`start`, `stop`, `kill`), and to which node."""
SCENARIOS: dict[str, list[Step]] = {
    "balancer-first": [
        ("balancer", "start", BALANCER), ("s1", "start", "s1"), ("s2", "start", "s2"), ("s3", "start", "s3"),
        ("s4", "start", "s4"), ("s1-stopped", "stop", "s1"), ("s2-killed", "kill", "s2"),
    ],
    "balancer-last": [
        ("s1", "start", "s1"), ("s2", "start", "s2"), ("balancer", "start", BALANCER), ("s3", "start", "s3"),
        ("s1-stopped", "stop", "s1"), ("s2-killed", "kill", "s2"),
    ],
}  # fmt: skip


class Mismatch(Exception):
    """What was found is not what must be."""


def docker(*words: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode != 0:
        raise SystemExit(f"error: docker {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Lab:
    """The containers of one scenario."""

    def __init__(self, name: str, logs: Path) -> None:
        self.network = f"rumor-lab-{uuid.uuid4().hex[:6]}"
        self.logs = logs / name
        self.running: list[str] = []

    def container(self, node: str) -> str:
        return f"{self.network}-{node}"

    @contextmanager
    def in_network(self) -> Iterator[None]:
        docker("network", "create", self.network)
        try:
            yield
        finally:
            left = docker("ps", "--all", "--quiet", "--filter", f"network={self.network}").split()
            stopped = docker("ps", "--all", "--quiet", "--filter", f"name={self.network}-").split()
            if left or stopped:
                docker("rm", "--force", "--volumes", *{*left, *stopped})
            docker("network", "rm", self.network)

    def do(self, deed: str, node: str) -> None:
        if deed == "start":
            docker(
                "run", "--detach", "--name", self.container(node), "--hostname", node, "--network", self.network,
                "--network-alias", node, "--env", f"RUMOR_JOIN={BALANCER}", "--env", "RUMOR_CLUSTER_PRESET=local",
                "rumor-balancer" if node == BALANCER else "rumor-webapp",
            )  # fmt: skip
            self.running.append(node)
        else:
            docker(
                *(("stop", "--time", "20") if deed == "stop" else ("kill", "--signal", "KILL")), self.container(node)
            )
            self.running.remove(node)

    def wanted(self) -> dict[str, str]:
        """Return name and address of each server that haproxy.cfg must have."""
        return {node: f"{self._address(node)}:3000" for node in self.running if node != BALANCER}

    def _address(self, node: str) -> str:
        networks = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", self.container(node)))
        return str(networks[self.network]["IPAddress"])

    def configuration(self) -> str:
        """Return haproxy.cfg as it lies in the balancer's container, empty where there is none."""
        if BALANCER not in self.running:
            return ""
        path = f"/var/lib/rumor/{BALANCER}/haproxy.cfg"
        return docker("exec", self.container(BALANCER), "cat", path, check=False)

    def members(self) -> str:
        node = BALANCER if BALANCER in self.running else self.running[0]
        return docker("exec", self.container(node), "rumor", "members", check=False)

    def settle(self) -> str:
        """Wait until haproxy.cfg is as it must be; return it."""
        end = time.monotonic() + DEADLINE
        while True:
            text = self.configuration()
            found, wanted = dict(_SERVER.findall(text)), self.wanted() if BALANCER in self.running else {}
            if found == wanted:
                return text
            if time.monotonic() > end:
                raise Mismatch(f"haproxy.cfg has {found}, and must have {wanted}")
            time.sleep(0.1)

    def write(self, number: int, step: str, text: str) -> None:
        directory = self.logs / f"{number:02}-{step}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "haproxy.cfg").write_text(text)
        (directory / "members.txt").write_text(self.members())
        form = "table {{.Names}}\t{{.Image}}\t{{.Status}}"
        (directory / "containers.txt").write_text(
            docker("ps", "--all", "--filter", f"name={self.network}-", "--format", form)
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="The classic exercise, start to end.")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="where the files go (./logs)")
    options = parser.parse_args()
    for name, steps in SCENARIOS.items():
        lab = Lab(name, options.logs)
        with lab.in_network():
            for number, (step, deed, node) in enumerate(steps, start=1):
                began = time.monotonic()
                lab.do(deed, node)
                try:
                    text = lab.settle()
                except Mismatch as error:
                    lab.write(number, step, lab.configuration())
                    print(f"{name} {number:02}-{step}: {error}", file=sys.stderr)
                    return 1
                lab.write(number, step, text)
                servers = ", ".join(sorted(lab.wanted())) if BALANCER in lab.running else "no balancer yet"
                print(
                    f"{name} {number:02}-{step}: {servers or 'nobody'} ({time.monotonic() - began:.1f} s)", flush=True
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
