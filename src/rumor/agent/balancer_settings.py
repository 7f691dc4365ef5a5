"""One configuration -> what a balancer is handed. Nothing here acts; loaded only where a balancer is played."""

import hashlib
from pathlib import Path

from rumor.agent.balancing import BalancingSettings
from rumor.config import Config, ServiceConfig
from rumor.errors import ConfigError
from rumor.names import ServiceName
from rumor.pool.table import PoolSettings
from rumor.render.settings import BackendSettings, CheckRule, RenderSettings, Route


def balancing_settings(
    config: Config, run_directory: Path, template_text: str, *, maxconn: int | None = None
) -> BalancingSettings:
    """Return what a balancer needs; `maxconn` is what this machine allows, where that is less than the file wants.

    Raises:
        ConfigError: the file does not say where HAProxy listens.
    """
    balancer = config.balancer
    if not balancer.binds:
        raise ConfigError("a balancer needs an address to serve on: set balancer.bind, for example to :8080")
    render = RenderSettings(
        binds=balancer.binds,
        stats=balancer.stats,
        run_directory=run_directory,
        maxconn=balancer.maxconn if maxconn is None else maxconn,
        server_timeout=balancer.server_timeout,
        backends=tuple(_backend(config, service) for service in config.services),
        template_text=template_text,
        template_name=str(balancer.template or "haproxy.cfg.j2"),
    )
    pool = {service.name: PoolSettings(service.floor, service.role, service.port) for service in config.services}
    return BalancingSettings(render, pool)


def _backend(config: Config, service: ServiceConfig) -> BackendSettings:
    check = service.check
    return BackendSettings(
        service=service.name,
        routes=tuple(Route(route.host, route.path) for route in service.routes),
        check=CheckRule(check.http_path, check.interval, check.timeout, check.rise, check.fall),
        balance=service.balance,
        drain=service.drain,
        retries=service.retries,
        repeat_post=service.repeat_post,
        sticky_key=_sticky_key(config.cluster.name, service.name) if service.sticky else "",
    )


def _sticky_key(cluster: str, service: ServiceName) -> str:
    """The same on every balancer of a cluster, so that a cookie of one means the same server at another."""
    return hashlib.sha256(f"{cluster}/{service}".encode()).hexdigest()[:32]
