"""What every test may ask for: free ports on loopback, and the programs rumor works beside."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from rumor.errors import ConfigError
from rumor.local.ports import is_free
from rumor.render.publish import HaproxyProgram, find_haproxy

# Examples are judged by what they do, not by how long a busy machine takes for one.
settings.register_profile("rumor", deadline=None)
settings.load_profile("rumor")


def tested_haproxy() -> HaproxyProgram:
    """Return the HAProxy the tests run: RUMOR_HAPROXY, else the wheel's.

    Never one that happens to be on PATH: another machine would test another HAProxy.
    """
    return find_haproxy({"RUMOR_HAPROXY": os.environ.get("RUMOR_HAPROXY", ""), "PATH": os.devnull})


def pytest_report_header() -> str:
    try:
        haproxy = tested_haproxy()
    except ConfigError as error:
        return f"haproxy: {error}"
    return f"haproxy: {haproxy.version}, {haproxy.path}"


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
    return tested_haproxy().path


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return a function that names a port nobody has at 127.0.0.1 right now, TCP or UDP, and never the same twice.

    Below the range that outgoing connections get theirs from: one of those could take it before it is used.
    """
    named: set[int] = set()

    def pick() -> int:
        while True:
            port = random.randrange(20_000, 32_000)
            if port not in named and is_free("127.0.0.1", port, also_udp=True):
                named.add(port)
                return port

    return pick
