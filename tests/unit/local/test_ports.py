"""Ports on this machine: kept from start to start, never handed out twice, never somebody else's."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rumor.errors import ConfigError
from rumor.local.ports import LOOPBACK, Ports, is_free


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ports.json"


@pytest.fixture
def ports_of() -> Iterator[Callable[[Path], Ports]]:
    made: list[Ports] = []

    def make(path: Path) -> Ports:
        made.append(Ports(path))
        return made[-1]

    yield make
    for ports in made:
        ports.release()


def test_a_port_is_kept_for_the_next_start(path: Path, ports_of: Callable[[Path], Ports]) -> None:
    first = ports_of(path)
    port = first.free("web-1/app")
    first.keep()
    first.release()
    assert ports_of(path).free("web-1/app") == port


def test_no_port_is_handed_out_twice(path: Path, ports_of: Callable[[Path], Ports]) -> None:
    ports = ports_of(path)
    assert len({ports.free(f"web-{number}/app") for number in range(50)}) == 50


def test_a_kept_port_that_somebody_took_is_given_up(path: Path, ports_of: Callable[[Path], Ports]) -> None:
    first = ports_of(path)
    port = first.free("web-1/app")
    first.keep()
    first.release()
    with socket.create_server((LOOPBACK, port)):
        assert ports_of(path).free("web-1/app") != port


def test_a_port_whose_udp_side_is_taken_is_no_gossip_port(path: Path, ports_of: Callable[[Path], Ports]) -> None:
    port = ports_of(path.with_name("other.json")).free("any", also_udp=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((LOOPBACK, port))
        assert is_free(LOOPBACK, port)
        assert not is_free(LOOPBACK, port, also_udp=True)
        assert ports_of(path).free("balancer/gossip", preferred=port, also_udp=True) != port


def test_two_that_choose_in_the_same_moment_do_not_choose_the_same(
    path: Path, tmp_path: Path, ports_of: Callable[[Path], Ports]
) -> None:
    first, second = ports_of(path), ports_of(tmp_path / "others.json")
    port = first.free("balancer/http")
    assert second.free("balancer/http", preferred=port) != port
    with pytest.raises(ConfigError, match=rf"balancer\.bind: port {port} of balancer/http is taken"):
        second.fixed("balancer/http", port, "balancer.bind")
    first.release()
    assert second.fixed("balancer/http", port, "balancer.bind") == port


def test_a_named_port_where_somebody_listens_is_an_error_that_names_the_key(
    path: Path, ports_of: Callable[[Path], Ports]
) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"service\.web\.port: port {port} of web-1/app is taken"):
            ports_of(path).fixed("web-1/app", port, "service.web.port")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"web-1/app": "x"}'])
def test_a_broken_record_counts_as_none(path: Path, text: str, ports_of: Callable[[Path], Ports]) -> None:
    path.write_text(text)
    assert ports_of(path).free("web-1/app")


def test_a_cluster_that_runs_keeps_what_its_programs_hold(path: Path, ports_of: Callable[[Path], Ports]) -> None:
    """`rumor up` has claimed them, and its programs listen there: to somebody else they are taken."""
    up = ports_of(path)
    fixed, free = up.free("web-1/app"), up.free("web-2/app")
    up.keep()
    with socket.create_server((LOOPBACK, free)):
        again = Ports(path, held=["web-1/app", "web-2/app"])
        assert again.fixed("web-1/app", fixed, "service.web.port") == fixed
        assert again.free("web-2/app") == free
        assert again.free("web-3/app") not in (fixed, free)
        again.release()
        with pytest.raises(ConfigError, match="is taken"):
            ports_of(path).fixed("web-1/app", free, "service.web.port")
