"""Typed values out of a TOML table, with errors that name key, file and line, and say what would be right."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rumor.config.lines import line_of
from rumor.errors import ConfigError, PeerError
from rumor.model import Seconds
from rumor.names import Endpoint, parse_endpoint

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str | float) -> Seconds:
    """Parse `500ms`, `1.5s`, `2m`; a bare number counts as seconds.

    Raises:
        ValueError: neither.
    """
    if isinstance(text, bool):
        raise ValueError("a length of time such as 500ms, 1s or 2m")
    if isinstance(text, int | float):
        if not 0 <= text <= 31_536_000:
            raise ValueError("a length of time from 0s to 365d")
        return Seconds(float(text))
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("a length of time such as 500ms, 1s or 2m")
    return parse_duration(float(match[1]) * _UNITS[match[2]])


_SECRET_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads values into types; what is wrong is said with its key, file and line, or its variable or flag."""

    path: Path | None
    lines: dict[tuple[str, ...], int]
    origins: Mapping[tuple[str, ...], str]
    environ: Mapping[str, str]
    literal: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """What the environment says, letter for letter: a version 1.10 is no number where text is wanted."""

    def fail(self, key: tuple[str, ...], text: str) -> NoReturn:
        raise ConfigError(f"{self.where(key)}{'.'.join(key)}: {text}")

    def where(self, key: tuple[str, ...]) -> str:
        if key in self.origins:
            return f"{self.origins[key]}: "
        line = line_of(self.lines, key)
        if self.path is None:
            return ""
        return f"{self.path}, line {line}: " if line is not None else f"{self.path}: "

    def table(self, value: object, key: tuple[str, ...], known: Iterable[str]) -> Mapping[str, object]:
        """Return a table all of whose keys are known."""
        if not isinstance(value, dict):
            self.fail(key, f"wants a table, and this is {_name_of(value)}")
        allowed = list(known)
        for name in value:
            if name not in allowed:
                near = difflib.get_close_matches(name, allowed, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(allowed))}"
                self.fail((*key, name), f"unknown key{hint}")
        return value

    def text(self, table: Mapping[str, object], key: tuple[str, ...], default: str = "") -> str:
        value = table.get(key[-1], default)
        if not isinstance(value, str):
            value = self.literal.get(key, value)
        if not isinstance(value, str):
            self.fail(key, f"wants text, and this is {_name_of(value)}")
        if not value.isprintable():
            self.fail(key, "holds a control character")
        return value

    def secret(self, table: Mapping[str, object], key: tuple[str, ...]) -> str:
        text = self.text(table, key)
        if text.startswith("file:"):
            return self._secret_file(key, text.removeprefix("file:"))
        if not text.startswith("env:"):
            return text
        variable = text.removeprefix("env:")
        if not self.environ.get(variable):
            self.fail(key, f"the environment variable {variable} is not set")
        return self.environ[variable]

    def _secret_file(self, key: tuple[str, ...], path: str) -> str:
        try:
            with open(path, encoding="utf-8") as file:
                secret = file.read(_SECRET_LIMIT).strip()
        except (OSError, UnicodeDecodeError) as error:
            self.fail(key, f"cannot read the secret in {path}: {getattr(error, 'strerror', None) or 'it is no text'}")
        if not secret:
            self.fail(key, f"the secret in {path} is empty")
        return secret

    def flag(self, table: Mapping[str, object], key: tuple[str, ...], default: bool = False) -> bool:
        value = table.get(key[-1], default)
        if not isinstance(value, bool):
            self.fail(key, f"wants true or false, and this is {_name_of(value)}")
        return value

    def number(self, table: Mapping[str, object], key: tuple[str, ...], default: int, low: int, high: int) -> int:
        value = table.get(key[-1], default)
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(key, f"wants a whole number, and this is {_name_of(value)}")
        if not low <= value <= high:
            self.fail(key, f"wants a number from {low} to {high}, and this is {value}")
        return value

    def duration(self, table: Mapping[str, object], key: tuple[str, ...], default: Seconds) -> Seconds:
        value = table.get(key[-1], default)
        if not isinstance(value, str | int | float):
            self.fail(key, f"wants a length of time such as 500ms, and this is {_name_of(value)}")
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(key, f"wants {error}, and this is {value!r}")

    def length(self, table: Mapping[str, object], key: tuple[str, ...], default: Seconds = Seconds(0.0)) -> Seconds:
        """Return a length of time that is not nothing: a millisecond at least."""
        value = self.duration(table, key, default)
        if value < 0.001:
            self.fail(key, "wants at least 1ms")
        return value

    def file(self, table: Mapping[str, object], key: tuple[str, ...]) -> Path | None:
        text = self.text(table, key)
        return self.beside(text) if text else None

    def beside(self, text: str) -> Path:
        """Return the path of a file that is named relative to rumor.toml, absolute."""
        return ((self.path.parent if self.path else Path()) / text).absolute()

    def text_lines(self, table: Mapping[str, object], key: tuple[str, ...]) -> tuple[str, ...]:
        """Return a text's lines, without their indentation and without the empty ones."""
        value = table.get(key[-1], "")
        if not isinstance(value, str):
            self.fail(key, f"wants text, and this is {_name_of(value)}")
        lines = tuple(line.strip() for line in value.split("\n") if line.strip())
        if not all(line.replace("\t", " ").isprintable() for line in lines):
            self.fail(key, "holds a control character")
        return lines

    def endpoint(self, value: object, key: tuple[str, ...], default_port: int | None = None) -> Endpoint:
        if not isinstance(value, str):
            self.fail(key, f"wants an address such as 127.0.0.1:8080, and this is {_name_of(value)}")
        try:
            return parse_endpoint(value, default_port=default_port)
        except PeerError as error:
            self.fail(key, str(error))

    def endpoints(self, value: object, key: tuple[str, ...], default_port: int | None = None) -> tuple[Endpoint, ...]:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(self.endpoint(entry, key, default_port) for entry in values)

    def matching(
        self, table: Mapping[str, object], key: tuple[str, ...], pattern: re.Pattern[str], default: str, wants: str
    ) -> str:
        text = self.text(table, key, default)
        if text and not pattern.fullmatch(text):
            self.fail(key, f"wants {wants}, and this is {text!r}")
        return text

    def parts(self, table: Mapping[str, object], key: tuple[str, ...]) -> tuple[str, ...]:
        """Return the parts on whose nodes something is wanted, the balancer's where nothing is said."""
        parts = table.get(key[-1], ["balancer"])
        if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
            self.fail(key, 'wants a list such as ["balancer", "web"], or ["*"]')
        return tuple(parts)

    def texts(self, value: object, key: tuple[str, ...]) -> Mapping[str, str]:
        """Return a table of texts under names of any kind."""
        if not isinstance(value, dict):
            self.fail(key, "wants a table of names and texts")
        return {name: self.text(value, (*key, name)) for name in value}


def _name_of(value: object) -> str:
    names: dict[type, str] = {
        bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a table",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)
