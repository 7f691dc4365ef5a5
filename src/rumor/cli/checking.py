"""`rumor config check [FILE]`: would HAProxy load it? Of a rumor.toml or a template: all that would come of it.

What is rendered is rendered twice, without a server and with samples of every kind, so that no line stays unseen.
"""

import asyncio
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rumor.agent.balancer_settings import balancing_settings
from rumor.agent.revisions import Surroundings
from rumor.atomic_file import write_atomically
from rumor.config import Config, ServiceConfig, load
from rumor.errors import ConfigError, Refused
from rumor.haproxy.certificates import Certificates
from rumor.model import Cause, Rotation, Server, Service, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName
from rumor.render.publish import allowed_maxconn, check_haproxy, find_haproxy, read_template
from rumor.render.settings import RenderSettings
from rumor.render.template import render

_LINE = re.compile(r"haproxy\.cfg:(\d+)\]")
_NODE = "sample-node"
_SAMPLES = (
    ("sample-ready", Rotation.READY, False), ("sample-drain", Rotation.DRAIN, False),
    ("sample-maint", Rotation.MAINT, False), ("sample-backup", Rotation.READY, True),
)  # fmt: skip
_PORT = 8080


def check_file(file: Path | None, toml: Path | None) -> str:
    """Return the words against a file, empty if HAProxy would load it.

    Args:
        file: a template if it ends in .j2, a rumor.toml if it ends in .toml, else a haproxy.cfg; None for `toml`.
        toml: the rumor.toml whose services are rendered; None where there is none: one plain service then.

    Raises:
        ConfigError: a file cannot be read, or there is no HAProxy to ask.
    """
    program = find_haproxy(os.environ).path
    if file is not None and file.suffix not in (".j2", ".toml"):
        return asyncio.run(check_haproxy(program, _read(file)))
    is_template = file is not None and file.suffix == ".j2"
    toml = toml if is_template or file is None else file
    config = load(toml, environ=os.environ) if toml is not None else Config()
    if is_template:
        config = replace(config, balancer=replace(config.balancer, template=file))
    return asyncio.run(_check_rendered(program, config))


async def _check_rendered(program: Path, config: Config) -> str:
    """Return the words against what comes of a configuration, each with the line it speaks of."""
    if not config.services:
        config = replace(config, services=(ServiceConfig(ServiceName("sample")),))
    if not config.balancer.binds:
        # `rumor up` finds one by itself.
        config = replace(config, balancer=replace(config.balancer, binds=(Endpoint("", _PORT),)))
    with tempfile.TemporaryDirectory(prefix="rumor-") as directory:
        settings, refused = await _settings(config, Path(directory))
        for samples in ((), _SAMPLES):
            table = Table(tuple(_service(service, samples) for service in config.services))
            try:
                text = render(table, settings, Cause("check", "checked by hand")).text
            except Refused as error:
                return str(error)
            words = await check_haproxy(program, text)
            if words:
                return _with_lines(words, text.splitlines())
    return refused


async def _settings(config: Config, directory: Path) -> tuple[RenderSettings, str]:
    """Return what is rendered, beside the certificates and balancers there might be; and words against certificates."""
    template = config.balancer.template
    maxconn = allowed_maxconn(config.balancer.maxconn)
    settings = balancing_settings(config, directory, read_template(template), maxconn=maxconn)
    names, refused = tuple[str, ...](), ""
    if settings.certificates is not None and settings.render.tls is not None:
        found = await Certificates(write_atomically).look(settings.certificates, settings.render.tls.directory)
        names = found.names
        refused = "\n".join(f"certificate {name} would not be used: {reason}" for name, reason in found.refused)
    peers = config.balancer.peers
    balancers = () if peers is None else ((_NODE, HostPort("192.0.2.9", peers.port)),)
    return Surroundings(names, balancers, _NODE).complete(settings.render), refused


def _service(service: ServiceConfig, samples: Sequence[tuple[str, Rotation, bool]]) -> Service:
    """Return a service with servers at addresses that belong to nobody (RFC 5737)."""
    return Service(
        service.name,
        tuple(
            Server(
                MemberName(name), HostPort(f"192.0.2.{number}", service.port or _PORT), service.weight, rotation,
                service.version, is_backup=is_backup,
            )
            for number, (name, rotation, is_backup) in enumerate(samples, start=1)
        ),
    )  # fmt: skip


def _with_lines(words: str, lines: Sequence[str]) -> str:
    """Put below each finding the line it speaks of: nobody but us has seen the text."""
    found: list[str] = []
    for finding in words.splitlines():
        found.append(finding)
        match = _LINE.search(finding)
        if match is not None and 0 < int(match[1]) <= len(lines):
            found.append(f"    line {match[1]}: {lines[int(match[1]) - 1].strip()}")
    return "\n".join(found)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
