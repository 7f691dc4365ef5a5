"""RUMOR_… variables -> values by the path of their key in rumor.toml.

A variable that is rumor's by its name and that nobody reads is told of: most often it is a slip of the pen.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rumor.errors import ConfigError

Key = tuple[str, ...]
SHORT: Mapping[str, Key] = {
    "RUMOR_JOIN": ("cluster", "join"),
    "RUMOR_KEY": ("cluster", "key"),
    "RUMOR_KEY_FILE": ("cluster", "key"),
    "RUMOR_TAGS": ("serf", "tags"),
}
"""What images are told most."""
COMMANDS_OWN = frozenset(
    f"RUMOR_{name}"
    for name in (
        "FILE", "DATA", "NODE", "API", "TOKEN", "LOG_LEVEL", "LOG_FORMAT", "HAPROXY", "ROLE", "SCAN_DIRECTORY",
        "HTTP", "STATS", "NOTIFY_FD", "NODE_DIRECTORY",
    )
)  # fmt: skip
"""What commands, images, compose.yaml and supervised programs read besides rumor.toml's keys."""
_SECTIONS = ("cluster", "balancer", "api", "serf")
_NAMED = ("service", "program")
_BY_ENVIRONMENT = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Said:
    """What the environment says."""

    values: dict[Key, object] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)
    """Which variable says so, in words."""
    texts: dict[Key, str] = field(default_factory=dict)
    """The same as it is written, where it may mean a number, a list or a text."""
    warnings: list[str] = field(default_factory=list)


def read_environment(
    environ: Mapping[str, str], raw: Mapping[str, object], keys: Mapping[str, Iterable[str]], path: Path | None
) -> Said:
    """Return what the environment says.

    Args:
        environ: all of it.
        raw: what rumor.toml says: services are known by it, and tags are added to its own.
        keys: the keys of each section.
        path: rumor.toml.

    Raises:
        ConfigError: a variable is for a service that rumor.toml does not have, or is not of its form.
    """
    said = Said()
    names = {kind: list(tables) for kind in _NAMED if isinstance(tables := raw.get(kind), dict)}
    used = {*SHORT, *COMMANDS_OWN, *_BY_ENVIRONMENT.findall(repr(raw)), *_BY_ENVIRONMENT.findall(repr(dict(environ)))}
    for variable in sorted(variable for variable in environ if variable.startswith("RUMOR_")):
        text = environ[variable]
        if variable in SHORT:
            if variable == "RUMOR_KEY_FILE" and not text:
                continue
            key, value = SHORT[variable], _short_value(variable, text, raw)
        elif (found := _path_of(variable, names, keys)) is not None:
            key, value = found, _value_of(text)
            said.texts[key] = text
        else:
            if variable not in used:
                _refuse_unknown_service(variable, names, keys, path)
                said.warnings.append(_unread(variable, names, keys))
            continue
        said.values[key] = value
        said.origins[key] = f"the environment variable {variable}"
    return said


def _short_value(variable: str, text: str, raw: Mapping[str, object]) -> object:
    """Read what people write by hand: lists and pairs with commas, no TOML."""
    if variable == "RUMOR_KEY_FILE":
        return f"file:{text}"
    if variable == "RUMOR_KEY":
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if variable == "RUMOR_JOIN":
        return parts
    section = raw.get("serf")
    tags = section.get("tags") if isinstance(section, dict) else None
    return {**(tags if isinstance(tags, dict) else {}), **dict(_pair(variable, part) for part in parts)}


def _pair(variable: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"the environment variable {variable}: wants NAME=VALUE, with commas, and this is {text!r}")
    return name.strip(), value.strip()


def _path_of(variable: str, names: Mapping[str, Iterable[str]], keys: Mapping[str, Iterable[str]]) -> Key | None:
    words = variable.removeprefix("RUMOR_").lower()
    for section in _SECTIONS:
        if words.startswith(f"{section}_") and words.removeprefix(f"{section}_") in keys[section]:
            return section, words.removeprefix(f"{section}_")
    for kind, tables in names.items():
        for name in tables:
            prefix = f"{kind}_{_word(name)}_"
            if words.startswith(prefix) and words.removeprefix(prefix) in keys[kind]:
                return kind, name, words.removeprefix(prefix)
    return None


def _refuse_unknown_service(
    variable: str, names: Mapping[str, list[str]], keys: Mapping[str, Iterable[str]], path: Path | None
) -> None:
    """Refuse a key of rumor.toml for a service that it does not have.

    Without a file there is nothing to go by; and what has no key's name at its end may be somebody else's: Kubernetes
    gives each container RUMOR_SERVICE_HOST where a service of its own is called so.
    """
    words = variable.removeprefix("RUMOR_").lower()
    for kind in _NAMED:
        ends = [key for key in keys[kind] if re.fullmatch(f"{kind}_[a-z0-9_]+_{key}", words)]
        if ends and path is not None:
            name = words.removeprefix(f"{kind}_").removesuffix(f"_{max(ends, key=len)}")
            known = ", ".join(names.get(kind, ())) or "none"
            raise ConfigError(
                f"the environment variable {variable}: there is no [{kind}.{name}] in {path} (known: {known})"
            )


def _unread(variable: str, names: Mapping[str, Iterable[str]], keys: Mapping[str, Iterable[str]]) -> str:
    known = [*SHORT, *COMMANDS_OWN]
    known += [f"RUMOR_{section}_{key}".upper() for section in _SECTIONS for key in keys[section]]
    known += [
        f"RUMOR_{kind}_{_word(name)}_{key}".upper()
        for kind, tables in names.items()
        for name in tables
        for key in keys[kind]
    ]
    near = difflib.get_close_matches(variable, known, n=1)
    return f"the environment variable {variable}: nobody reads it{f'; did you mean {near[0]}?' if near else ''}"


def _word(name: str) -> str:
    return re.sub("[^a-z0-9]", "_", name.lower())


def _value_of(text: str) -> object:
    """Read a value as TOML would, or else as bare text: RUMOR_CLUSTER_PRESET=lan needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
