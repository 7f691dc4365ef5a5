"""The configuration that HAProxy starts with, before any agent has spoken: all of it, with no server yet."""

import asyncio
import time
from pathlib import Path

from rumor.agent.balancer_settings import balancing_settings
from rumor.atomic_file import write_atomically
from rumor.config import Config
from rumor.errors import Refused
from rumor.model import Cause, Table, WallTime
from rumor.places import Places
from rumor.render.publish import allowed_maxconn, check_haproxy, read_template
from rumor.render.template import render


async def write_first_config(config: Config, place: Places, program: Path) -> None:
    """Write a haproxy.cfg without servers to its place; an older one is replaced.

    Raises:
        ConfigError: the template cannot be read.
        Refused: HAProxy would not load it; its words are in the text.
    """
    settings = balancing_settings(
        config,
        place.run_directory,
        read_template(config.balancer.template),
        maxconn=allowed_maxconn(config.balancer.maxconn),
    )
    cause = Cause("start", "the cluster was started", at=WallTime(time.time()))
    revision = render(Table(), settings.render, cause)
    words = await check_haproxy(program, revision.text)
    if words:
        raise Refused(f"HAProxy would not load its configuration: {words}")
    await asyncio.to_thread(write_atomically, place.haproxy_config, revision.text)
