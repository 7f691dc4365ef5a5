"""Whatever is wanted and whenever the applier dies, HAProxy ends at the revision, and no request is lost on the way."""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rumor.haproxy.apply import Applier, ApplierSettings, ApplyReport
from rumor.haproxy.fake import FakeHaproxy
from rumor.model import Cause, Revision, Rotation, Seconds, Server, Service, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName
from rumor.render.publish import read_template
from rumor.render.settings import BackendSettings, BalancerTimeouts, CheckRule, RenderSettings, Route
from rumor.render.template import render

WEB = ServiceName("web")
DRAIN = Seconds(5.0)
SESSION_LENGTH = 3.0
TEMPLATE = read_template(None)


class Killed(BaseException):
    """The applier's process ends here."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted next, and what happens on the way there."""

    servers: dict[int, tuple[int, Rotation, int]]
    """Which of three names, with one of six addresses, in what place of the rotation, with what weight."""
    interval: int = 1
    """The check's interval: a change of it changes every server's keywords."""
    has_stats: bool = False
    """A change of this is more than servers can tell."""
    unwell: frozenset[int] = frozenset()
    """The addresses where no app answers."""
    sessions: frozenset[int] = frozenset()
    """The servers with a request that takes three seconds."""
    killed_after: int = 1000
    """After how many lines to HAProxy the applier dies; another one takes over."""
    meddling: tuple[str, ...] = ()
    """What somebody else says to HAProxy at the start."""


def address(number: int) -> HostPort:
    return HostPort(f"10.0.0.{number + 1}", 80)


def revision(wish: Wish, run_directory: Path) -> Revision:
    servers = tuple(
        Server(MemberName(f"web-{name}"), address(where), weight, rotation)
        for name, (where, rotation, weight) in sorted(wish.servers.items())
    )
    backend = BackendSettings(
        service=WEB,
        routes=(Route(),),
        check=CheckRule("/", Seconds(float(wish.interval)), Seconds(0.5), 2, 2),
        balance="leastconn",
        drain=DRAIN,
        retries=3,
        repeat_post=False,
        sticky_key="",
    )
    rules = RenderSettings(
        binds=(Endpoint("127.0.0.1", 8080),),
        stats=Endpoint("127.0.0.1", 1936) if wish.has_stats else None,
        run_directory=run_directory,
        maxconn=100,
        timeouts=BalancerTimeouts(server=Seconds(5.0)),
        backends=(backend,),
        template_text=TEMPLATE,
    )
    return render(Table((Service(WEB, servers),)), rules, Cause("test", "a test"))


@dataclass
class World:
    directory: Path
    first: Revision
    now: float = 100.0
    unwell: set[HostPort] = field(default_factory=set)
    ends: dict[tuple[str, str], float] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    allowed: int = 1000
    haproxy: FakeHaproxy = field(init=False)
    applier: Applier = field(init=False)

    def __post_init__(self) -> None:
        config = self.directory / "haproxy.cfg"
        config.write_text(self.first.text)
        self.haproxy = FakeHaproxy(config, lambda there: there not in self.unwell, before=self._count)
        self.replace_applier()

    def _count(self, line: str) -> None:
        self.allowed -= 1
        if self.allowed < 0:
            raise Killed

    def replace_applier(self) -> None:
        async def text_of(wanted: str) -> str | None:
            return self.known.get(wanted)

        async def probe(servers: Sequence[tuple[ServiceName, HostPort]], on_well: Callable[[int], None]) -> None:
            for place, (_, there) in enumerate(servers):
                if there not in self.unwell:
                    on_well(place)

        self.applier = Applier(
            ApplierSettings(self.directory / "haproxy.cfg", self.directory, {WEB: DRAIN}),
            text_of=text_of,
            write=lambda path, text: void(path.write_text(text)),
            probe=probe,
            connect=self.haproxy.connect,
            clock=lambda: self.now,
        )

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for key, end in list(self.ends.items()):
            if end <= self.now:
                del self.ends[key]
                if key in self.haproxy.servers:
                    self.haproxy.servers[key].sessions = 0


def void(_: object) -> None:
    """Drop a value that nobody asked for."""


async def reach(world: World, wanted: Revision) -> ApplyReport:
    for round_number in range(200):
        try:
            report = await world.applier.apply(wanted)
        except Killed:
            world.allowed = 1000
            world.replace_applier()
            continue
        except BaseExceptionGroup as group:
            if group.split(Killed)[1] is not None:
                raise
            world.allowed = 1000
            world.replace_applier()
            continue
        if report.is_converged:
            return report
        world.pass_time(report.wake_in or 0.05)
        if round_number % 5 == 4:
            world.haproxy.run_checks()
    raise AssertionError(f"never converged: {report}, {world.haproxy.servers}")


async def live(wishes: list[Wish], directory: Path) -> None:
    world = World(directory, revision(wishes[0], directory))
    world.haproxy.run_checks()
    for wish in wishes:
        wanted = revision(wish, directory)
        world.known[wanted.id] = wanted.text
        world.unwell = {address(number) for number in wish.unwell}
        world.haproxy.run_checks()
        for line in wish.meddling:
            world.haproxy.answer_worker(line)
        world.haproxy.faults.clear()  # what somebody else did is not our fault
        for number in wish.sessions:
            key = "web", f"web-{number}"
            if key in world.haproxy.servers and world.haproxy.servers[key].takes_requests:
                world.haproxy.servers[key].sessions = 1
                world.ends[key] = world.now + SESSION_LENGTH
        world.allowed = wish.killed_after
        await reach(world, wanted)
        world.allowed = 1000
        assert world.haproxy.faults == []
        found = {key: (server.address, server.weight, rotation_of(server.admin)) for key, server in
                 world.haproxy.servers.items()}  # fmt: skip
        assert found == {
            ("web", f"web-{name}"): (address(where), weight, rotation)
            for name, (where, rotation, weight) in wish.servers.items()
        }
        assert all(server.is_checked for server in world.haproxy.servers.values() if not server.admin & 1)
        assert world.haproxy.revision == wanted.id
        assert (directory / "haproxy.cfg").read_text() == wanted.text
        before = world.haproxy.commands
        again = await world.applier.apply(wanted)
        assert (again.how, again.done) == ("none", ())
        assert world.haproxy.commands - before == 2, "a look at what agrees costs two exchanges"


def rotation_of(admin: int) -> Rotation:
    return Rotation.MAINT if admin & 1 else Rotation.DRAIN if admin & 8 else Rotation.READY


NAMES = st.integers(0, 2)
MEDDLING = st.builds(
    "{} web/web-{}{}".format,
    st.sampled_from(["set server", "enable health", "disable health", "del server"]),
    NAMES,
    st.sampled_from(["", " state maint", " state drain", " state ready", " weight 7", " addr 10.9.9.9 port 81"]),
)
WISHES = st.builds(
    Wish,
    servers=st.dictionaries(
        NAMES, st.tuples(st.integers(0, 5), st.sampled_from(Rotation), st.sampled_from([1, 50, 100])), max_size=3
    ),
    interval=st.sampled_from([1, 1, 1, 2]),
    has_stats=st.sampled_from([False, False, False, True]),
    unwell=st.frozensets(st.integers(0, 5), max_size=3),
    sessions=st.frozensets(NAMES, max_size=2),
    killed_after=st.one_of(st.just(1000), st.integers(0, 25)),
    meddling=st.lists(MEDDLING, max_size=2).map(tuple),
)

BOTH = {0: (0, Rotation.READY, 100), 1: (1, Rotation.READY, 100)}


@settings(deadline=None, max_examples=150)
@given(st.lists(WISHES, min_size=1, max_size=5))
@example([Wish({0: (0, Rotation.MAINT, 100), 1: (1, Rotation.READY, 100)}), Wish(BOTH), Wish({})])
@example([Wish(BOTH), Wish(BOTH, interval=2, sessions=frozenset({0, 1}))])
@example([Wish(BOTH), Wish({0: (2, Rotation.READY, 100), 1: (3, Rotation.READY, 100)}, unwell=frozenset({2}))])
def test_a_plan_interrupted_anywhere_still_ends_right(wishes: list[Wish]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(live(wishes, Path(directory)))


@pytest.mark.soak
@settings(deadline=None, max_examples=5000)
@given(st.lists(WISHES, min_size=1, max_size=6))
def test_a_plan_interrupted_anywhere_still_ends_right_for_long(wishes: list[Wish]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(live(wishes, Path(directory)))


@pytest.mark.parametrize("killed_after", range(30))
def test_a_changed_check_never_leaves_a_service_without_a_server(killed_after: int, tmp_path: Path) -> None:
    """All servers' settings change at once; replacing each would drain them all."""
    shortest: list[int] = []

    async def run() -> None:
        world = World(tmp_path, revision(Wish(BOTH), tmp_path))
        world.haproxy.run_checks()
        for key in world.haproxy.servers:
            world.haproxy.servers[key].sessions = 1
        count = world.haproxy.before

        def watch(line: str) -> None:
            shortest.append(sum(server.takes_requests for server in world.haproxy.servers.values()))
            count(line)

        world.haproxy.before = watch
        world.allowed = killed_after
        await reach(world, revision(Wish(BOTH, interval=2), tmp_path))

    asyncio.run(run())
    assert min(shortest) == 2


Break = Callable[[pytest.MonkeyPatch], None]


def _trust_old_checks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rumor.haproxy.replies._is_up", lambda rotation, check, status: check.endswith("OK") or None)
    patch.setattr("rumor.haproxy.plan._UNPROVED", -1.0)


def _believe_the_file(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rumor.haproxy.replies._ADMIN_MAINT", 1 | 2 | 4 | 32)


@pytest.mark.parametrize(
    ("break_it", "wishes"),
    [
        (
            _trust_old_checks,
            [Wish(BOTH), Wish(BOTH | {1: (1, Rotation.MAINT, 100)}), Wish(BOTH, unwell=frozenset({1}))],
        ),
        (_believe_the_file, [Wish(BOTH | {1: (1, Rotation.MAINT, 100)}), Wish(BOTH)]),
    ],
)
def test_the_property_can_fail(
    break_it: Break, wishes: list[Wish], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "right").mkdir()
    asyncio.run(live(wishes, tmp_path / "right"))
    (tmp_path / "wrong").mkdir()
    break_it(monkeypatch)
    with pytest.raises(AssertionError):
        asyncio.run(live(wishes, tmp_path / "wrong"))
