"""The engine of Docker: an instance is a container whose hostname is its member's name.

Which containers offer a service, and who is in rotation, the balancers say: containers too, whose environment plays the
part. New containers are made like the ones that run, compose's labels included, so that compose finds them.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiodocker
import aiohttp

from rumor.deploy.docker_like import container_like, next_names
from rumor.deploy.engine import Instance, Spec
from rumor.errors import Refused, Unreachable
from rumor.model import Rotation, Seconds
from rumor.names import ServiceName

_DEADLINE = Seconds(60.0)
_STOP_TIMEOUT = 20
_REPLY_LIMIT = 16 * 1024 * 1024
_PROJECT = "com.docker.compose.project"
_ROLES = ("RUMOR_ROLE=", "ROLE=")


class DockerEngine:
    """Containers of one Docker engine."""

    def __init__(self, docker: aiodocker.Docker, *, project: str = "") -> None:
        """Take an engine; with a project only that compose project's containers are seen."""
        self._docker = docker
        self._project = project

    @classmethod
    @asynccontextmanager
    async def open(cls, *, project: str = "") -> AsyncIterator["DockerEngine"]:
        """Reach the engine that DOCKER_HOST names, or this machine's.

        Raises:
            Unreachable: there is none.
        """
        try:
            docker = aiodocker.Docker()
        except ValueError as error:
            raise Unreachable(f"no Docker engine: {error}") from error
        try:
            async with asyncio.timeout(_DEADLINE):
                await docker.version()
            yield cls(docker, project=project)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(f"the Docker engine does not answer: {str(error) or 'no answer in time'}") from error
        except aiodocker.DockerError as error:
            raise Refused(f"Docker says: {error.message}") from error
        finally:
            await docker.close()

    # --- who is there

    async def instances(self, service: ServiceName) -> tuple[Instance, ...]:
        names = set[str]()
        for table in await self._tables():
            names |= {server["name"] for server in _servers(table, service)}
        found = [
            Instance(shown["Config"]["Hostname"], shown["Id"], shown["Config"]["Image"])
            for shown in await self._running()
            if shown["Config"]["Hostname"] in names
        ]
        return tuple(sorted(found, key=lambda instance: instance.name))

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
        filters = {"label": [f"{_PROJECT}={self._project}"]} if self._project else {}
        containers = await self._docker.containers.list(filters=json.dumps(filters))
        return [await container.show() for container in containers]

    async def _tables(self) -> list[Mapping[str, Any]]:
        """Return the table of each balancer.

        Raises:
            Unreachable: there is no balancer, or one does not answer.
        """
        balancers = [shown for shown in await self._running() if "balancer" in _parts(shown)]
        if not balancers:
            where = f" in compose project {self._project}" if self._project else ""
            raise Unreachable(f"no container plays the balancer{where}: RUMOR_ROLE=balancer is what says so")
        return [await self._table(shown) for shown in balancers]

    async def _table(self, balancer: Mapping[str, Any]) -> Mapping[str, Any]:
        container = self._docker.containers.container(balancer["Id"])
        process = await container.exec(["rumor", "table", "--format", "json"], stderr=False)
        reply = bytearray()
        async with asyncio.timeout(_DEADLINE), process.start(detach=False) as stream:
            while (message := await stream.read_out()) is not None and len(reply) < _REPLY_LIMIT:
                reply += message.data
        try:
            table: Mapping[str, Any] = json.loads(reply)
            table["services"]
        except (ValueError, KeyError, TypeError) as error:
            name = str(balancer["Name"]).lstrip("/")
            raise Unreachable(f"the agent of balancer {name} does not answer: see `docker logs {name}`") from error
        return table

    # --- what is done to them

    async def start_new(self, service: ServiceName, spec: Spec, count: int) -> tuple[Instance, ...]:
        model = await self._docker.containers.container((await self.instances(service))[0].id).show()
        old_image = await self._docker.images.inspect(model["Image"])
        image = spec.image or model["Config"]["Image"]
        variable = f"RUMOR_SERVICE_{service.upper().replace('-', '_').replace('.', '_')}_COMMAND"
        environment = {variable: spec.command} if spec.command else {}
        everybody = await self._docker.containers.list(all=True)
        taken = [name.lstrip("/") for container in everybody for name in container["Names"]]
        started: list[Instance] = []
        try:
            for name in next_names(str(model["Name"]).lstrip("/"), taken, count):
                started += [await self._start_one(model, old_image, image, environment, name)]
        except BaseException:
            for instance in started:
                await self.stop(instance)
            raise
        return tuple(started)

    async def _start_one(
        self,
        model: Mapping[str, Any],
        old_image: Mapping[str, Any],
        image: str,
        environment: Mapping[str, str],
        name: str,
    ) -> Instance:
        wanted = container_like(model, old_image, image=image, environment=environment, name=name)
        try:
            container = await self._docker.containers.create(dict(wanted.config), name=wanted.name)
        except aiodocker.DockerError as error:
            raise Refused(f"Docker cannot start {name} of {image}: {error.message}") from error
        shown = await container.show()
        instance = Instance(shown["Config"]["Hostname"], shown["Id"], image)
        try:
            for network, settings in wanted.more_networks.items():
                found = await self._docker.networks.get(network)
                await found.connect({"Container": container.id, "EndpointConfig": dict(settings)})
            await container.start()
        except aiodocker.DockerError as error:
            await container.delete(force=True, v=True)
            raise Refused(f"Docker cannot start {name} of {image}: {error.message}") from error
        return instance

    async def stop(self, instance: Instance) -> None:
        container = self._docker.containers.container(instance.id)
        try:
            await container.stop(t=await self._patience(instance), timeout=None)
            await container.delete(v=True, force=True)
        except aiodocker.DockerError as error:
            raise Refused(f"Docker cannot stop {instance.name}: {error.message}") from error

    async def restart(self, instance: Instance) -> None:
        container = self._docker.containers.container(instance.id)
        try:
            await container.restart(t=await self._patience(instance), timeout=None)
        except aiodocker.DockerError as error:
            raise Refused(f"Docker cannot restart {instance.name}: {error.message}") from error

    async def _patience(self, instance: Instance) -> int:
        """Return how long Docker may wait before it kills: what the container says, else long enough for a drain."""
        shown = await self._docker.containers.container(instance.id).show()
        return int(shown["Config"].get("StopTimeout") or _STOP_TIMEOUT)

    async def words(self, instance: Instance) -> str:
        container = self._docker.containers.container(instance.id)
        try:
            return "".join(await container.log(stdout=True, stderr=True, tail=20))
        except aiodocker.DockerError as error:
            return f"its log cannot be read: {error.message}"


def _servers(table: Mapping[str, Any], service: ServiceName) -> list[Mapping[str, Any]]:
    return [server for entry in table["services"] if entry["name"] == service for server in entry["servers"]]


def _parts(shown: Mapping[str, Any]) -> list[str]:
    for prefix in _ROLES:
        for entry in shown["Config"].get("Env") or ():
            if entry.startswith(prefix) and entry != prefix:
                return [part.strip() for part in entry.removeprefix(prefix).split(",")]
    return []
