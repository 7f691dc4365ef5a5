"""The engine of Docker: an instance is a container that is a member of the cluster.

Which containers offer a service, and who is in rotation, the balancers say: containers too, whose environment plays the
part. New containers are made like the ones that run, compose's labels included, so that compose finds them.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import aiodocker
import aiohttp

from rumor.deploy.docker_like import Wanted, container_like, member_of, next_names, project_of
from rumor.deploy.engine import Instance, Say, Spec
from rumor.errors import Refused, Unreachable
from rumor.model import Rotation, Seconds
from rumor.names import ServiceName

_DEADLINE = Seconds(60.0)
_STOP_SECONDS = 120
"""How long Docker is to wait for a container to drain and stop: s6 in it bounds every step, Docker need not."""
_YOUNG = Seconds(10.0)
_YOUNG_STOP_SECONDS = 20
"""The same for one started a moment ago: its first process may be too young to hear the signal, and it has no sessions
worth waiting for."""
_REPLY_LIMIT = 16 * 1024 * 1024
_ROLES = ("RUMOR_ROLE=", "ROLE=")
_GONE = 404
_GOING = 409


class DockerEngine:
    """Containers of one Docker engine."""

    def __init__(self, docker: aiodocker.Docker, *, project: str = "", say: Say = lambda text: None) -> None:
        """Take an engine; with a project only that compose project's containers are seen.

        Args:
            docker: the engine.
            project: of compose; empty for every container.
            say: told what a user may not expect.
        """
        self._docker = docker
        self._project = project
        self._say = say
        self._shown: dict[str, Mapping[str, Any]] = {}
        """What Docker has shown of containers that run, by id: of what is read here nothing changes while they do."""
        self._started: dict[str, float] = {}
        """When this engine started a container, on the monotonic clock."""

    @classmethod
    @asynccontextmanager
    async def open(cls, *, project: str = "", say: Say = lambda text: None) -> AsyncIterator["DockerEngine"]:
        """Reach the engine that DOCKER_HOST names, or this machine's.

        Raises:
            Unreachable: there is none.
        """
        try:
            docker = aiodocker.Docker()
        except (ValueError, AssertionError) as error:
            raise Unreachable(f"no Docker engine: {str(error) or 'DOCKER_HOST says where it is'}") from error
        try:
            with _translated("Docker"):
                async with asyncio.timeout(_DEADLINE):
                    await docker.version()
            yield cls(docker, project=project, say=say)
        finally:
            await docker.close()

    # --- who is there

    async def instances(self, service: ServiceName) -> tuple[Instance, ...]:
        return (await self._found(service))[0]

    async def elsewhere(self, service: ServiceName) -> tuple[str, ...]:
        """Return the servers of a service that are no containers of this engine: deploys leave them as they are."""
        return (await self._found(service))[1]

    async def _found(self, service: ServiceName) -> tuple[tuple[Instance, ...], tuple[str, ...]]:
        names = {server["name"] for table in await self._tables() for server in _servers(table, service)}
        here = {member_of(shown): shown for shown in await self._running()}
        found = tuple(
            Instance(name, here[name]["Id"], here[name]["Config"]["Image"]) for name in sorted(names & here.keys())
        )
        return found, tuple(sorted(names - here.keys()))

    async def in_rotation(self, service: ServiceName) -> frozenset[str]:
        """Return the servers that every balancer has ready and well by HAProxy's check."""
        sets = [
            frozenset(
                server["name"]
                for server in _servers(table, service)
                if server["state"] == Rotation.READY.value and (server["haproxy"] or {}).get("is_up")
            )
            for table in await self._tables()
        ]
        return frozenset.intersection(*sets)

    async def _running(self) -> list[Mapping[str, Any]]:
        filters = {"label": [f"com.docker.compose.project={self._project}"]} if self._project else {}
        with _translated("Docker"):
            async with asyncio.timeout(_DEADLINE):
                containers = await self._docker.containers.list(filters=json.dumps(filters))
                found = {container.id: self._shown.get(container.id) for container in containers}
                for container in containers:
                    if found[container.id] is None:
                        found[container.id] = await self._show(container)
        self._shown = {key: shown for key, shown in found.items() if shown is not None}
        return list(self._shown.values())

    async def _show(self, container: Any) -> Mapping[str, Any] | None:
        """Return what Docker shows of a container, None if it has gone since it was listed."""
        try:
            shown: Mapping[str, Any] = await container.show()
        except aiodocker.DockerError as error:
            if error.status != _GONE:
                raise
            return None
        return shown

    async def _tables(self) -> list[Mapping[str, Any]]:
        """Return the table of each balancer.

        Raises:
            Refused: there are balancers of several projects, and which is meant was not said.
            Unreachable: there is no balancer, or one does not answer.
        """
        balancers = [shown for shown in await self._running() if "balancer" in _parts(shown)]
        if not balancers:
            where = f" in compose project {self._project}" if self._project else ""
            raise Unreachable(f"no container plays the balancer{where}: RUMOR_ROLE=balancer is what says so")
        projects = sorted({project_of(shown) for shown in balancers})
        if len(projects) > 1:
            words = ", ".join(project or "one without a project" for project in projects)
            raise Refused(f"several projects have a balancer here ({words}): say which with --project")
        return [await self._table(shown) for shown in balancers]

    async def _table(self, balancer: Mapping[str, Any]) -> Mapping[str, Any]:
        name = str(balancer["Name"]).lstrip("/")
        reply = bytearray()
        with _translated(f"balancer {name}"):
            async with asyncio.timeout(_DEADLINE):
                container = self._docker.containers.container(balancer["Id"])
                process = await container.exec(["rumor", "table", "--format", "json"], stderr=False)
                async with process.start(detach=False) as stream:
                    while (message := await stream.read_out()) is not None and len(reply) < _REPLY_LIMIT:
                        reply += message.data
        try:
            table: Mapping[str, Any] = json.loads(reply)
            table["services"]
        except (ValueError, KeyError, TypeError) as error:
            raise Unreachable(f"the agent of balancer {name} does not answer: see `docker logs {name}`") from error
        return table

    # --- what is done to them

    async def start_new(self, service: ServiceName, spec: Spec, count: int) -> tuple[Instance, ...]:
        instances = await self.instances(service)
        if not instances:
            raise Refused(f"nothing that offers {service} runs here any more")
        with _translated("Docker"):
            async with asyncio.timeout(_DEADLINE):
                model = await self._docker.containers.container(instances[0].id).show()
                old_image = await self._docker.images.inspect(model["Image"])
                everybody = await self._docker.containers.list(all=True)
        image = spec.image or model["Config"]["Image"]
        variable = f"RUMOR_SERVICE_{service.upper().replace('-', '_').replace('.', '_')}_COMMAND"
        environment = {variable: spec.command} if spec.command else {}
        taken = [name.lstrip("/") for container in everybody for name in container["Names"]]
        started: list[Instance] = []
        try:
            for name in next_names(str(model["Name"]).lstrip("/"), taken, count):
                wanted = container_like(model, old_image, image=image, environment=environment, name=name)
                kept = next((entry for entry in wanted.config["Env"] if entry.startswith(f"{variable}=")), "")
                if not started and kept and not spec.command:
                    self._say(f"{kept} was said for the container, and stays: --command says another")
                started += [await self._start_one(wanted, image)]
        except BaseException:
            await asyncio.gather(*map(self.stop, started), return_exceptions=True)
            raise
        return tuple(started)

    async def _start_one(self, wanted: Wanted, image: str) -> Instance:
        """Create a container and start it; if it cannot be started it is not left behind."""
        with _translated("Docker", refuses=f"Docker cannot start {wanted.name} of {image}"):
            async with asyncio.timeout(_DEADLINE):
                container = await self._docker.containers.create(dict(wanted.config), name=wanted.name)
            try:
                async with asyncio.timeout(_DEADLINE):
                    shown = await container.show()
                    for network, settings in wanted.more_networks.items():
                        found = await self._docker.networks.get(network)
                        await found.connect({"Container": container.id, "EndpointConfig": dict(settings)})
                    self._started[shown["Id"]] = time.monotonic()
                    await container.start()
            except BaseException:
                with suppress(aiodocker.DockerError, aiohttp.ClientError, OSError, TimeoutError):
                    async with asyncio.timeout(_DEADLINE):
                        await container.delete(force=True, v=True)
                raise
        return Instance(member_of(shown), shown["Id"], image)

    async def stop(self, instance: Instance) -> None:
        container = self._docker.containers.container(instance.id)
        with _translated("Docker", refuses=f"Docker cannot stop {instance.name}"):
            is_young = time.monotonic() - self._started.get(instance.id, float("-inf")) < _YOUNG
            patience = _YOUNG_STOP_SECONDS if is_young else _STOP_SECONDS
            async with asyncio.timeout(patience + _DEADLINE):
                await _until_gone(container.stop(t=patience, timeout=None))
                await _until_gone(container.delete(v=True, force=True))

    async def restart(self, instance: Instance) -> None:
        container = self._docker.containers.container(instance.id)
        with _translated("Docker", refuses=f"Docker cannot restart {instance.name}"):
            async with asyncio.timeout(_STOP_SECONDS + _DEADLINE):
                await container.restart(t=_STOP_SECONDS, timeout=None)

    async def words(self, instance: Instance) -> str:
        container = self._docker.containers.container(instance.id)
        with _translated("Docker", refuses=f"Docker cannot read the log of {instance.name}"):
            async with asyncio.timeout(_DEADLINE):
                return "".join(await container.log(stdout=True, stderr=True, tail=20))


async def _until_gone(deed: Awaitable[None]) -> None:
    """Do what takes a container away; with --rm Docker may have been there first."""
    try:
        await deed
    except aiodocker.DockerError as error:
        if error.status not in (_GONE, _GOING):
            raise


@contextmanager
def _translated(whom: str, *, refuses: str = "") -> Iterator[None]:
    """Turn aiodocker's errors into rumor's.

    Args:
        whom: who did not answer.
        refuses: where Docker's no is a no to something that was asked of it: what. Else it is a failure to look.
    """
    try:
        yield
    except aiodocker.DockerError as error:
        if refuses:
            raise Refused(f"{refuses}: {error.message}") from error
        raise Unreachable(f"{whom} does not answer: {error.message}") from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Unreachable(f"{whom} does not answer: {str(error) or 'nothing in time'}") from error


def _servers(table: Mapping[str, Any], service: ServiceName) -> list[Mapping[str, Any]]:
    return [server for entry in table["services"] if entry["name"] == service for server in entry["servers"]]


def _parts(shown: Mapping[str, Any]) -> list[str]:
    for prefix in _ROLES:
        for entry in shown["Config"].get("Env") or ():
            if entry.startswith(prefix) and entry != prefix:
                return [part.strip() for part in entry.removeprefix(prefix).split(",")]
    return []
