"""What the template is told: one frozen value for the balancer, one for each backend."""

from dataclasses import dataclass
from pathlib import Path

from rumor.model import Seconds
from rumor.names import Endpoint, ServiceName


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests a service answers; `*` is any host, `/` any path. A path stands for itself and all below it."""

    host: str = "*"
    path: str = "/"

    def __str__(self) -> str:
        return f"{self.host}{self.path}"


@dataclass(frozen=True, slots=True)
class CheckRule:
    """How HAProxy checks a server; an empty path means that a TCP connection is enough."""

    http_path: str
    interval: Seconds
    timeout: Seconds
    rise: int
    fall: int


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """One service as HAProxy should serve it."""

    service: ServiceName
    routes: tuple[Route, ...]
    check: CheckRule
    balance: str
    drain: Seconds
    retries: int
    """0 switches retrying and redispatching off."""
    repeat_post: bool
    """Whether the service has said that any request may safely be sent twice."""
    sticky_key: str
    """The key of the cookie that binds a client to its server; empty for none."""


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """One balancer's HAProxy. `template_text` is Jinja2, the built-in template's or the user's."""

    binds: tuple[Endpoint, ...]
    stats: Endpoint | None
    run_directory: Path
    maxconn: int
    server_timeout: Seconds
    backends: tuple[BackendSettings, ...]
    template_text: str
    template_name: str = "haproxy.cfg.j2"
