"""The configuration an operator went back to: it holds, with today's servers, until it is released. Kept in a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rumor.atomic_file import write_atomically
from rumor.errors import ConfigError, Refused
from rumor.model import WallTime

_FILE_LIMIT = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pinned:
    """A revision that stays, by whose word and since when."""

    revision: str
    text: str
    by: str
    at: WallTime


class Pin:
    """Owns the file; there is a pin as long as it is there."""

    def __init__(self, path: Path) -> None:
        """Read the file if there is one.

        Raises:
            ConfigError: it is not one that this class writes.
        """
        self._path = path
        self._pinned: Pinned | None = None
        try:
            with path.open("rb") as file:
                value = json.loads(file.read(_FILE_LIMIT))
            self._pinned = Pinned(
                str(value["revision"]), str(value["text"]), str(value["by"]), WallTime(float(value["at"]))
            )
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} is damaged ({error}): delete it to release the configuration") from error

    @property
    def pinned(self) -> Pinned | None:
        return self._pinned

    def set(self, pinned: Pinned) -> None:
        """Pin; once this returns the pin outlives the agent and a power cut.

        Raises:
            Refused: the file cannot be written.
        """
        try:
            write_atomically(self._path, json.dumps(asdict(pinned)) + "\n", survives_power_cut=True)
        except OSError as error:
            raise Refused(f"the pin cannot be kept in {self._path}: {error.strerror}") from error
        self._pinned = pinned

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        self._pinned = None
