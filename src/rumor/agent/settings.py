"""One configuration -> what a node offers and how its apps are checked. Nothing here acts."""

from collections.abc import Iterable

from rumor.agent.offering import OfferSettings
from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.config import Config, ServiceConfig
from rumor.errors import ConfigError
from rumor.names import HostPort

BALANCER = "balancer"
"""The part that steers a HAProxy; every other part is the name of a service."""


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
    )


def offer_settings(service: ServiceConfig, host: str) -> OfferSettings:
    return OfferSettings(
        service=service.name,
        address=HostPort(host, service.port),
        weight=service.weight,
        version=service.version,
        check=check_settings(service),
        drain=service.drain,
    )
