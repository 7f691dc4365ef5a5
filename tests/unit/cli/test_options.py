"""Which agent a command asks where nobody has said."""

import socket
from pathlib import Path

import pytest

from rumor.cli.options import agent_api
from rumor.errors import RumorError
from rumor.places import places

OWN = socket.gethostname().partition(".")[0]


def asked(data: Path, *nodes: str, node: str | None = None) -> str:
    for name in nodes:
        sockets = places(data, name).agent_socket
        sockets.parent.mkdir(parents=True, exist_ok=True)
        sockets.touch()
        (data / name).mkdir(parents=True, exist_ok=True)
    return Path(str(agent_api(data, node, None, None).socket_path)).parent.name


def test_it_is_the_balancers(tmp_path: Path) -> None:
    assert asked(tmp_path / "d", "balancer", "web-1", OWN) == "balancer"


def test_without_a_balancer_it_is_the_one_there_is(tmp_path: Path) -> None:
    assert asked(tmp_path / "d", "web-1") == "web-1"


def test_of_several_it_is_this_hosts_own(tmp_path: Path) -> None:
    """A container that was made anew finds its predecessor's directory in its volume."""
    assert asked(tmp_path / "d", "0123456789ab", OWN) == OWN


def test_of_several_strangers_none_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(RumorError, match="no agent of a balancer runs"):
        asked(tmp_path / "d", "web-1", "web-2")


def test_the_one_that_was_named_is_meant(tmp_path: Path) -> None:
    assert asked(tmp_path / "d", "balancer", "web-1", node="web-1") == "web-1"
