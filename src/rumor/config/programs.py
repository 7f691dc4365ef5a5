"""How a user's program runs: what a service's app and a `[program.NAME]` section have in common.

A `[program.NAME]` is a process beside the app or HAProxy that nobody balances: a worker, a log shipper, a cache.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rumor.config.values import Reader
from rumor.model import Seconds

PROCESS_KEYS = ("command", "environment", "user", "directory", "stop_signal", "stop_wait", "longest_pause")
PROGRAM_KEYS = (*PROCESS_KEYS, "parts", "order")
RESERVED = frozenset({"agent", "haproxy"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_SIGNALS = frozenset({"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL", "WINCH"})


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """How one program runs and stops."""

    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    directory: Path | None = None
    """Where it runs; None for where its supervisor runs such programs."""
    stop_signal: str = "TERM"
    stop_wait: Seconds = Seconds(10.0)
    longest_pause: Seconds = Seconds(30.0)
    """To what the pauses between restarts grow."""


@dataclass(frozen=True, slots=True)
class ProgramConfig:
    """One `[program.NAME]`."""

    name: str
    process: ProcessConfig
    parts: tuple[str, ...]
    """On whose nodes it runs: `balancer`, names of services, or `*` for every node."""
    order: int = 0
    """Apps stop at 0; what has a lower number stops before them, a higher one after."""


def read_process(reader: Reader, table: Mapping[str, object], key: tuple[str, ...]) -> ProcessConfig:
    """Read the keys of `PROCESS_KEYS`.

    Raises:
        ConfigError: names what is wrong, where, and what would be right.
    """
    default = ProcessConfig()
    environment = reader.texts(table.get("environment", {}), (*key, "environment"))
    for name in environment:
        if not _VARIABLE.fullmatch(name):
            reader.fail((*key, "environment", name), "is no name of a variable: use letters, digits and _")
    stop_signal = reader.text(table, (*key, "stop_signal"), default.stop_signal).upper().removeprefix("SIG")
    if stop_signal not in _SIGNALS:
        reader.fail((*key, "stop_signal"), f"wants one of {', '.join(sorted(_SIGNALS))}, and this is {stop_signal!r}")
    longest_pause = reader.duration(table, (*key, "longest_pause"), default.longest_pause)
    if longest_pause < 1.0:
        reader.fail((*key, "longest_pause"), "wants at least 1s")
    return ProcessConfig(
        command=reader.text(table, (*key, "command")),
        environment=environment,
        user=reader.matching(table, (*key, "user"), _USER, "", "a user's name"),
        directory=reader.file(table, (*key, "directory")),
        stop_signal=stop_signal,
        stop_wait=reader.length(table, (*key, "stop_wait"), default.stop_wait),
        longest_pause=longest_pause,
    )


def read_programs(reader: Reader, raw: Mapping[str, object]) -> tuple[ProgramConfig, ...]:
    """Read all `[program.NAME]` sections in order of their names.

    Raises:
        ConfigError: names what is wrong, where, and what would be right.
    """
    return tuple(_read_program(reader, name, table) for name, table in sorted(raw.items()))


def _read_program(reader: Reader, name: str, raw: object) -> ProgramConfig:
    key: tuple[str, ...] = ("program", name)
    if not _NAME.fullmatch(name) or name in RESERVED:
        reader.fail(
            key, f"is no name for a program: use letters, digits, _ and -, and not {' or '.join(sorted(RESERVED))}"
        )
    table = reader.table(raw, key, PROGRAM_KEYS)
    process = read_process(reader, table, key)
    if not process.command:
        reader.fail((*key, "command"), "is missing: what is to be run?")
    return ProgramConfig(
        name,
        process,
        reader.parts(table, (*key, "parts")),
        reader.number(table, (*key, "order"), 0, -9, 9),
    )
