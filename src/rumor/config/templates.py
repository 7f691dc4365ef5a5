"""The `[template.NAME]` sections of rumor.toml: files that are rendered from members and services."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rumor.config.values import Reader

TEMPLATE_KEYS = ("source", "destination", "mode", "check", "reload", "parts")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
EVERY_PART = "*"


@dataclass(frozen=True, slots=True)
class TemplateConfig:
    """One `[template.NAME]`; paths are absolute."""

    name: str
    source: Path
    destination: Path
    mode: int = 0o644
    check: tuple[str, ...] = ()
    """A command that must succeed before the file is used; `{file}` is the candidate."""
    reload: tuple[str, ...] = ()
    """A command that runs after the file has been replaced; `{file}` is the destination."""
    parts: tuple[str, ...] = ("balancer",)
    """On whose nodes it is rendered: `balancer`, names of services, or `*` for every node."""


def read_templates(reader: Reader, raw: Mapping[str, object]) -> tuple[TemplateConfig, ...]:
    """Read all templates in order of their names.

    Raises:
        ConfigError: names what is wrong, where, and what would be right.
    """
    templates = tuple(_read_template(reader, name, table) for name, table in sorted(raw.items()))
    owners: dict[Path, str] = {}
    for template in templates:
        owner = owners.setdefault(template.destination, template.name)
        if owner != template.name:
            reader.fail(("template", template.name, "destination"), f"is template {owner}'s already")
    return templates


def _read_template(reader: Reader, name: str, raw: object) -> TemplateConfig:
    key: tuple[str, ...] = ("template", name)
    if not _NAME.fullmatch(name):
        reader.fail(key, "is no name: use letters, digits, _ . -")
    table = reader.table(raw, key, TEMPLATE_KEYS)
    source, destination = reader.file(table, (*key, "source")), reader.file(table, (*key, "destination"))
    if source is None or destination is None:
        reader.fail(key, 'wants source = "FILE.j2" and destination = "FILE"')
    mode = reader.matching(table, (*key, "mode"), _MODE, "0644", 'rights such as "0644"')
    return TemplateConfig(
        name,
        source,
        destination,
        int(mode, 8),
        _read_command(reader, table, (*key, "check")),
        _read_command(reader, table, (*key, "reload")),
        reader.parts(table, (*key, "parts")),
    )


def _read_command(reader: Reader, table: Mapping[str, object], key: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(reader.text(table, key)))
    except ValueError as error:
        reader.fail(key, f"cannot be parted into words: {error}")
