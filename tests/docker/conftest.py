"""A Docker engine, rumor's images in it, and what tests ask of containers.

An engine that runs is used; where none does, root gets one of its own for these tests. No image is pulled: Debian is
made by debootstrap where it is missing.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import require_program

ROOT = Path(__file__).parents[2]
DEBIAN = "debian:bookworm-slim"
_PLACES = {"test_lab.py": -2, "test_the_order_of_starting": -1, "test_compose.py": 1}
START_DEADLINE = 60.0
COMMAND_DEADLINE = 120.0


@dataclass(frozen=True, slots=True)
class Engine:
    """The docker command, and the environment that leads it to its engine."""

    environment: Mapping[str, str]

    def run(
        self, *words: str, check: bool = True, deadline: float = COMMAND_DEADLINE, both: bool = False, **more: str
    ) -> str:
        """Run a command, `docker` unless it is another; return what it printed on stdout, or on both."""
        command = words if words[0] in ("docker-compose", "sh") else ("docker", *words)
        done = subprocess.run(
            command, env={**os.environ, **self.environment, **more}, capture_output=True, text=True,
            timeout=deadline, check=False, cwd=ROOT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return (done.stdout + done.stderr if both else done.stdout).strip()


def wait_for(holds: Callable[[], bool], what: Callable[[], str], deadline: float = 60.0) -> float:
    """Return how long it took, in seconds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < deadline, f"not within {deadline:g} s: {what()}"
        time.sleep(0.05)
    return time.monotonic() - began


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Those that wait come first, and the one under load last, when nothing else runs: see the Makefile.
    items.sort(key=lambda item: next((place for part, place in _PLACES.items() if part in item.nodeid), 0))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    require_program("docker", "docker.io")
    known = Engine({})
    if _answers(known):
        yield known
        return
    program = require_program("dockerd", "docker.io")
    if os.geteuid() != 0:
        pytest.skip("no Docker engine runs, and only root can start one")
    directory = Path(tempfile.mkdtemp(prefix="rumor-docker-"))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "--data-root", directory / "data", "--exec-root", directory / "exec",
             "--host", f"unix://{directory}/sock", "--pidfile", directory / "pid",
             # Every container gets a network of its test's own. The bridge they would share by default is one for the
             # whole machine, and another engine that starts or ends takes it away.
             "--bridge", "none"],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    own = Engine({"DOCKER_HOST": f"unix://{directory}/sock"})
    try:
        wait_for(
            lambda: _answers(own) or process.poll() is not None, (directory / "log").read_text, deadline=START_DEADLINE
        )
        assert process.poll() is None, (directory / "log").read_text()
        yield own
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        for namespace in (directory / "exec" / "netns").glob("*"):
            # A build through the host's network leaves its namespace mounted.
            subprocess.run(["umount", namespace], check=False, timeout=10)
        shutil.rmtree(directory, ignore_errors=True)


def _answers(engine: Engine) -> bool:
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        engine.run("version", deadline=10)
        return True
    return False


@pytest.fixture(scope="session")
def images(engine: Engine) -> Engine:
    """The engine, with rumor's images built from this tree."""
    if not engine.run("image", "ls", "--quiet", DEBIAN):
        _make_debian(engine)
    engine.run("sh", "docker/build", PYTHON=sys.executable, NETWORK="host", deadline=600)
    return engine


Start = Callable[..., str]


@contextlib.contextmanager
def containers(engine: Engine) -> Iterator[Start]:
    """Start containers: `start(IMAGE, WORD..., name=NAME)`, which returns the name. All are gone afterwards."""
    started: list[str] = []

    def run(image: str, *words: str, name: str = "") -> str:
        name = name or f"rumor-{uuid.uuid4().hex[:8]}"
        # Before it runs: one that fails half-way is left behind by Docker.
        started.append(name)
        engine.run("run", "--detach", "--name", name, *words, image)
        return name

    try:
        yield run
    finally:
        if started:
            engine.run("rm", "--force", "--volumes", *started, check=False)


@contextlib.contextmanager
def networks(engine: Engine) -> Iterator[Callable[..., str]]:
    """Make networks: `make(WORD...)`, which returns the name. All are gone afterwards."""
    made: list[str] = []

    def make(*words: str) -> str:
        made.append(f"rumor-{uuid.uuid4().hex[:8]}")
        engine.run("network", "create", *words, made[-1])
        return made[-1]

    try:
        yield make
    finally:
        for name in made:
            engine.run("network", "rm", name, check=False)


@pytest.fixture
def network(images: Engine) -> Iterator[Callable[..., str]]:
    with networks(images) as make:
        yield make


@pytest.fixture
def start(images: Engine, network: Callable[..., str]) -> Iterator[Start]:
    # After the networks, so that it is undone before them: a network goes only once nothing hangs on it.
    with containers(images) as run:
        yield run


def _make_debian(engine: Engine) -> None:
    """Import the Debian that `make test` has made meanwhile, or make one now."""
    require_program("debootstrap", "debootstrap")
    with tempfile.TemporaryDirectory(prefix="rumor-debian-") as directory:
        made = Path(os.environ.get("RUMOR_DEBIAN") or directory + "/debian.tar").absolute()
        engine.run("sh", "scripts/debian-image", str(made), deadline=600)
        engine.run("import", str(made), DEBIAN, deadline=300)
