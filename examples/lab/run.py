"""The classic exercise: a balancer and web nodes in containers, started in any order, stopped and killed.

    docker/build && python examples/lab/run.py [--logs DIR]

Each scenario has a network of its own; the scenarios run side by side. After each step DIR/SCENARIO/NN-STEP/ holds the
balancer's haproxy.cfg, the members as an agent sees them, and the containers as Docker sees them, and the three are
compared: each container that runs is an alive member at its address, one that was stopped has left, one that was killed
has failed, nobody else is there, and haproxy.cfg has one server for each alive member that offers `web`, and no other.
Ends with status 1 and the difference where they do not agree in time. Standard library only; needs `docker`.
"""

import argparse
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 60.0
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
        raise Mismatch(f"docker {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Lab:
    """The containers of one scenario."""

    def __init__(self, name: str, logs: Path) -> None:
        self.network = f"rumor-lab-{uuid.uuid4().hex[:6]}"
        self.logs = logs / name
        self.statuses: dict[str, str] = {}
        """By node: what a member of it must be."""
        self.addresses: dict[str, str] = {}

    def container(self, node: str) -> str:
        return f"{self.network}-{node}"

    @property
    def running(self) -> list[str]:
        return [node for node, status in self.statuses.items() if status == "alive"]

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
        container = self.container(node)
        if deed == "start":
            docker(
                "run", "--detach", "--name", container, "--hostname", node, "--network", self.network,
                "--network-alias", node, "--env", f"RUMOR_JOIN={BALANCER},s1", "--env", "RUMOR_CLUSTER_PRESET=local",
                "rumor-balancer" if node == BALANCER else "rumor-webapp",
            )  # fmt: skip
            networks = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))
            self.addresses[node] = str(networks[self.network]["IPAddress"])
            self.statuses[node] = "alive"
        elif deed == "stop":
            docker("stop", container)
            self.statuses[node] = "left"
        else:
            docker("kill", "--signal", "KILL", container)
            self.statuses[node] = "failed"

    # --- what there is, as its own owner says it

    def configuration(self) -> str:
        """Return haproxy.cfg as it lies in the balancer's container, empty where there is none."""
        if BALANCER not in self.running:
            return ""
        path = f"/var/lib/rumor/{BALANCER}/haproxy.cfg"
        return docker("exec", self.container(BALANCER), "cat", path, check=False)

    def members(self, *words: str) -> str:
        """Return what an agent prints of the members; an error's text may be among it."""
        node = BALANCER if BALANCER in self.running else self.running[0]
        return docker("exec", self.container(node), "rumor", "members", *words, check=False)

    def containers(self) -> str:
        form = "table {{.Names}}\t{{.Image}}\t{{.Status}}"
        return docker("ps", "--all", "--filter", f"name={self.network}-", "--format", form)

    # --- what there must be

    def compare(self) -> str:
        """Return how they differ from one another and from what was done; empty if they agree."""
        up = {line.split()[0] for line in self.containers().splitlines()[1:] if " Up " in f" {line} "}
        if up != {self.container(node) for node in self.running}:
            return f"Docker runs {sorted(up)}, and must run {self.running}"
        try:
            members = json.loads(self.members("--format", "json"))["members"]
        except (ValueError, KeyError):
            return "the agent does not answer"
        found = {member["name"]: (member["status"], member["addr"].rpartition(":")[0]) for member in members}
        wanted = {node: (status, self.addresses[node]) for node, status in self.statuses.items()}
        if found != wanted:
            return f"members are {found}, and must be {wanted}"
        if BALANCER not in self.running:
            return ""
        offered = {
            member["name"]: f"{member['addr'].rpartition(':')[0]}:{member['tags']['service:web'].partition(';')[0]}"
            for member in members
            if member["status"] == "alive" and "service:web" in member["tags"]
        }
        servers = dict(_SERVER.findall(self.configuration()))
        if servers != offered or set(offered) != {node for node in self.running if node != BALANCER}:
            return f"haproxy.cfg has {servers}, and must have {offered}, for the members that are alive"
        return ""

    def settle(self, deadline: float = DEADLINE) -> None:
        """Wait until all agree.

        Raises:
            Mismatch: they do not in time.
        """
        end = time.monotonic() + deadline
        while difference := self.compare():
            if time.monotonic() > end:
                raise Mismatch(difference)
            time.sleep(0.1)

    def write(self, number: int, step: str) -> None:
        directory = self.logs / f"{number:02}-{step}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "haproxy.cfg").write_text(self.configuration())
        (directory / "members.txt").write_text(self.members())
        (directory / "containers.txt").write_text(self.containers())


def run(name: str, logs: Path) -> bool:
    """Run one scenario; say whether every step ended as it must."""
    lab = Lab(name, logs)
    with lab.in_network():
        for number, (step, deed, node) in enumerate(SCENARIOS[name], start=1):
            began = time.monotonic()
            try:
                lab.do(deed, node)
                lab.settle()
            except Mismatch as error:
                lab.write(number, step)
                print(f"{name} {number:02}-{step}: {error}", file=sys.stderr, flush=True)
                return False
            lab.write(number, step)
            took = time.monotonic() - began
            print(f"{name} {number:02}-{step}: {', '.join(sorted(lab.running))} ({took:.1f} s)", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="The classic exercise, start to end.")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="where the files go (./logs)")
    options = parser.parse_args()
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        ended = list(pool.map(run, SCENARIOS, [options.logs] * len(SCENARIOS)))
    return 0 if all(ended) else 1


if __name__ == "__main__":
    sys.exit(main())
