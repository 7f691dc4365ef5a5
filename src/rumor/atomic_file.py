"""Replace a file in one step: nobody, killed or reading at whatever moment, leaves or finds half of it."""

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str, *, mode: int = 0o600, survives_power_cut: bool = False) -> None:
    """Replace a file so that a reader, or a process killed at any moment, finds the old text or the new one, whole.

    Forced to the disk only if it must survive a power cut.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            if survives_power_cut:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if survives_power_cut:
            directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
