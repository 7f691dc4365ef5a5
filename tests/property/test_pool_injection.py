"""Text from the network never alters a directive: not by a name, a tag, an address or raw meta bytes."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rumor.haproxy.config_text import read_config
from rumor.model import Cause, Instant, Seconds, WallTime
from rumor.names import Endpoint, HostPort, ServiceName
from rumor.pool.table import Blindness, PoolSettings, build_table
from rumor.render.publish import read_template
from rumor.render.settings import BackendSettings, BalancerTimeouts, CheckRule, RenderSettings, Route
from rumor.render.template import render
from rumor.serf.events import SerfMember
from rumor.serf.messages import Status
from rumor.sources.gossip import build
from rumor.swim.membership import MemberState
from rumor.swim.messages import State

WEB, API = ServiceName("web"), ServiceName("api")
CHECK = CheckRule("/health", Seconds(1.0), Seconds(0.5), 2, 2)
SETTINGS = RenderSettings(
    binds=(Endpoint("127.0.0.1", 8080),),
    stats=None,
    run_directory=Path("/run/rumor"),
    maxconn=1000,
    timeouts=BalancerTimeouts(server=Seconds(30.0)),
    backends=tuple(
        BackendSettings(name, (Route("*", f"/{name}"),), CHECK, "leastconn", Seconds(10.0), 3, False, "key")
        for name in (WEB, API)
    ),
    template_text=read_template(None),
)
POOL = {WEB: PoolSettings(), API: PoolSettings(role="backend", port=8000)}
SERVER_LINE = re.compile(
    r"    server [A-Za-z0-9][A-Za-z0-9_.-]* (10\.0\.0\.[12]|\[fd00::[12]\]):[0-9]{1,5} weight [0-9]{1,3}( disabled)? "
    r"check inter 1000ms fastinter 200ms downinter 500ms fall 2 rise 2 observe layer4 error-limit 1 on-error mark-down"
)

# What HAProxy gives a meaning to, and pieces of real offers to hide it in.
HOSTILE = st.sampled_from(
    [
        "\n",
        "\r",
        "\t",
        "\f",
        "\v",
        "\0",
        ";",
        "#",
        "$",
        "${HOME}",
        '"',
        "'",
        "\\",
        " ",
        "/",
        "*",
        "@",
        "%",
        "\u2028",
        "\x85",
    ]
)
PIECES = st.sampled_from(["3000", ";state=ready", ";weight=5", ";version=1", "server x 1.2.3.4:5", "70000", "٣", "1_0"])
TEXTS = st.lists(HOSTILE | PIECES | st.text(max_size=4), max_size=6).map("".join)
NAMES = st.sampled_from(["web-1", "web-2", "BACKEND"]) | TEXTS
KEYS = st.sampled_from(["service:web", "service:api", "role"]) | TEXTS.map("service:".__add__)
VALUES = TEXTS | TEXTS.map("3000;version=".__add__) | TEXTS.map("3000".__add__) | st.just("backend")


def state(name: str, meta: bytes, host: str = "10.0.0.1") -> SerfMember:
    return SerfMember(
        MemberState(name, HostPort(host, 7946), meta, State.ALIVE, 1, b"\1\5\2\2\5\5", Instant(0.0)), Status.ALIVE
    )


def assert_harmless(*states: SerfMember) -> None:
    members = build(states, is_blind=False, now=Instant(1.0), wall=WallTime(1.0)).members
    table, _ = build_table(members, POOL, (), blindness=Blindness(), now=Instant(1.0))
    empty, _ = build_table((), POOL, (), blindness=Blindness(), now=Instant(1.0))
    cause = Cause("test", "a test")
    text, plain = render(table, SETTINGS, cause).text, render(empty, SETTINGS, cause).text
    extra = [line for line in text.split("\n") if line.startswith("    server ")]
    assert all(SERVER_LINE.fullmatch(line) for line in extra), extra
    assert len(extra) == sum(len(service.servers) for service in table.services)
    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    config = read_config(text)
    assert config.base == read_config(plain).base
    assert len(config.servers) == len(extra)


def pack(tags: Mapping[str, str]) -> bytes:
    packed: bytes = msgpack.packb(dict(tags), use_bin_type=False, unicode_errors="surrogatepass")
    return b"\xff" + packed


@settings(deadline=None)  # a busy machine is no failure
@given(NAMES, st.dictionaries(KEYS, VALUES, max_size=4), st.sampled_from(["10.0.0.1", "fd00::1"]))
@example("web-1", {"service:web": "3000"}, "10.0.0.1")
@example("web-1", {"service:web": "3000\n    http-request return status 200"}, "10.0.0.1")
@example("web-1\nserver", {"service:web": "3000"}, "10.0.0.1")
@example("web-1", {"role": "backend", "service:web\nfrontend x": "3000"}, "fd00::1")
def test_tags_and_names_never_alter_a_directive(name: str, tags: Mapping[str, str], host: str) -> None:
    assert_harmless(state(name, pack(tags), host), state("honest", pack({"service:web": "3000"}), "10.0.0.2"))


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=512))
def test_raw_meta_never_alters_a_directive(meta: bytes) -> None:
    assert_harmless(state("web-1", meta), state("web-2", b"\xff" + meta, "fd00::2"))


def test_the_harmless_form_is_really_met() -> None:
    # The guard of the guards: an honest offer passes all the way and appears as a line.
    members = build(
        [state("web-1", pack({"service:web": "3000"}))], is_blind=False, now=Instant(1.0), wall=WallTime(1.0)
    )
    table, refused = build_table(members.members, POOL, (), blindness=Blindness(), now=Instant(1.0))
    text = render(table, SETTINGS, Cause("test", "a test")).text
    assert refused == ()
    assert sum(bool(SERVER_LINE.fullmatch(line)) for line in text.split("\n")) == 1
