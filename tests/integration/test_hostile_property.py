"""Whatever members say of themselves, the real HAProxy has the frontends, backends and servers of the table alone.

Hypothesis thinks of members: names, tags, versions, raw bytes, and addresses as they come by the wire or as text. Each
batch goes the whole way, from the place where it is parsed into a HAProxy that runs, and that is asked what it has.
"""

import asyncio
import contextlib
import csv
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.property.test_pool_injection import API, HOSTILE, KEYS, NAMES, POOL, SETTINGS, VALUES, WEB, pack

from rumor import offers
from rumor.atomic_file import write_atomically
from rumor.errors import PeerError, Unreachable
from rumor.haproxy.config_text import read_config
from rumor.haproxy.runtime import CommandSocket
from rumor.model import Cause, Instant, Rotation, Seconds, Table, WallTime
from rumor.names import Endpoint, HostPort, MemberName, parse_host_port
from rumor.pool.table import Blindness, build_table
from rumor.render import publish
from rumor.render.settings import RenderSettings
from rumor.render.template import render
from rumor.serf.events import SerfMember
from rumor.serf.messages import Status
from rumor.sources import gossip
from rumor.swim.fields import Fields
from rumor.swim.membership import MemberState
from rumor.swim.messages import State

DEADLINE = 10.0
_NUMBER = re.compile(r"0x[0-9a-f]+|[0-9]+")
CAUSE = Cause("test", "a test")
# Versions stand in no line of the built-in template. They may in an operator's: here as the server's cookie.
_BACKUP = '{{ " backup" if server.is_backup }}'
TEMPLATE = publish.read_template(None).replace(
    _BACKUP, '{{ " cookie " ~ server.version if server.version }}' + _BACKUP
)  # fmt: skip
OTHER_SECTIONS = ("show peers", "show resolvers", "show cache", "show map", "show acl", "show table", "show env")


@dataclass(frozen=True, slots=True)
class Claim:
    """A member as it is heard of: an address is bytes by the wire, text by any other way."""

    name: str
    meta: bytes
    address: bytes | str


def within(packed: bytes) -> bytes:
    """Keep what is an address in networks of nobody: HAProxy will knock there."""
    first = {4: b"\x0a", 16: b"\xfd"}.get(len(packed))
    return packed if first is None else first + packed[1:]


ADDRESS_PIECES = st.sampled_from(
    [
        "10.0.0.7", "10.0.0.7:80", "[fd00::7]:80", "fd00::7", ":80", "*:80", "127.1:80", "10.7:80", "0x0a000007:80",
        "167772167:80", "010.0.0.7:80", "10.0.0.7:70000", "10.0.0.7:80abc", "10.0.0.7:0", "unix@/x", "abns@x", "fd@3",
        "ipv4@10.0.0.7:80", "/tmp/x:80", "localhost:80", "[fd00::7%lo]:80", "${HOME}:80", "$HOME:80", "10.0.0.7: 80",
        "[::ffff:10.0.0.7]:80", "10.0.0.\u0667:80", "[10.0.0.7]:80", "10.0.0.7:80 check", "10.0.0.7:80\nbackend evil",
    ]
)  # fmt: skip
ADDRESSES = st.one_of(
    st.binary(max_size=20).map(within),
    st.binary(min_size=4, max_size=4).map(within),
    st.binary(min_size=16, max_size=16).map(within),
    st.ip_addresses(network="10.0.0.0/8").map(lambda address: f"{address}:80"),
    st.ip_addresses(network="fd00::/8").map(lambda address: f"[{address}]:80"),
    st.lists(HOSTILE | ADDRESS_PIECES, min_size=1, max_size=3).map("".join),
)
PLAIN_NAMES = st.text(alphabet="abXY09_.-", max_size=12).map("h".__add__) | st.text(alphabet="aX0_.-", min_size=1)
PLAIN_OFFERS = st.builds(
    lambda port, version, weight, state, backup: (
        f"{port};version={version};weight={weight};state={state};backup={backup}"
    ),
    st.integers(0, 65_536),
    st.text(alphabet="abXY09_.+-", max_size=8).map("1".__add__) | st.text(alphabet="aX0_.+-", max_size=40),
    st.integers(0, 257),
    st.sampled_from(["ready", "draining", "starting", "down"]),
    st.sampled_from("01"),
)
METAS = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=3).map(pack),
    st.dictionaries(st.sampled_from(["service:web", "service:api"]), PLAIN_OFFERS, min_size=1).map(pack),
    st.binary(max_size=64).map(b"\xff".__add__),
)
CLAIMS = st.builds(Claim, PLAIN_NAMES | NAMES, METAS, ADDRESSES)
BATCHES = st.lists(CLAIMS, min_size=10, max_size=60, unique_by=lambda claim: claim.name)


def hear(claim: Claim) -> SerfMember:
    """Take a claim in where the agent would.

    Raises:
        PeerError: it is refused as a whole.
    """
    body = Fields({b"Node": claim.name.encode(), b"Addr": claim.address, b"Port": 7946})
    name = body.text(b"Node")
    address = (
        parse_host_port(claim.address)
        if isinstance(claim.address, str)
        else body.address(b"Addr", b"Port", default_port=1)
    )
    return SerfMember(
        MemberState(name, address, claim.meta, State.ALIVE, 1, b"\1\5\2\2\5\5", Instant(0.0)), Status.ALIVE
    )


@dataclass(frozen=True, slots=True)
class Has:
    """What a HAProxy has, by its own words, or should have."""

    frontends: frozenset[str]
    backends: frozenset[str]
    servers: Mapping[tuple[str, str], tuple[str, str, str, str, str]]
    """By backend and name: address, weight, administrative state, cookie and whether it is a backup."""
    others: tuple[str, ...]
    """What it says of sections that a table has no part in."""


def wanted(table: Table, others: tuple[str, ...]) -> Has:
    servers = {}
    for service in table.services:
        for one in service.servers:
            weight = 0 if one.rotation is Rotation.DRAIN else one.weight
            admin = "4" if one.rotation is Rotation.MAINT else "0"
            servers[str(service.name), str(one.name)] = (
                str(one.address), str(weight), admin, one.version, "1" if one.is_backup else "0"
            )  # fmt: skip
    return Has(frozenset({"rumor"}), frozenset({WEB, API, "rumor_no_route"}), servers, others)


class Stage:
    """One HAProxy after the other, at one address."""

    def __init__(self, program: Path, directory: Path, port: int) -> None:
        self._program = program
        self._directory = directory
        self._settings: RenderSettings = replace(
            SETTINGS, binds=(Endpoint("127.0.0.1", port),), run_directory=directory, template_text=TEMPLATE,
            backends=tuple(
                # Nobody lives where it would look: as seldom as it can. And cookies are the versions alone.
                replace(one, check=replace(one.check, interval=Seconds(3600.0)), sticky_key="")
                for one in SETTINGS.backends
            ),
        )  # fmt: skip
        empty, _ = build_table((), POOL, (), blindness=Blindness(), now=Instant(1.0))
        self._plain = read_config(render(empty, self._settings, CAUSE).text).base
        self._others = self._run(render(empty, self._settings, CAUSE).text).others
        self.seen: Counter[str] = Counter()

    def check(self, claims: Sequence[Claim]) -> None:
        """Let these members be heard of; what HAProxy then has is what the table says, exactly."""
        heard = []
        for claim in claims:
            with contextlib.suppress(PeerError):
                heard.append(hear(claim))
        snapshot = gossip.build(heard, is_blind=False, now=Instant(1.0), wall=WallTime(1.0))
        table, refused = build_table(snapshot.members, POOL, (), blindness=Blindness(), now=Instant(1.0))
        text = render(table, self._settings, CAUSE).text
        assert self._run(text) == wanted(table, self._others)
        assert read_config(text).base == self._plain
        self.seen["servers"] += sum(len(service.servers) for service in table.services)
        self.seen["addresses refused"] += len(claims) - len(heard)
        self.seen["names refused"] += len(snapshot.refusals)
        self.seen["offers refused"] += len(refused)

    def _run(self, text: str) -> Has:
        config = self._directory / "haproxy.cfg"
        write_atomically(config, text)
        with subprocess.Popen(
            # With -dW a warning is an error.
            [self._program, "-dW", "-db", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={"HOME": "/somewhere"},
        ) as process:  # fmt: skip
            try:
                return asyncio.run(self._ask(process))
            finally:
                process.kill()

    async def _ask(self, process: subprocess.Popen[bytes]) -> Has:
        worker = CommandSocket(self._directory / "haproxy.sock")
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(Unreachable):
                    stat = await worker.ask("show stat -1 7 -1")
                    break
                if process.poll() is not None:
                    assert process.stderr is not None
                    raise AssertionError(f"HAProxy does not start: {process.stderr.read().decode(errors='replace')}")
                await asyncio.sleep(0.005)
            rows = list(csv.DictReader(stat.removeprefix("# ").splitlines()))
            state = (await worker.ask("show servers state")).splitlines()
            # Counters and addresses in memory are another's business.
            others = tuple([_NUMBER.sub("#", await worker.ask(command)) for command in OTHER_SECTIONS])
        columns = state[1].removeprefix("# ").split()
        stats = {(row["pxname"], row["svname"]): row for row in rows if row["type"] == "2"}
        servers = {}
        for line in state[2:]:
            row = dict(zip(columns, line.split(" "), strict=True))
            key = row["be_name"], row["srv_name"]
            host, port = row["srv_addr"], row["srv_port"]
            address = str(parse_host_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
            servers[key] = (
                address, row["srv_uweight"], row["srv_admin_state"], stats[key]["cookie"], stats[key]["bck"]
            )  # fmt: skip
        assert set(stats) == set(servers)
        return Has(
            frozenset(row["pxname"] for row in rows if row["type"] == "0"),
            frozenset(row["pxname"] for row in rows if row["type"] == "1"),
            servers,
            others,
        )


@pytest.fixture
def stage(haproxy_program: Path, free_port: Callable[[], int]) -> Iterator[Stage]:
    # Not tmp_path: a UNIX socket's path may have 108 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix="rumor-"))
    yield Stage(haproxy_program, directory, free_port())
    shutil.rmtree(directory)


def honest(name: str, *, meta: bytes = pack({"service:web": "3000;version=1.4"}), last: int = 1) -> Claim:
    return Claim(name, meta, f"10.9.9.{last}:7946")


@pytest.mark.timeout(300)
def test_haproxy_has_what_the_table_says_whatever_members_say(stage: Stage) -> None:
    # Not made smaller: each try is a HAProxy, and what was refused, and was not, stands in the batch as it is.
    @settings(max_examples=40, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
    @given(BATCHES)
    def holds(batch: list[Claim]) -> None:
        stage.check([*batch, honest("an-honest-one")])

    holds()
    # Something of each kind has been met.
    kinds = ("servers", "addresses refused", "names refused", "offers refused")
    assert min(stage.seen[kind] for kind in kinds) > 50, stage.seen


EVIL = "\nbackend evil\n    server y 10.9.9.9"


def raw_host_port(text: str) -> HostPort:
    return HostPort(text, 7946)


@pytest.mark.parametrize(
    ("where", "what", "instead", "claim"),
    [
        (gossip, "parse_member_name", MemberName, honest(f"x 10.9.9.8:1{EVIL}:1\n    server z")),
        (
            gossip,
            "parse_member_name",
            MemberName,
            honest("x 10.9.9.8:1\nfrontend evil\n    bind 127.0.0.1:0\nbackend z\n    server y"),
        ),
        (offers, "parse_port", str, honest("x", meta=pack({"service:web": f"3000{EVIL}:1"}))),
        (offers, "parse_weight", str, honest("x", meta=pack({"service:web": f"3000;weight=5{EVIL}:1"}))),
        (offers, "_parse_version", str, honest("x", meta=pack({"service:web": f"3000;version=a{EVIL}:1"}))),
        (None, "parse_host_port", raw_host_port, Claim("x", pack({"service:web": "3000"}), f"10.9.9.8{EVIL}")),
    ],
)  # fmt: skip
def test_the_check_fails_where_nothing_is_refused(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    what: str,
    instead: Callable[[str], object],
    claim: Claim,
) -> None:
    stage.check([claim, honest("an-honest-one", last=2)])
    if where is None:
        monkeypatch.setitem(globals(), what, instead)
    else:
        monkeypatch.setattr(where, what, instead)
    with pytest.raises(AssertionError):
        stage.check([claim, honest("an-honest-one", last=2)])
