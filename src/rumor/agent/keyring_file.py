"""The keyring file: a JSON list of keys in base64, the first one seals; Serf's own format.

Facts: reference/gossip-wire.md, section 5.4.
"""

import json
from pathlib import Path

from rumor.errors import ConfigError
from rumor.swim.sealing import Keyring, format_key, parse_key

_LIMIT = 1024 * 1024


def read_keyring(path: Path) -> Keyring:
    """Return the keys of a file.

    Raises:
        ConfigError: it cannot be read, is not of this form, or holds no key. No error repeats a key.
    """
    try:
        with path.open("rb") as file:
            keys = json.loads(file.read(_LIMIT))
    except OSError as error:
        raise ConfigError(f"cannot read the keyring file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: a keyring file is a JSON list of keys in base64") from error
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise ConfigError(f"{path}: a keyring file is a JSON list of at least one key in base64")
    try:
        return Keyring(tuple(parse_key(key) for key in keys))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def write_keyring(path: Path, ring: Keyring) -> None:
    """Replace the file; only its owner may read it.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(json.dumps([format_key(key) for key in ring.keys], indent=2) + "\n", encoding="utf-8")
    new.replace(path)
