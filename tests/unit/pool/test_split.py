"""Weights by version."""

from rumor.model import Rotation, Server
from rumor.names import HostPort, MemberName
from rumor.pool.split import split


def server(name: str, version: str, weight: int = 100, rotation: Rotation = Rotation.READY) -> Server:
    return Server(MemberName(name), HostPort("10.0.0.1", 1), weight, rotation, version)


def shares(*servers: Server, **wanted: int) -> dict[str, int]:
    return {one.name: one.weight for one in split(servers, wanted)}


def test_without_shares_nothing_changes() -> None:
    one = server("a", "x", 7)
    assert split([one], {}) == (one,)


def test_a_versions_share_does_not_depend_on_how_many_serve_it() -> None:
    found = shares(server("a", "x"), server("b", "x"), server("c", "y"), x=50, y=50)
    assert found["a"] + found["b"] == found["c"] == 256


def test_within_a_version_the_weights_keep_their_relation() -> None:
    found = shares(server("a", "x", 30), server("b", "x", 10), server("c", "y"), x=80, y=20)
    assert found["a"] == 3 * found["b"] or abs(found["a"] - 3 * found["b"]) <= 2
    assert abs((found["a"] + found["b"]) / found["c"] - 4) < 0.05


def test_a_share_is_never_rounded_to_nothing_and_no_share_is_nothing() -> None:
    assert shares(server("a", "x"), server("b", "y"), server("c", "z"), x=100_000, y=1, z=0) == {
        "a": 256,
        "b": 1,
        "c": 0,
    }


def test_a_version_without_a_server_leaves_its_share_to_the_others() -> None:
    down = server("b", "y", rotation=Rotation.DRAIN)
    found = split([server("a", "x"), down], {"x": 1, "y": 99})
    assert found[0].weight == 256
    assert found[0].evidence[-1].says == "version x gets 100 %"


def test_nobody_with_a_share_lets_the_weights_alone_decide() -> None:
    found = split([server("a", "z", 10), server("b", "", 20)], {"x": 1})
    assert [one.weight for one in found] == [10, 20]
    assert "no version with a share" in found[0].evidence[-1].says
