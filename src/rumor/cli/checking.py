"""`rumor config check FILE`: would HAProxy load it?"""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from rumor.agent.balancer_settings import balancing_settings
from rumor.config import Config, load
from rumor.errors import Refused
from rumor.model import Cause, Table
from rumor.names import Endpoint
from rumor.render.publish import check_haproxy, find_haproxy, read_template
from rumor.render.settings import RenderSettings
from rumor.render.template import render


def check_file(file: Path, toml: Path | None) -> str:
    """Return the words against a file, empty if HAProxy would load it.

    A template is rendered with the services of rumor.toml and no server.

    Raises:
        ConfigError: a file cannot be read, or there is no HAProxy to ask.
    """
    program = find_haproxy(os.environ)
    text = read_template(file)
    if file.suffix == ".j2":
        config = load(toml, environ=os.environ) if toml is not None else Config()
        try:
            text = render(Table(), _settings(config, text, file), Cause("check", "checked by hand")).text
        except Refused as error:
            return str(error)
    return asyncio.run(check_haproxy(program.path, text))


def _settings(config: Config, text: str, file: Path) -> RenderSettings:
    balancer = config.balancer if config.balancer.binds else replace(config.balancer, binds=(Endpoint("", 8080),))
    config = replace(config, balancer=replace(balancer, template=file))
    return balancing_settings(config, Path("/run/rumor"), text).render
