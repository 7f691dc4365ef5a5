"""`rumor ps|start|stop|restart|reload-services`: the programs that are supervised here, whoever supervises them."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rumor.cli.deploying import deploy_options, patience_of, roll
from rumor.cli.options import data_of, data_option, file_of, format_option, options, overrides_of, say
from rumor.config import load
from rumor.errors import Refused, RumorError, Unreachable
from rumor.model import Seconds
from rumor.supervise.base import AGENTS, AILING, Program, ProgramStatus, Supervisor
from rumor.supervise.exit_files import last_lines
from rumor.supervise.inventory import Inventory
from rumor.supervise.operating import bring_to, changes, restart_in_order, start_and_wait, stop_in_order
from rumor.supervise.s6 import S6
from rumor.supervise.supervisord import Supervisord
from rumor.supervise.systemd import Systemd

if TYPE_CHECKING:
    from rumor.api_client import AgentApi

_START_PATIENCE = Seconds(10.0)
_POLL = 0.2
_WORDS = 3

_supervised = options(
    data_option,
    click.option(
        "--scan-directory", envvar="RUMOR_SCAN_DIRECTORY", default="/run/rumor/service", show_default=True,
        type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where s6 finds the programs.",
    ),
    format_option,
)  # fmt: skip
_names = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@dataclass(frozen=True, slots=True)
class _Here:
    """The supervisor that runs here."""

    kind: str
    supervisor: S6 | Supervisord | Systemd
    data: Path

    def find(self, names: Sequence[str]) -> tuple[Program, ...]:
        """Return the programs that are meant: by their own names, or by a node's or a service's.

        Raises:
            Refused: one name means nothing.
        """
        inventory = self.supervisor.inventory()
        found: dict[str, Program] = {}
        for name in names:
            own = [program for program in inventory.programs if program.name == name]
            meant = own or [program for program in inventory.programs if program.name.startswith(f"{name}-")]
            if not meant:
                known = ", ".join(sorted(program.name for program in inventory.programs))
                raise Refused(f"no program {name} is supervised here (known: {known})")
            found |= {program.name: program for program in meant}
        return tuple(found.values())


@click.command()
@_supervised
def ps(data: Path | None, scan_directory: Path, form: str) -> int:
    """List the programs that are supervised here: state, pid, how each ended last, and its last words.

    Exit status 1 if one of them is not as it should be.
    """
    from rumor.cli import output

    async def look() -> dict[str, Any]:
        here = await _find(data, scan_directory)
        programs = {program.name: program for program in await here.supervisor.programs()}
        states = await here.supervisor.states()
        return {"supervisor": here.kind, "programs": [_shown(status, programs.get(status.name)) for status in states]}

    value = asyncio.run(look())
    output.show(value, form, output.programs)
    return 1 if any(program["state"] in _AILING for program in value["programs"]) else 0


@click.command()
@_names
@_supervised
def start(names: tuple[str, ...], data: Path | None, scan_directory: Path, form: str) -> int:
    """Start programs and wait until they run. NAME is a program's name, or a node's or service's for all of its."""
    return _do(names, data, scan_directory, form, "running", _start)


@click.command()
@_names
@_supervised
def stop(names: tuple[str, ...], data: Path | None, scan_directory: Path, form: str) -> int:
    """Stop programs in their order and wait until they have ended; a node's agent drains and leaves first."""
    return _do(names, data, scan_directory, form, "stopped", _stop)


@click.command()
@_names
@click.option("--rolling", is_flag=True, help="All instances of a service in turn, each waited for.")
@click.option(
    "--max-unavailable", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N",
    help="With --rolling: how many may be out at once.",
)  # fmt: skip
@deploy_options
@_supervised
def restart(
    names: tuple[str, ...],
    rolling: bool,
    max_unavailable: int,
    timeout: str,
    project: str,
    as_json: bool,
    data: Path | None,
    scan_directory: Path,
    form: str,
) -> int:
    """Restart programs in their order; with --rolling all instances of a SERVICE, without losing a request.

    With --rolling each instance drains, and must be in rotation again before the next; the first that does not come
    back in time ends it, with status 1.
    """
    if rolling:
        if len(names) != 1:
            raise click.UsageError("--rolling wants one SERVICE")
        return roll(names[0], max_unavailable, timeout, project, as_json or form == "json", data)
    return _do(names, data, scan_directory, "json" if as_json else form, "running", _restart(patience_of(timeout)))


@click.command(name="reload-services")
@click.option(
    "--timeout", default="60s", show_default=True, metavar="TIME",
    help="How long a node whose app was changed may take until it is ready again.",
)  # fmt: skip
@_supervised
def reload_services(timeout: str, data: Path | None, scan_directory: Path, form: str) -> int:
    """Read rumor.toml again: start what is new in it, stop what is gone, restart what runs otherwise now.

    What is the same is not touched; the node's agent is asked to read the file, too.
    """
    from rumor.cli import output

    patience = patience_of(timeout)

    async def work() -> dict[str, Any]:
        here = await _find(data, scan_directory)
        inventory = here.supervisor.inventory()
        wanted = changes(inventory.programs, _plan_again(here, inventory))
        for word, programs in (("starting", wanted.added), ("changing", wanted.changed), ("stopping", wanted.removed)):
            if programs:
                say(f"{word} {', '.join(program.name for program in programs)}")
        await bring_to(here.supervisor, wanted, wait_back=lambda node: _wait_ready(here, node, patience))
        return {
            "added": [program.name for program in wanted.added],
            "removed": [program.name for program in wanted.removed],
            "changed": [program.name for program in wanted.changed],
            "agents": await _reload_agents(await here.supervisor.programs()),
        }

    value = asyncio.run(work())
    output.show(value, form, output.reloaded_services)
    return 0


COMMANDS = (ps, start, stop, restart, reload_services)
_AILING = frozenset(state.value for state in AILING)


# --- from here on: how


async def _find(data: Path | None, scan_directory: Path) -> _Here:
    """Return the supervisor that runs here.

    Raises:
        Unreachable: none does.
    """
    directory = data_of(data, file_of(None))
    supervisord = Supervisord(directory)
    if supervisord.socket.exists() and await supervisord.is_alive():
        return _Here("supervisord", supervisord, directory)
    s6 = S6(scan_directory)
    if await s6.is_alive():
        return _Here("s6", s6, directory)
    systemd = Systemd()
    if systemd.is_installed():
        installed = Path(systemd.inventory().origin["data"])
        # Who names another directory does not mean this host's programs.
        if data is None or directory == installed:
            return _Here("systemd", systemd, installed)
    raise Unreachable(
        f"nothing is supervised here: no `rumor up` runs in {directory}, no `rumor supervise` in {scan_directory}, "
        "and `rumor install` has left no units; say --data or --scan-directory"
    )


Deed = Callable[[Supervisor, Sequence[Program]], Awaitable[Sequence[ProgramStatus]]]


async def _start(supervisor: Supervisor, programs: Sequence[Program]) -> Sequence[ProgramStatus]:
    return await start_and_wait(supervisor, [program.name for program in programs], _START_PATIENCE)


async def _stop(supervisor: Supervisor, programs: Sequence[Program]) -> Sequence[ProgramStatus]:
    await stop_in_order(supervisor, programs)
    return ()


def _restart(patience: Seconds) -> Deed:
    async def deed(supervisor: Supervisor, programs: Sequence[Program]) -> Sequence[ProgramStatus]:
        return await restart_in_order(supervisor, programs, patience)

    return deed


def _do(names: Sequence[str], data: Path | None, scan_directory: Path, form: str, wanted: str, deed: Deed) -> int:
    """Do something to programs; say what became of each, and with status 1 which are not as wanted."""
    from rumor.cli import output

    async def work() -> dict[str, Any]:
        here = await _find(data, scan_directory)
        programs = here.find(names)
        left = {status.name for status in await deed(here.supervisor, programs)}
        known = {program.name: program for program in programs}
        shown = [_shown(one, known[one.name]) for one in await here.supervisor.states() if one.name in known]
        return {"ok": not left, "wanted": wanted, "programs": shown}

    value = asyncio.run(work())
    output.show(value, form, output.done_to_programs)
    return 0 if value["ok"] else 1


def _shown(status: ProgramStatus, program: Program | None) -> dict[str, Any]:
    end = status.last_exit
    log = end.log if end else program.log if program else None
    return {
        "name": status.name,
        "state": status.state.value,
        "pid": status.pid,
        "since": None if status.since is None else round(status.since, 1),
        "last_exit": None
        if end is None
        else {
            "ago": round(max(0.0, time.time() - end.at), 1),
            "status": end.status,
            "signal": end.signal,
            "failures": end.failures,
            "pause": end.pause,
            "text": str(end),
        },
        "words": list(last_lines(log, _WORDS)) if log is not None and end is not None else [],
    }


def _plan_again(here: _Here, inventory: Inventory) -> Sequence[Program]:
    settings = overrides_of(tuple(inventory.origin.get("settings", ())))
    file = inventory.origin.get("file")
    config = load(Path(file) if file else None, environ=os.environ, overrides=settings)
    if isinstance(here.supervisor, S6):
        from rumor.host import run

        return run.plan_again(config, inventory, os.environ)
    if isinstance(here.supervisor, Systemd):
        from rumor.host import install

        return install.plan_again(config, inventory, os.environ)
    from rumor.local.planning import make_directories, plan_cluster, ports_again, settings_again, tools_of

    again, ports = settings_again(config, here.data, inventory), ports_again(here.data, inventory)
    try:
        plan = plan_cluster(again, ports, tools_of(again.file, os.environ))
        ports.keep()
        make_directories(here.data, [node.name for node in plan.nodes])
    finally:
        ports.release()
    return plan.programs


def _agent_of(program: Program) -> "AgentApi | None":
    """Return the API of an agent by its command, None if this is no node's agent."""
    from rumor.api_client import AgentApi
    from rumor.places import places

    command = program.command
    if program.group != AGENTS or "--data" not in command:
        return None
    return AgentApi(socket_path=places(Path(command[command.index("--data") + 1]), program.node).agent_socket)


async def _wait_ready(here: _Here, node: str, patience: Seconds) -> None:
    """Wait until a node's agent says that its app serves.

    Raises:
        Unreachable: it does not in time.
    """
    mine = [program for program in await here.supervisor.programs() if program.node == node]
    agents = [api for program in mine if (api := _agent_of(program)) is not None]
    reason = "its agent does not answer"
    try:
        async with asyncio.timeout(patience):
            while True:
                try:
                    for api in agents:
                        status, body = await asyncio.to_thread(api.request, "GET", "/ready")
                        if status == 200:
                            say(f"{node} is back")
                            return
                        reason = str(json.loads(body).get("reason"))
                except (RumorError, ValueError) as error:
                    reason = str(error)
                await asyncio.sleep(_POLL)
    except TimeoutError as error:
        raise Unreachable(
            f"{node} is not ready after {patience:g} s ({reason}); nodes after it were not touched"
        ) from error


async def _reload_agents(programs: Sequence[Program]) -> list[dict[str, str]]:
    """Have each agent read rumor.toml again; return what each says, and leave those alone that are just starting."""

    def ask(program: Program, api: "AgentApi") -> dict[str, str] | None:
        try:
            return {"node": program.node, "said": str(api.post("/v1/reload")["text"])}
        except Unreachable:
            return None
        except RumorError as error:
            return {"node": program.node, "said": str(error)}

    asked = [asyncio.to_thread(ask, program, api) for program in programs if (api := _agent_of(program)) is not None]
    return [answer for answer in await asyncio.gather(*asked) if answer is not None]
