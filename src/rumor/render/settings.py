"""What the template is told: one frozen value for the balancer, one for each backend."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rumor.model import Seconds
from rumor.names import Endpoint, HostPort, ServiceName

NO_PAGES: Mapping[int, Path] = {}


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests a service answers; `*` is any host, `/` any path. A path stands for itself and all below it."""

    host: str = "*"
    """A name, `*.example.com` for all names below it, or `*`."""
    path: str = "/"
    rewrite: str = ""
    """What stands in place of `path` in the request that the server gets; empty to leave it."""
    priority: int = 0
    """The higher goes first, whatever is more particular."""

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
    status: str = ""
    """Which answers are good, `200` or `200-299`; empty for 200 to 399."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with the request; `Host` is the service's name if it is not among them."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long HAProxy waits; None leaves it to the balancer's own."""

    connect: Seconds | None = None
    server: Seconds | None = None
    """How long a server may be silent."""
    queue: Seconds | None = None
    """How long a request waits for a server with a free slot, before it gets 503."""
    tunnel: Seconds | None = None
    """How long a websocket or an upgraded connection may be silent on both sides."""


@dataclass(frozen=True, slots=True)
class BalancerTimeouts:
    """How long HAProxy waits where a service says nothing else."""

    connect: Seconds = Seconds(0.5)
    client: Seconds = Seconds(30.0)
    server: Seconds = Seconds(30.0)
    queue: Seconds = Seconds(5.0)
    tunnel: Seconds = Seconds(3600.0)
    request: Seconds = Seconds(10.0)
    """Until a client has sent its request's head."""
    keep_alive: Seconds = Seconds(5.0)
    """How long an idle client's connection stays open; the process before a reload lives that long."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Speak TLS to the servers."""

    ca_file: Path | None = None
    """Who may have signed their certificates; None to take any certificate."""
    name: str = ""
    """Asked for by SNI, and wanted in the certificate if that is verified."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many requests (in mode tcp: connections) from one address within a length of time; more get 429."""

    requests: int
    per: Seconds


@dataclass(frozen=True, slots=True)
class Raw:
    """Lines of the operator's own for what rumor does not model."""

    backend: tuple[str, ...] = ()
    frontend: tuple[str, ...] = ()
    server: str = ""
    """Words at the end of each server line."""
    global_: tuple[str, ...] = ()
    defaults: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    """Whole sections at the end of the file."""


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
    mode: str = "http"
    """`http`, behind the common frontend, or `tcp`, behind one of its own."""
    binds: tuple[Endpoint, ...] = ()
    """Where a tcp service is served."""
    timeouts: Timeouts = Timeouts()
    max_connections: int = 0
    """How many requests a server gets at once, the others wait in a queue; 0 for no limit."""
    slow_start: Seconds | None = None
    """Over how long a server that comes back gets its full share."""
    tls: ServerTls | None = None
    send_proxy: str = ""
    """Tell servers the client's address by the PROXY protocol: `v1` or `v2`."""
    rate_limit: RateLimit | None = None
    allow: tuple[str, ...] = ()
    """Networks whose clients are let in, all others are not; empty for everybody."""
    deny: tuple[str, ...] = ()
    error_pages: Mapping[int, Path] = field(default_factory=lambda: NO_PAGES)
    raw: Raw = Raw()


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS for clients, HTTP/2 among it."""

    binds: tuple[Endpoint, ...]
    directory: Path
    """Holds a PEM file for each certificate, with its chain and its key, and nothing else."""
    certificates: tuple[str, ...]
    """The names of these files; without any nobody is served by TLS."""
    redirects: bool
    """Whether plain requests are sent to the first of `binds`."""
    oldest: str = "TLSv1.2"


@dataclass(frozen=True, slots=True)
class Peers:
    """Balancers that share their stick tables; each is named as its node is."""

    local: str
    addresses: tuple[tuple[str, HostPort], ...]
    """All of them, this one too, in order of their names."""


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """One balancer's HAProxy. `template_text` is Jinja2, the built-in template's or the user's."""

    binds: tuple[Endpoint, ...]
    stats: Endpoint | None
    run_directory: Path
    maxconn: int
    backends: tuple[BackendSettings, ...]
    template_text: str
    template_name: str = "haproxy.cfg.j2"
    timeouts: BalancerTimeouts = BalancerTimeouts()
    tls: ClientTls | None = None
    accept_proxy: bool = False
    """Whether those who connect speak the PROXY protocol first: another balancer stands before this one."""
    forwarded_for: bool = True
    request_id: bool = False
    error_pages: Mapping[int, Path] = field(default_factory=lambda: NO_PAGES)
    peers: Peers | None = None
    raw: Raw = Raw()
