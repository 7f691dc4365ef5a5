"""A Docker engine in memory: as much of aiodocker as rumor asks of it, and its errors where a test wants them."""

import json
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import aiodocker

PROJECT = "com.docker.compose.project"


def error(status: int, message: str) -> aiodocker.DockerError:
    return aiodocker.DockerError(status, message)


@dataclass
class Container:
    """One container, and what went wrong with it."""

    docker: "FakeDocker"
    id: str
    name: str
    config: dict[str, Any]
    host: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)
    table: object = None
    """What `rumor table` in it prints; an exception is raised."""
    is_running: bool = True

    def __getitem__(self, key: str) -> object:
        return {"Names": [f"/{self.name}"], "Id": self.id}[key]

    async def show(self) -> dict[str, Any]:
        self.docker.shows.append(self.name)
        self.docker.check("show", self)
        return {
            "Id": self.id, "Name": f"/{self.name}", "Image": f"id of {self.config['Image']}",
            "Config": self.config, "HostConfig": self.host, "NetworkSettings": {"Networks": self.networks},
        }  # fmt: skip

    async def exec(self, command: list[str], **options: object) -> "Exec":
        self.docker.check("exec", self)
        return Exec(self.table)

    async def start(self) -> None:
        self.docker.check("start", self)
        self.is_running = True

    async def stop(self, *, t: int, timeout: None) -> None:
        self.docker.check("stop", self)
        self.docker.patience.append(t)
        self.is_running = False
        if self.host.get("AutoRemove"):
            del self.docker.all[self.id]

    async def restart(self, *, t: int, timeout: None) -> None:
        self.docker.check("restart", self)
        self.docker.patience.append(t)

    async def delete(self, *, force: bool, v: bool) -> None:
        self.docker.check("delete", self)
        if self.id not in self.docker.all:
            raise error(404, "no such container")
        del self.docker.all[self.id]


@dataclass
class Exec:
    """What a command in a container prints."""

    table: object
    is_read: bool = False

    @asynccontextmanager
    async def start(self, *, detach: bool):  # type: ignore[no-untyped-def] # aiodocker's own is typed; this is a fake
        yield self

    async def read_out(self) -> object:
        if isinstance(self.table, BaseException):
            raise self.table
        if self.is_read:
            return None
        self.is_read = True
        text = self.table if isinstance(self.table, bytes) else json.dumps(self.table).encode()
        return type("Message", (), {"data": text})


class FakeDocker:
    """The engine: `containers`, `images`, `networks`."""

    def __init__(self) -> None:
        self.all: dict[str, Container] = {}
        self.shows: list[str] = []
        self.patience: list[int] = []
        self.created: list[Mapping[str, Any]] = []
        self.check: Callable[[str, Container], None] = lambda deed, container: None
        self.containers = self.images = self.networks = self

    @property
    def as_docker(self) -> aiodocker.Docker:
        return cast(aiodocker.Docker, self)

    def add(
        self,
        name: str,
        *environment: str,
        project: str = "shop",
        table: object = None,
        hostname: str = "",
        **host: object,
    ) -> Container:
        config = {
            "Hostname": hostname or f"host-{name}", "Image": "shop:1", "Env": list(environment),
            "Labels": {PROJECT: project} if project else {},
        }  # fmt: skip
        made = Container(self, f"id-{name}", name, config, {"NetworkMode": "net", **host}, {"net": {}}, table)
        self.all[made.id] = made
        return made

    async def list(self, *, all: bool = False, filters: str = "{}") -> list[Container]:
        label = json.loads(filters).get("label", [f"{PROJECT}="])[0].partition("=")[2]
        return [
            one for one in self.all.values()
            if (all or one.is_running) and (not label or one.config["Labels"].get(PROJECT) == label)
        ]  # fmt: skip

    def container(self, id: str) -> Container:
        return self.all.get(id) or Container(self, id, "gone", {"Image": ""})

    async def inspect(self, image: str) -> dict[str, Any]:
        return {"Config": {"Env": [], "Labels": {}}}

    async def create(self, config: dict[str, Any], *, name: str) -> Container:
        self.created.append(config)
        made = self.add(name, *config["Env"], hostname=f"host-{name}", **config["HostConfig"])
        made.is_running = False
        self.check("create", made)
        return made
