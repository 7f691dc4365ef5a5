"""One configuration -> what a balancer is handed. Nothing here acts; loaded only where a balancer is played."""

import hashlib
from pathlib import Path

from rumor.agent.balancing import BalancingSettings
from rumor.config import Config, ServiceConfig, TlsConfig
from rumor.errors import ConfigError
from rumor.names import HostPort, ServiceName
from rumor.pool.table import PoolSettings
from rumor.render.settings import BackendSettings, CheckRule, ClientTls, RenderSettings

CERTIFICATES = "certificates"
"""The directory, below the run directory, from which HAProxy takes certificates."""


def balancing_settings(
    config: Config,
    run_directory: Path,
    template_text: str,
    *,
    maxconn: int | None = None,
    peers: HostPort | None = None,
) -> BalancingSettings:
    """Return what a balancer needs.

    Args:
        config: the whole configuration.
        run_directory: where HAProxy's sockets are.
        template_text: the template.
        maxconn: what this machine allows, where that is less than the file wants.
        peers: where this balancer shares its stick tables, if it does.

    Raises:
        ConfigError: the file does not say where HAProxy listens.
    """
    balancer = config.balancer
    if not balancer.binds and balancer.tls is None and all(service.mode == "http" for service in config.services):
        raise ConfigError("a balancer needs an address to serve on: set balancer.bind, for example to :8080")
    render = RenderSettings(
        binds=balancer.binds,
        stats=balancer.stats,
        run_directory=run_directory,
        maxconn=balancer.maxconn if maxconn is None else maxconn,
        backends=tuple(_backend(config, service) for service in config.services),
        template_text=template_text,
        template_name=str(balancer.template or "haproxy.cfg.j2"),
        timeouts=balancer.timeouts,
        tls=_client_tls(balancer.tls, run_directory),
        accept_proxy=balancer.accept_proxy,
        forwarded_for=balancer.forwarded_for,
        request_id=balancer.request_id,
        error_pages=balancer.error_pages,
        raw=balancer.raw,
    )
    pool = {
        service.name: PoolSettings(service.floor, service.role, service.port, service.split)
        for service in config.services
    }
    return BalancingSettings(render, pool, balancer.tls.certificates if balancer.tls else None, peers)


def _client_tls(tls: TlsConfig | None, run_directory: Path) -> ClientTls | None:
    """Without certificates as yet: those are found while the balancer runs."""
    if tls is None:
        return None
    return ClientTls(tls.binds, run_directory / CERTIFICATES, (), tls.redirect, tls.oldest)


def _backend(config: Config, service: ServiceConfig) -> BackendSettings:
    check = service.check
    return BackendSettings(
        service=service.name,
        routes=service.routes,
        check=CheckRule(
            check.http_path, check.interval, check.timeout, check.rise, check.fall, check.status, check.headers
        ),
        balance=service.balance,
        drain=service.drain,
        retries=service.retries,
        repeat_post=service.repeat_post,
        sticky_key=_sticky_key(config.cluster.name, service.name) if service.sticky else "",
        mode=service.mode,
        binds=service.binds,
        timeouts=service.timeouts,
        max_connections=service.max_connections,
        slow_start=service.slow_start,
        tls=service.tls,
        send_proxy=service.send_proxy,
        rate_limit=service.rate_limit,
        allow=service.allow,
        deny=service.deny,
        error_pages=service.error_pages,
        raw=service.raw,
    )


def _sticky_key(cluster: str, service: ServiceName) -> str:
    """The same on every balancer of a cluster, so that a cookie of one means the same server at another."""
    return hashlib.sha256(f"{cluster}/{service}".encode()).hexdigest()[:32]
