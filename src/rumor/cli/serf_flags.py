"""serf's own way to start an agent: its flags as Go reads them, its JSON configuration, its words.

`rumor agent -node=a -bind=10.0.0.7 -join=10.0.0.8 -event-handler=./notify.sh` starts what `serf agent` would. Facts:
reference/gossip-wire.md, section 13.
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rumor.agent.handlers import parse_handler
from rumor.agent.keyring_file import read_keyring
from rumor.config import DISCOVER_NAME, GOSSIP_PORT, RPC_PORT, ClusterConfig, Config, SerfConfig, parse_duration
from rumor.errors import ConfigError, PeerError
from rumor.names import Endpoint, parse_endpoint
from rumor.serf.tags import encode_tags
from rumor.swim.sealing import parse_key

LEVELS = {"TRACE": "debug", "DEBUG": "debug", "INFO": "info", "WARN": "warning", "ERR": "error"}
_PROTOCOLS = range(2, 6)
_FILE_LIMIT = 1024 * 1024

# flag -> its key in a JSON file; None where the flag has none
_TEXTS = {
    "node": "node_name", "bind": "bind", "advertise": "advertise", "iface": "interface", "discover": "discover",
    "encrypt": "encrypt_key", "keyring-file": "keyring_file", "log-level": "log_level", "profile": "profile",
    "protocol": "protocol", "retry-interval": "retry_interval", "retry-max": "retry_max_attempts", "role": "role",
    "rpc-addr": "rpc_addr", "rpc-auth": "rpc_auth", "snapshot": "snapshot_path", "tags-file": "tags_file",
    "broadcast-timeout": "broadcast_timeout",
}  # fmt: skip
_LISTS = {"event-handler": "event_handlers", "join": "start_join", "retry-join": "retry_join", "config-file": None,
          "config-dir": None, "tag": None}  # fmt: skip
_SWITCHES = {
    "replay": "replay_on_join",
    "rejoin": "rejoin_after_leave",
    "disable-compression": None,
    "syslog": "enable_syslog",
}
_JSON_ONLY = frozenset(
    {
        "tags", "disable_coordinates", "query_response_size_limit", "query_size_limit", "user_event_size_limit",
        "leave_on_terminate", "skip_leave_on_interrupt", "reconnect_interval", "reconnect_timeout",
        "tombstone_timeout", "disable_name_resolution", "syslog_facility", "enable_compression", "statsite_addr",
        "statsd_addr", "mdns", "validate_node_names",
    }
)  # fmt: skip
_JSON_KEYS = {key for table in (_TEXTS, _LISTS, _SWITCHES) for key in table.values() if key} | _JSON_ONLY


@dataclass(frozen=True, slots=True)
class SerfCommand:
    """What a `serf agent` command line says."""

    config: Config
    node: str
    log_level: str
    profile: str
    has_syslog: bool = False


@dataclass(slots=True)
class _Values:
    texts: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    switches: dict[str, bool] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def update(self, other: "_Values") -> None:
        self.texts |= other.texts
        self.switches |= other.switches
        self.more |= other.more
        for name, values in other.lists.items():
            self.lists.setdefault(name, []).extend(values)


def is_serf_style(arguments: Sequence[str]) -> bool:
    """Say whether a command line after `rumor agent` is serf's: flags alone, and no PART among them."""
    try:
        return not _read_flags(arguments)[1] and not {"-h", "-help", "--help"} & set(arguments)
    except ConfigError:
        # A flag that only serf has is serf's, even where another one is wrong.
        known = {*_TEXTS, *_LISTS, *_SWITCHES}
        ours = {"node", "bind", "advertise", "join", "file", "data", "preset", "port", "set", "log-level", "log-format"}
        names = {word.lstrip("-").partition("=")[0] for word in arguments if word.startswith("-")}
        is_go = any(word.startswith("-") and not word.startswith("--") and len(word) > 2 for word in arguments)
        return bool((names & known) - ours) or (is_go and bool(names & known))


def read_command(arguments: Sequence[str], environ: Mapping[str, str]) -> SerfCommand:
    """Read a `serf agent` command line, and the JSON files it names.

    Raises:
        ConfigError: in serf's words, as far as they are known.
    """
    flags, rest = _read_flags(arguments)
    if rest:
        raise ConfigError(f"{rest[0]!r} is no flag")
    values = _Values()
    files = [Path(path) for path in flags.lists.pop("config-file", [])]
    for directory in flags.lists.pop("config-dir", []):
        files += sorted(Path(directory).glob("*.json"))
    for file in files:
        values.update(_read_json(file))
    values.update(flags)
    return _build(values)


def _read_flags(arguments: Sequence[str]) -> tuple[_Values, list[str]]:
    """Read flags as Go does: one dash or two, `-flag=value` or `-flag value`, switches without a value."""
    values = _Values()
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            return values, [word, *words]
        if word == "--":
            return values, words
        name, equals, text = word.lstrip("-").partition("=")
        if name in _SWITCHES:
            values.switches[name] = _go_bool(name, text) if equals else True
            continue
        if name not in _TEXTS and name not in _LISTS:
            raise ConfigError(f"flag provided but not defined: -{name}")
        if not equals:
            if not words:
                raise ConfigError(f"flag needs an argument: -{name}")
            text = words.pop(0)
        if name in _LISTS:
            values.lists.setdefault(name, []).append(text)
        else:
            values.texts[name] = text
    return values, []


def _go_bool(name: str, text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ConfigError(f'invalid boolean value "{text}" for -{name}: parse error')


def _read_json(path: Path) -> _Values:
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(_FILE_LIMIT))
    except OSError as error:
        raise ConfigError(f"Error reading '{path}': {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"Error decoding '{path}': {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"Error decoding '{path}': a JSON object was expected")
    unknown = sorted(set(raw) - _JSON_KEYS)
    if unknown:
        raise ConfigError(f"Error decoding '{path}': unknown key {unknown[0]}")
    values = _Values()
    for flag, key in _TEXTS.items():
        if key in raw:
            values.texts[flag] = str(raw[key])
    for flag, list_key in _LISTS.items():
        if list_key in raw:
            texts = raw[list_key]
            if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
                raise ConfigError(f"Error decoding '{path}': {list_key} is a list of texts")
            values.lists[flag] = list(texts)
    for flag, switch_key in _SWITCHES.items():
        if switch_key in raw:
            values.switches[flag] = _json_bool(raw[switch_key], str(switch_key), path)
    values.more = {key: raw[key] for key in _JSON_ONLY if key in raw}
    for key in ("leave_on_terminate", "skip_leave_on_interrupt", "disable_coordinates", "disable_name_resolution"):
        if key in values.more:
            _json_bool(values.more[key], key, path)
    return values


def _json_bool(value: object, key: str, path: Path) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"Error decoding '{path}': {key} is true or false")
    return value


def _build(values: _Values) -> SerfCommand:
    texts, more = values.texts, values.more
    profile = texts.get("profile", "lan")
    if profile not in ("lan", "wan", "local"):
        raise ConfigError(f"Unknown profile: {profile}")
    level = texts.get("log-level", "INFO").upper()
    if level not in LEVELS:
        raise ConfigError(f"Invalid log level: {level}. Valid log levels are: [{' '.join(LEVELS)}]")
    tags, tags_file = _tags(values)
    encode_tags(tags)
    for text in values.lists.get("event-handler", []):
        parse_handler(text)
    bind = _endpoint(texts.get("bind") or _interface(texts.get("iface", "")), "-bind", GOSSIP_PORT)
    rpc = texts.get("rpc-addr", f"127.0.0.1:{RPC_PORT}")
    keyring_file = Path(texts["keyring-file"]) if texts.get("keyring-file") else None
    if keyring_file is not None and texts.get("encrypt"):
        raise ConfigError("Encryption key not allowed while using a keyring")
    if keyring_file is not None:
        read_keyring(keyring_file)
    cluster = ClusterConfig(
        join=tuple(
            _endpoint(one.rpartition("/")[2], "-retry-join", bind.port) for one in values.lists.get("retry-join", [])
        ),
        preset=profile,
        bind=bind,
        advertise=_endpoint(texts["advertise"], "-advertise", bind.port) if texts.get("advertise") else None,
        key=_key(texts.get("encrypt", "")),
        compression=not values.switches.get("disable-compression", False),
        discover=_discover(texts.get("discover", "")),
    )
    serf = SerfConfig(
        rpc=_endpoint(rpc, "-rpc-addr", RPC_PORT) if rpc else None,
        rpc_token=texts.get("rpc-auth", ""),
        handlers=tuple(values.lists.get("event-handler", [])),
        tags=tags,
        keyring_file=keyring_file,
        replay=values.switches.get("replay", False),
        rejoin_after_leave=values.switches.get("rejoin", False),
        snapshot=Path(texts["snapshot"]) if texts.get("snapshot") else None,
        tags_file=tags_file,
        start_join=tuple(values.lists.get("join", [])),
        retry_max=_number(texts.get("retry-max", "0"), "-retry-max"),
        retry_interval=parse_duration(_duration(texts.get("retry-interval", "30s"), "-retry-interval")),
        protocol=_protocol(texts.get("protocol", "5")),
        event_limit=_event_limit(more.get("user_event_size_limit", 512)),
        has_coordinates=not more.get("disable_coordinates", False),
        votes_on_name=not more.get("disable_name_resolution", False),
        leave_on_terminate=bool(more.get("leave_on_terminate", True)),
        skip_leave_on_interrupt=bool(more.get("skip_leave_on_interrupt", False)),
        leave_timeout=parse_duration(_duration(texts.get("broadcast-timeout", "5s"), "-broadcast-timeout")),
    )
    return SerfCommand(
        Config(cluster=cluster, serf=serf),
        texts.get("node") or socket.gethostname(),
        LEVELS[level],
        profile,
        values.switches.get("syslog", False),
    )


def _tags(values: _Values) -> tuple[dict[str, str], Path | None]:
    more = values.more.get("tags", {})
    if not isinstance(more, dict):
        raise ConfigError("tags: a JSON object of texts was expected")
    tags = {str(key): str(value) for key, value in more.items()}
    for text in values.lists.get("tag", []):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"Error: Invalid tag: '{text}'")
        tags[key] = value
    if values.texts.get("role"):
        tags["role"] = values.texts["role"]
    path = Path(values.texts["tags-file"]) if values.texts.get("tags-file") else None
    if path is not None:
        if tags:
            raise ConfigError("Tags config not allowed while using tag files")
        tags = read_tags(path)
    return tags, path


def read_tags(path: Path) -> dict[str, str]:
    """Return the tags of a tags file, none if there is no such file yet.

    Raises:
        ConfigError: it is no JSON object of texts.
    """
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(_FILE_LIMIT))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"Failed to read tags file {path}: {error}") from error
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise ConfigError(f"Failed to decode tags file {path}: a JSON object of texts was expected")
    return raw


def _endpoint(text: str, flag: str, port: int) -> Endpoint:
    try:
        return parse_endpoint(text, default_port=port)
    except PeerError as error:
        raise ConfigError(f"Invalid bind address: {flag}: {error}") from error


def _discover(name: str) -> str:
    if name and not DISCOVER_NAME.fullmatch(name):
        raise ConfigError(f"Invalid -discover {name!r}: letters, digits, - and _, at most 50")
    return name


def _interface(name: str) -> str:
    """Return the first IPv4 address of a network interface, any address for no name."""
    if not name:
        return "0.0.0.0"  # noqa: S104 - serf's own default
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            request = struct.pack("256s", name.encode()[:15])
            answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
        except OSError as error:
            raise ConfigError(f"Failed to get interface addresses: {name}: {os.strerror(error.errno or 0)}") from error
    return socket.inet_ntoa(answer[20:24])


def _key(text: str) -> bytes | None:
    try:
        return parse_key(text) if text else None
    except ConfigError as error:
        raise ConfigError(f"Invalid encryption key: {error}") from error


def _number(text: str, flag: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f'invalid value "{text}" for flag {flag}: parse error')
    return int(text)


def _duration(text: str, flag: str) -> str:
    try:
        wait = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f'invalid value "{text}" for flag {flag}: {error}') from error
    if wait < 1:
        raise ConfigError(f"{flag} is at least 1s")
    return text


def _protocol(text: str) -> int:
    number = _number(text, "-protocol")
    if number not in _PROTOCOLS:
        word = "low" if number < _PROTOCOLS.start else "high"
        raise ConfigError(f"Protocol version '{number}' too {word}. Must be in range: [2, 5]")
    return number


def _event_limit(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 9216:
        raise ConfigError("user event size limit exceeds limit of 9216 bytes")
    return value


def banner(command: SerfCommand, bind: str) -> str:
    """Return what a serf agent prints when it runs."""
    serf, cluster = command.config.serf, command.config.cluster
    is_sealed = cluster.key is not None or serf.keyring_file is not None
    facts = {
        "Node name": f"'{command.node}'",
        "Bind addr": f"'{bind}'",
        "RPC addr": f"'{serf.rpc or ''}'",
        "Encrypted": str(is_sealed).lower(),
        "Snapshot": str(serf.snapshot is not None).lower(),
        "Profile": command.profile,
        "Message Compression Enabled": str(cluster.compression).lower(),
    }
    if cluster.discover:
        facts["mDNS cluster"] = cluster.discover
    lines = [f"{name:>31}: {text}" for name, text in facts.items()]
    return "\n".join(["==> Serf agent running!", *lines, "", "==> Log data will now stream in as it occurs:", ""])
