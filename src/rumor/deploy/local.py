"""The engine of `rumor up`: an instance is a node of the cluster on this machine, an app and its agent.

New ones are nodes of higher numbers, laid out by rumor.toml as it is now and by what the deploy says. `rumor up` goes
on watching: supervisord takes programs in and lets them go while others run.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rumor.api_client import AgentApi
from rumor.config import load
from rumor.deploy.engine import Instance, Spec
from rumor.errors import Refused
from rumor.local.plan import BALANCER
from rumor.local.planning import make_directories, numbers_there, plan_cluster, ports_again, settings_again, tools_of
from rumor.model import Rotation
from rumor.names import ServiceName
from rumor.places import places
from rumor.supervise.base import APPS, ENDED, Program
from rumor.supervise.exit_files import last_lines
from rumor.supervise.operating import stop_in_order
from rumor.supervise.supervisord import Supervisord

_LINES = 20


class LocalEngine:
    """The nodes of one data directory."""

    def __init__(self, data: Path, environ: Mapping[str, str]) -> None:
        self._data = data
        self._environ = environ
        self._supervisor = Supervisord(data)

    async def is_alive(self) -> bool:
        return self._supervisor.socket.exists() and await self._supervisor.is_alive()

    async def instances(self, service: ServiceName) -> tuple[Instance, ...]:
        stopped = {status.name for status in await self._supervisor.states() if status.state in ENDED}
        found = [
            _instance(program)
            for program in await self._supervisor.programs()
            if program.group == APPS and program.node.rpartition("-")[0] == service and program.name not in stopped
        ]
        return tuple(sorted(found, key=lambda instance: _number(instance.name)))

    async def elsewhere(self, service: ServiceName) -> tuple[str, ...]:
        """Return none: a cluster of one machine is all there."""
        return ()

    async def in_rotation(self, service: ServiceName) -> frozenset[str]:
        """Return the servers that the balancer has ready and well by HAProxy's check."""
        api = AgentApi(socket_path=places(self._data, BALANCER).agent_socket)
        table: dict[str, Any] = await asyncio.to_thread(api.get, "/v1/table")
        return frozenset(
            server["name"]
            for entry in table["services"]
            if entry["name"] == service
            for server in entry["servers"]
            if server["state"] == Rotation.READY.value and (server["haproxy"] or {}).get("is_up")
        )

    async def start_new(self, service: ServiceName, spec: Spec, count: int) -> tuple[Instance, ...]:
        if spec.image:
            raise Refused("this cluster runs commands, not images: say --command, or --project for Docker")
        programs = await self._plan_more(service, spec, count)
        await self._supervisor.add(programs)
        return tuple(_instance(program) for program in programs if program.group == APPS)

    async def stop(self, instance: Instance) -> None:
        programs = await self._programs_of(instance)
        await stop_in_order(self._supervisor, programs)
        await self._supervisor.remove([program.name for program in programs])

    async def restart(self, instance: Instance) -> None:
        programs = await self._programs_of(instance)
        await stop_in_order(self._supervisor, programs)
        await self._supervisor.start([program.name for program in programs])

    async def words(self, instance: Instance) -> str:
        logs = [program.log for program in await self._programs_of(instance) if program.group == APPS]
        lines = [line for log in logs for line in await asyncio.to_thread(last_lines, log, _LINES)]
        return "\n".join(lines)

    # --- from here on: how

    async def _programs_of(self, instance: Instance) -> tuple[Program, ...]:
        return tuple(program for program in await self._supervisor.programs() if program.node == instance.name)

    async def _plan_more(self, service: ServiceName, spec: Spec, count: int) -> Sequence[Program]:
        """Return the programs of so many nodes more, beside those that run."""
        inventory = self._supervisor.inventory()
        config = load(Path(inventory.origin["file"]), environ=self._environ)
        known = config.service(service)
        first = max(numbers_there(config, inventory)[service], default=0) + 1
        process = replace(known.process, command=spec.command or known.process.command)
        more = replace(known, process=process, replicas=count)
        config = replace(config, services=tuple(more if one.name == service else one for one in config.services))
        new = {service: range(first, first + count)}
        settings = replace(settings_again(config, self._data, inventory), numbers=new)
        ports = ports_again(self._data, inventory)
        try:
            plan = await asyncio.to_thread(plan_cluster, settings, ports, tools_of(settings.file, self._environ))
            ports.keep()
        finally:
            ports.release()
        there = {program.name for program in inventory.programs}
        await asyncio.to_thread(make_directories, self._data, [node.name for node in plan.nodes])
        return [program for program in plan.programs if program.name not in there]


def _instance(app: Program) -> Instance:
    return Instance(app.node, app.node, " ".join(app.command))


def _number(node: str) -> int:
    return int(node.rpartition("-")[2])
