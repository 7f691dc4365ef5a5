"""`rumor agent` with serf's own flags: a plain member of a Serf cluster, with handlers and RPC."""

import asyncio
import logging
import os
import shutil
import sys
import tempfile
from logging.handlers import SysLogHandler
from pathlib import Path

from rumor import log
from rumor.agent.run import run_agent
from rumor.cli.serf_flags import SerfCommand, banner, read_command
from rumor.errors import ConfigError, RumorError


def run(arguments: list[str]) -> int:
    """Run the agent until it is told to stop; return the exit status, which for every failure is serf's 1."""
    try:
        command = read_command(arguments, os.environ)
    except (RumorError, ValueError) as error:
        print(f"==> {error}", file=sys.stderr)
        return 1
    log.configure(level=command.log_level, format="serf", stream=sys.stdout)
    if command.has_syslog:
        _add_syslog()
    # What the agent keeps for its own is nobody's business after its end, as with serf: the snapshot has its flag.
    data = Path(tempfile.mkdtemp(prefix="rumor-"))
    try:
        return asyncio.run(_run(command, data))
    except RumorError as error:
        print(f"==> {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(data, ignore_errors=True)


async def _run(command: SerfCommand, data: Path) -> int:
    print("==> Starting Serf agent...", flush=True)
    print("==> Starting Serf agent RPC...", flush=True)
    return await run_agent(
        command.config,
        (),
        node=command.node,
        data=data,
        environ=os.environ,
        load_config=lambda: command.config,
        on_started=lambda bind: print(banner(command, bind), flush=True),
    )


def _add_syslog() -> None:
    try:
        handler = SysLogHandler("/dev/log")
    except OSError as error:
        raise ConfigError(f"Syslog setup failed: {error}") from error
    logging.getLogger("rumor").addHandler(handler)
