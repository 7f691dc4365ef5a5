"""One configuration -> what a node offers and how its apps are checked. Nothing here acts."""

from collections.abc import Iterable

from rumor.agent.offering import OfferSettings
from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.config import Config, ServiceConfig
from rumor.errors import ConfigError
from rumor.names import HostPort

BALANCER = "balancer"
"""The part that steers a HAProxy; every other part is the name of a service."""
# What a balancer says before a check of its own: that the connection is nobody else's.
_PREAMBLES = {
    "": b"",
    "v1": b"PROXY UNKNOWN\r\n",
    "v2": b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00",
}


def offered_services(config: Config, parts: Iterable[str]) -> tuple[ServiceConfig, ...]:
    """Return the services among the parts of a node.

    Raises:
        ConfigError: a part is neither `balancer` nor a service, or the service has no port.
    """
    services = tuple(config.service(part) for part in dict.fromkeys(parts) if part != BALANCER)
    for service in services:
        if not service.port:
            raise ConfigError(
                f"service {service.name} has no port: set service.{service.name}.port or --port {service.name}=PORT"
            )
    return services


def check_settings(service: ServiceConfig) -> CheckSettings:
    check = service.check
    return CheckSettings(
        kind=CheckKind.HTTP if check.http_path else CheckKind.TCP,
        path=check.http_path or "/",
        interval=check.interval,
        timeout=check.timeout,
        rise=check.rise,
        fall=check.fall,
        statuses=_statuses(check.status),
        headers=tuple(sorted(check.headers.items())),
        tls=service.tls is not None,
        tls_name=service.tls.name if service.tls is not None else "",
        preamble=_PREAMBLES[service.send_proxy],
    )


def _statuses(text: str) -> range:
    """Read `200` or `200-299`; HAProxy takes 2xx and 3xx where nothing is said."""
    low, _, high = (text or "200-399").partition("-")
    return range(int(low), int(high or low) + 1)


def offer_settings(service: ServiceConfig, host: str) -> OfferSettings:
    return OfferSettings(
        service=service.name,
        address=HostPort(host, service.port),
        weight=service.weight,
        version=service.version,
        check=check_settings(service),
        drain=service.drain,
        is_backup=service.is_backup,
    )
