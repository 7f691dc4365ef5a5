"""The same supervision over s6, supervisord and systemd, with real processes."""

import asyncio
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.conftest import require_program
from tests.integration.systemd_here import Machine, systemd_here

from rumor.atomic_file import write_atomically
from rumor.errors import Refused
from rumor.model import Seconds
from rumor.supervise.base import AILING, Program, ProgramState, ProgramStatus, Supervisor
from rumor.supervise.exit_files import last_lines
from rumor.supervise.inventory import Inventory, format_inventory
from rumor.supervise.operating import bring_to, changes, restart_in_order, start_and_wait, stop_in_order
from rumor.supervise.reviver import Reviver
from rumor.supervise.s6 import S6, write_scan_directory
from rumor.supervise.s6_text import s6_log
from rumor.supervise.supervisord import Supervisord
from rumor.supervise.systemd import Systemd
from rumor.supervise.systemd_text import INVENTORY, TARGET, unit_name

DEADLINE = 20.0
EACH = pytest.mark.parametrize("kind", ["s6", "supervisord", "systemd"], indirect=True)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of supervisor, and where its processes are to be looked at: systemd has a world of its own."""

    name: str
    machine: Machine | None = None

    def is_alive(self, pid: int) -> bool:
        return is_alive(pid) if self.machine is None else self.machine.is_alive(pid)

    def kill(self, pid: int) -> None:
        if self.machine is None:
            os.kill(pid, signal.SIGKILL)
        else:
            self.machine.kill(pid)

    def last_line(self, one: Program) -> str:
        """Return the last line that a program which runs has written."""
        if self.machine is not None:
            run = self.machine.run("systemctl", "show", "--value", "--property=InvocationID", unit_name(one.name))
            match = f"_SYSTEMD_INVOCATION_ID={run.stdout.strip()}"
            return self.machine.run("journalctl", "--quiet", "--output=cat", "--lines=1", match).stdout.strip()
        return "".join(last_lines(s6_log(one) if self.name == "s6" else one.log, 1))


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with systemd_here() as machine:
        machine.run("useradd", "--system", "--user-group", "rumor")
        yield machine


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param, request.getfixturevalue("machine") if request.param == "systemd" else None)


@pytest.fixture
def home(kind: Kind) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="rumor-sup-", dir=kind.machine.shared if kind.machine else None))
    if kind.machine is not None:
        # The user `rumor` writes there.
        directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def supervising(kind: Kind, home: Path, *programs: Program) -> AsyncIterator[Supervisor]:
    """Run a supervisor of this kind over these programs; all of it has ended afterwards."""
    if kind.machine is not None:
        async with _systemd(kind.machine, programs) as systemd:
            yield systemd
    elif kind.name == "s6":
        async with _s6(home / "scan", programs) as s6:
            yield s6
    else:
        async with _supervisord(home, programs) as supervisord:
            yield supervisord


@asynccontextmanager
async def _systemd(machine: Machine, programs: tuple[Program, ...]) -> AsyncIterator[Systemd]:
    systemd = Systemd(machine.root, (*machine.enter, "systemctl"))
    inventory = machine.root / INVENTORY.relative_to("/")
    inventory.parent.mkdir(exist_ok=True)
    write_atomically(inventory, format_inventory(Inventory()))
    await systemd.add(programs)
    machine.run("systemctl", "start", TARGET)
    try:
        yield systemd
        await systemd.shut_down()
        assert {one.state for one in await systemd.states()} == {ProgramState.STOPPED}
    finally:
        await stop_in_order(systemd, await systemd.programs())
        await systemd.remove([one.name for one in await systemd.programs()])


@asynccontextmanager
async def _s6(scan: Path, programs: tuple[Program, ...]) -> AsyncIterator[S6]:
    program = require_program("s6-svscan", "s6")
    write_scan_directory(Inventory(programs), scan)
    process = await asyncio.create_subprocess_exec(program, str(scan), stdin=asyncio.subprocess.DEVNULL)
    s6 = S6(scan)
    try:
        await until(lambda: answers(s6), "s6-svscan runs")
        yield s6
        await s6.shut_down()
        async with asyncio.timeout(DEADLINE):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def _supervisord(home: Path, programs: tuple[Program, ...]) -> AsyncIterator[Supervisord]:
    supervisord = Supervisord(home)
    reviver = Reviver(supervisord)

    async def revive() -> None:
        while True:
            await reviver.look()
            await asyncio.sleep(0.05)

    await supervisord.launch(Inventory(programs))
    task = asyncio.create_task(revive())
    try:
        yield supervisord
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stop_in_order(supervisord, await supervisord.programs())
        await supervisord.shut_down()
        assert await supervisord.wait_ended(Seconds(DEADLINE))


async def answers(s6: S6) -> bool:
    return await s6.is_alive() and all(state.words == "" for state in await s6.states())


async def done(value: bool) -> bool:
    return value


async def until(holds: Callable[[], Awaitable[bool]], what: str, deadline: float = DEADLINE) -> None:
    try:
        async with asyncio.timeout(deadline):
            while not await holds():  # noqa: ASYNC110 - what is waited for is another process
                await asyncio.sleep(0.03)
    except TimeoutError:
        pytest.fail(f"not within {deadline:g} s: {what}")


def program(home: Path, name: str, script: str = "while True: time.sleep(0.1)", **more: object) -> Program:
    """Return a program of a few lines of Python, with `note(word)` to write to a file of the test's."""
    head = (
        "import os, signal, subprocess, sys, time\n"
        f"def note(word): open({str(home / 'notes')!r}, 'a').write(f'{{word}} {{time.time()}} {{os.getpid()}}\\n')\n"
    )
    file = home / f"{name}.py"
    file.write_text(head + script)
    command = (sys.executable, "-S", str(file), name)
    # The interpreter of the tests may lie in one.
    made = Program(name, "apps", command, home, home / f"{name}.log", home / "exits", reads_homes=True)
    return replace(made, **more)  # type: ignore[arg-type]  # the keywords are the test's own


def notes(home: Path) -> list[tuple[str, float, int]]:
    path = home / "notes"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(word, float(at), int(pid)) for word, at, pid in lines]


async def status(supervisor: Supervisor, name: str) -> ProgramStatus:
    (found,) = [one for one in await supervisor.states() if one.name == name]
    return found


async def running(supervisor: Supervisor, name: str, *, other_than: int | None = None) -> int:
    """Wait until a program runs, in another process than this one; return its pid."""

    async def runs() -> bool:
        now = await status(supervisor, name)
        return now.state is ProgramState.RUNNING and now.pid not in (None, other_than)

    await until(runs, f"{name} runs")
    pid = (await status(supervisor, name)).pid
    assert pid is not None
    return pid


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@EACH
async def test_a_program_runs_as_it_was_described(kind: Kind, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUMOR_KEY", "secret")
    if kind.machine is not None:
        kind.machine.run("systemctl", "set-environment", "RUMOR_KEY=secret")
    (home / "place").mkdir()
    script = (
        "print(os.getcwd(), os.environ['WHO'], os.environ.get('RUMOR_KEY') or 'nothing', flush=True)\ntime.sleep(60)"
    )
    one = program(home, "web", script, directory=home / "place", environment={"WHO": "it's me"}, forgets=("RUMOR_KEY",))
    async with supervising(kind, home, one) as supervisor:
        pid = await running(supervisor, "web")
        assert kind.is_alive(pid)
        await until(lambda: done(kind.last_line(one) != ""), "it wrote")
        assert kind.last_line(one).endswith(f"{home}/place it's me nothing")
        assert (await status(supervisor, "web")).last_exit is None


@EACH
async def test_a_stopped_program_stays_stopped_and_starts_again_on_demand(kind: Kind, home: Path) -> None:
    one, waiting = program(home, "web"), program(home, "spare", autostart=False)
    async with supervising(kind, home, one, waiting) as supervisor:
        pid = await running(supervisor, "web")
        assert (await status(supervisor, "spare")).state is ProgramState.STOPPED
        await stop_in_order(supervisor, [one])
        now = await status(supervisor, "web")
        assert (now.state, now.pid, now.last_exit) == (ProgramState.STOPPED, None, None)
        assert not kind.is_alive(pid)
        assert await start_and_wait(supervisor, ["web", "spare"], Seconds(DEADLINE)) == ()
        assert await restart_in_order(supervisor, [one], Seconds(DEADLINE)) == ()
        assert await running(supervisor, "web") != pid


@EACH
async def test_programs_stop_in_their_order_each_by_its_signal(kind: Kind, home: Path) -> None:
    stops = (
        "def stop(number, _):\n    time.sleep(0.3)\n    note(f'{sys.argv[1]}-{signal.Signals(number).name}')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)\n"
        "note('up')\nwhile True: time.sleep(0.1)"
    )

    programs = [
        program(home, "app", stops, priority=500, stop_signal="INT"),
        program(home, "agent", stops, priority=900),
        program(home, "haproxy", stops, priority=700),
    ]
    async with supervising(kind, home, *programs) as supervisor:
        await until(lambda: done(len(notes(home)) == 3), "all three are up")
        # The end of the context shuts down.
        assert len(await supervisor.programs()) == 3
    assert [word for word, *_ in notes(home)][3:] == ["agent-SIGTERM", "haproxy-SIGTERM", "app-SIGINT"]


@EACH
async def test_what_does_not_heed_its_signal_is_killed_when_its_time_is_over(kind: Kind, home: Path) -> None:
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nnote('up')\nwhile True: time.sleep(0.1)"
    deaf = program(home, "deaf", script, stop_wait=Seconds(1.0))
    async with supervising(kind, home, deaf) as supervisor:
        await until(lambda: done(len(notes(home)) == 1), "it is up")
        began = time.monotonic()
        await stop_in_order(supervisor, [deaf])
        assert 0.9 < time.monotonic() - began < 4.0
        assert not kind.is_alive(notes(home)[0][2])


@EACH
async def test_a_killed_program_comes_back_and_its_end_is_told(kind: Kind, home: Path) -> None:
    one = program(home, "web", "print('last words', flush=True)\ntime.sleep(60)")
    async with supervising(kind, home, one) as supervisor:
        pid = await running(supervisor, "web")
        await until(lambda: done(kind.last_line(one) != ""), "it wrote")
        kind.kill(pid)
        assert await running(supervisor, "web", other_than=pid) != pid

        async def is_told() -> bool:
            return (await status(supervisor, "web")).last_exit is not None

        await until(is_told, "its end is told")
        end = (await status(supervisor, "web")).last_exit
        assert end is not None
        assert (end.status, end.signal, str(end)) == (None, signal.SIGKILL, "ended by SIGKILL")
        assert last_lines(end.log, 1)[0].endswith("last words")


@EACH
async def test_pauses_grow_for_what_keeps_falling_and_it_is_never_given_up(kind: Kind, home: Path) -> None:
    falling = program(
        home, "web", "print('no such table', flush=True)\nnote('up')\nsys.exit(7)", longest_pause=Seconds(2.0)
    )
    async with supervising(kind, home, falling) as supervisor:
        await until(lambda: done(len(notes(home)) >= 5), "it was tried five times", deadline=40.0)
        now = await status(supervisor, "web")

        async def ails() -> bool:
            return (await status(supervisor, "web")).state in AILING

        await until(ails, "its state says so")
        assert now.last_exit is not None
        assert (now.last_exit.status, now.last_exit.signal) == (7, None)
        assert now.last_exit.failures >= 4
        assert last_lines(now.last_exit.log, 1)[0].endswith("no such table")
    starts = [at for _, at, _ in notes(home)][:5]
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[0] >= 0.9
    assert min(gaps[1:]) >= 1.9, gaps
    assert max(gaps) < 5.0, "and no longer than it may"


@EACH
async def test_pauses_grow_also_for_what_falls_after_a_while(kind: Kind, home: Path) -> None:
    script = "note('up')\ntime.sleep(1.2)\nnote('down')\nsys.exit(3)"
    async with supervising(kind, home, program(home, "web", script, longest_pause=Seconds(3.0))):
        await until(lambda: done(len(notes(home)) >= 5), "it was tried three times", deadline=40.0)
    words = [(word, at) for word, at, _ in notes(home)][:5]
    assert [word for word, _ in words] == ["up", "down"] * 2 + ["up"]
    pauses = [up - down for (_, down), (_, up) in zip(words[1::2], words[2::2], strict=True)]
    for pause, least in zip(pauses, (0.9, 1.9), strict=True):
        assert least <= pause < least + 2.0, pauses


@EACH
async def test_what_waits_for_its_next_try_can_be_stopped_for_good_and_started_again(kind: Kind, home: Path) -> None:
    falling = program(home, "web", "note('up')\nsys.exit(7)", longest_pause=Seconds(1.0))
    async with supervising(kind, home, falling) as supervisor:
        await until(lambda: done(len(notes(home)) >= 2), "it was tried")

        async def is_state(state: ProgramState) -> bool:
            return (await status(supervisor, "web")).state is state

        await until(lambda: is_state(ProgramState.BACKOFF), "it waits for its next try")
        await stop_in_order(supervisor, [falling])
        await until(lambda: is_state(ProgramState.STOPPED), "it is stopped")
        tries = len(notes(home))
        # Longer than the longest pause: nothing may come, and nothing tells that.
        await asyncio.sleep(2.5)
        assert len(notes(home)) == tries
        assert await is_state(ProgramState.STOPPED)
        await supervisor.start(["web"])
        await until(lambda: done(len(notes(home)) >= tries + 2), "it is tried again, and again")


@EACH
async def test_what_pauses_is_started_at_once_by_who_asks_for_it(kind: Kind, home: Path) -> None:
    falling = program(home, "web", f"if not os.path.exists({str(home / 'well')!r}): sys.exit(7)\ntime.sleep(60)")
    async with supervising(kind, home, falling) as supervisor:

        async def pauses() -> bool:
            now = await status(supervisor, "web")
            return now.state in AILING and now.last_exit is not None and now.last_exit.failures >= 3

        await until(pauses, "it waits four seconds for its next try")
        began = time.monotonic()
        (home / "well").touch()
        assert await start_and_wait(supervisor, ["web"], Seconds(DEADLINE)) == ()
        assert time.monotonic() - began < 2.5


@EACH
async def test_what_a_dead_program_left_behind_is_ended(kind: Kind, home: Path) -> None:
    script = "child = subprocess.Popen(['/bin/sleep', '600'])\nnote(f'child-{child.pid}')\ntime.sleep(600)"
    async with supervising(kind, home, program(home, "web", script)) as supervisor:
        pid = await running(supervisor, "web")
        await until(lambda: done(len(notes(home)) == 1), "it has a child")
        child = int(notes(home)[0][0].removeprefix("child-"))
        assert kind.is_alive(child)
        kind.kill(pid)
        await until(lambda: done(not kind.is_alive(child)), "its child has ended, too")
        await running(supervisor, "web", other_than=pid)


@EACH
async def test_programs_come_and_go_while_others_run(kind: Kind, home: Path) -> None:
    first, second, third = (program(home, name) for name in ("first", "second", "third"))
    async with supervising(kind, home, first, second) as supervisor:
        pids = {name: await running(supervisor, name) for name in ("first", "second")}
        otherwise = replace(second, environment={"NEW": "1"})
        await bring_to(supervisor, changes(await supervisor.programs(), [first, otherwise, third]))
        assert await running(supervisor, "first") == pids["first"]
        changed_pid = await running(supervisor, "second")
        assert changed_pid != pids["second"]
        # Though it was stopped on the way, it is not one that is to stay so.
        kind.kill(changed_pid)
        assert await running(supervisor, "second", other_than=changed_pid)
        third_pid = await running(supervisor, "third")
        with pytest.raises(Refused, match="third: supervised already"):
            await supervisor.add([third])
        await bring_to(supervisor, changes(await supervisor.programs(), [first]))
        assert [one.name for one in await supervisor.states()] == ["first"]
        assert not kind.is_alive(third_pid)
        with pytest.raises(Refused, match="no program third"):
            await supervisor.start(["third"])
        # A name may be used again at once.
        await supervisor.add([third])
        assert await running(supervisor, "third") != third_pid


@pytest.mark.parametrize("kind", ["s6"], indirect=True)
async def test_a_child_in_a_session_of_its_own_does_not_hold_up_the_end_of_s6(kind: Kind, home: Path) -> None:
    script = (
        "child = subprocess.Popen(['/bin/sleep', '600'], start_new_session=True)\nnote(f'child-{child.pid}')\n"
        "time.sleep(600)"
    )
    async with supervising(kind, home, program(home, "web", script)) as supervisor:
        await running(supervisor, "web")
        await until(lambda: done(len(notes(home)) == 1), "it has a child")
        began = time.monotonic()
    child = int(notes(home)[0][0].removeprefix("child-"))
    try:
        assert time.monotonic() - began < 6.0
    finally:
        os.kill(child, signal.SIGKILL)
