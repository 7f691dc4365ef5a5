"""Which addresses are new in a configuration, however they are written, and what cannot be tried."""

from pathlib import Path

import pytest

from rumor.haproxy.binds import new_binds, places_of, untested_binds
from rumor.names import Endpoint

LOCAL = Endpoint("127.0.0.1", 1)


def config(*binds: str) -> str:
    return "frontend rumor\n" + "".join(f"    bind {bind}\n" for bind in binds)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ((), (":80",), (Endpoint("", 80),)),
        ((":80",), (":80",), ()),
        ((":80",), (":80 ssl", "[::1]:81"), (Endpoint("::1", 81),)),
        (("10.0.0.1:80",), ("10.0.0.2:80",), (Endpoint("10.0.0.2", 80),)),
        (("10.0.0.1:80",), (":80",), ()),  # the running HAProxy holds a part of it, and hands it on
        ((":80",), ("10.0.0.1:80",), ()),
        ((":80",), (":81", ":81"), (Endpoint("", 81),)),
        ((), ("*:80", "10.0.0.1:1,10.0.0.1:2"), (Endpoint("", 80), Endpoint("10.0.0.1", 1), Endpoint("10.0.0.1", 2))),
        ((), ("unix@/run/x", "fd@3", "/run/x", "abns@x"), (Path("/run/x"),)),
        (("/run/x",), ("unix@/run/x", "/run/y"), (Path("/run/y"),)),
        ((), ("ipv4@127.0.0.1:1", "ipv6@::1:5", "[::1]:6"), (LOCAL, Endpoint("::1", 5), Endpoint("::1", 6))),
        ((), ("ipv4@*:7", "ipv6@:8", "ipv6@*:9"), (Endpoint("", 7), Endpoint("::", 8), Endpoint("::", 9))),
        ((), ('"127.0.0.1:1"', "ipv4@'127.0.0.1:2' ssl"), (LOCAL, Endpoint("127.0.0.1", 2))),
        ((), ("127.0.0.1:1-3",), (LOCAL, Endpoint("127.0.0.1", 2), Endpoint("127.0.0.1", 3))),
        (("127.0.0.1:1-2",), ("127.0.0.1:1-3",), (Endpoint("127.0.0.1", 3),)),
        (("ipv4@127.0.0.1:1",), ("127.0.0.1:1", '"127.0.0.1:1"'), ()),
        (("10.0.0.1:80",), (), ()),
    ],
)
def test_only_what_is_new_is_tried(
    old: tuple[str, ...], new: tuple[str, ...], found: tuple[Endpoint | Path, ...]
) -> None:
    assert new_binds(config(*old), config(*new)) == found


@pytest.mark.parametrize(
    "bind",
    [
        "${P}", "127.0.0.1:${P}", "abns@x", "fd@3", "quic4@:443", "127.0.0.1:1\\0", "127.0.0.1:1-2000", "127.0.0.1",
        "127.0.0.1:0", ":1-99999", "127.1:80",
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_named(bind: str) -> None:
    assert untested_binds("", config(bind)) == (bind,)
    assert new_binds("", config(bind)) == ()
    assert untested_binds(config(bind), config(bind)) == ()


@pytest.mark.parametrize("word", ["transparent", "namespace blue"])
def test_what_is_bound_elsewhere_or_with_other_rights_is_not_tried(word: str) -> None:
    assert untested_binds("", config(f"10.0.0.1:80 {word}")) == ("10.0.0.1:80",)
    assert new_binds("", config(f"10.0.0.1:80 {word}")) == ()


def test_a_prefix_moves_every_socket() -> None:
    text = "global\n    unix-bind prefix /jail mode 600\n" + config("/run/x", ":80")
    assert new_binds("", text) == (Endpoint("", 80),)
    assert untested_binds("", text) == ("/run/x",)


def test_a_balancers_own_address_for_its_peers_is_tried_and_not_the_others() -> None:
    text = "global\n    localpeer b\npeers rumor\n    peer a 10.0.0.1:10000\n    peer b 10.0.0.2:10000\n"
    assert new_binds("", text) == (Endpoint("10.0.0.2", 10000),)


def test_only_a_bind_line_names_places() -> None:
    assert places_of("    bind :80,ipv4@127.0.0.1:1 ssl") == (Endpoint("", 80), LOCAL)
    assert places_of("    server one 127.0.0.1:1") == ()
    assert places_of("    bind") == ()
    assert places_of("    # bind :80") == ()
