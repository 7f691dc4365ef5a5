"""Certificates from the operator's directory into the running HAProxy, without a reload where only contents changed.

HAProxy reads copies in a directory of rumor's own, which holds only what has been seen to be a certificate with its
key: a broken file never stops a reload, and its last good version serves on. What HAProxy has loaded is read back by
fingerprint, so nothing depends on what this process remembers.
Facts: reference/haproxy.md, section 10.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rumor.log import get_logger

log = get_logger("haproxy")

_FILE_LIMIT = 256 * 1024
_FILES_LIMIT = 1000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}", re.ASCII)
_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_ONGOING = re.compile(r"ongoing transaction is about '([^']+)'")
_FINGERPRINT = re.compile(r"SHA1 FingerPrint:\s*([0-9A-Fa-f]{40})")

Stamp = tuple[tuple[str, int, int, int], ...]


class Commands(Protocol):
    """HAProxy's worker, as far as certificates need it."""

    async def ask(self, *commands: str) -> str: ...
    async def ask_with(self, command: str, payload: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at the operator's directory has found."""

    names: tuple[str, ...]
    """The files that HAProxy may load, in order."""
    refused: tuple[tuple[str, str], ...] = ()
    """Which certificate is not taken as it is now, and why."""


class Certificates:
    """Owns the directory of copies."""

    def __init__(self, write: Callable[[Path, str], None]) -> None:
        """Take the writer that replaces a file atomically."""
        self._write = write
        self._stamp: Stamp | None = None
        self._found = Found(())
        self._loaded: tuple[str, Stamp | None] = ("", None)
        self.unloaded: tuple[tuple[str, str], ...] = ()
        """Which certificate the running HAProxy would not take, and why."""

    async def look(self, source: Path, directory: Path) -> Found:
        """Bring the copies up to date; return what may be loaded."""
        return await asyncio.to_thread(self._look, source, directory)

    async def load(self, worker: Commands, directory: Path, *, process: str) -> tuple[str, ...]:
        """Let the running HAProxy have what it does not have yet; return the names of what it took.

        One that it will not take stands in nobody's way: it is kept in `unloaded`, and tried again by the next call.

        Args:
            worker: the running HAProxy.
            directory: the copies.
            process: names the running process; one that is new is looked at anew.

        Raises:
            Unreachable: HAProxy does not answer.
        """
        if self._loaded == (process, self._stamp):
            return ()
        taken, unloaded = [], []
        for name in self._found.names:
            path = directory / name
            text = await asyncio.to_thread(path.read_text, encoding="ascii")
            said = _FINGERPRINT.search(await worker.ask(f"show ssl cert {_word(path)}"))
            # One that HAProxy does not know comes by the reload that its name in the configuration brings.
            if said is None or said[1].lower() == _fingerprint(text):
                continue
            words = await _replace(worker, path, text)
            if words:
                unloaded.append((name, words))
            else:
                taken.append(name)
        self.unloaded = tuple(unloaded)
        if not unloaded:
            self._loaded = (process, self._stamp)
        return tuple(taken)

    def _look(self, source: Path, directory: Path) -> Found:
        try:
            stamp = _stamp(source)
        except OSError as error:
            # Not to see the directory is no word against what it held.
            return Found(self._copies(directory), ((str(source), error.strerror or str(error)),))
        if stamp == self._stamp and directory.is_dir():
            return self._found
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        refused, good = [], set()
        for name in sorted({Path(entry[0]).stem for entry in stamp}):
            copy = directory / f"{name}.pem"
            try:
                text = _read(source, name)
                _verify(text, directory)
                if not copy.exists() or copy.read_text(encoding="ascii") != text:
                    self._write(copy, text)
            except (OSError, ValueError) as error:
                refused.append((name, _reason(error)))
                if copy.exists():
                    good.add(copy.name)
                continue
            good.add(copy.name)
        for name in self._copies(directory):
            if name not in good:
                (directory / name).unlink(missing_ok=True)
        self._stamp = stamp
        self._found = Found(tuple(sorted(good)), tuple(refused))
        return self._found

    def _copies(self, directory: Path) -> tuple[str, ...]:
        try:
            return tuple(sorted(path.name for path in directory.glob("*.pem") if not path.name.startswith(".")))
        except OSError:
            return ()


def _stamp(source: Path) -> Stamp:
    found = []
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.name.endswith((".pem", ".crt", ".key")) and _NAME.fullmatch(entry.name) and entry.is_file():
                status = entry.stat()
                if not entry.name.endswith(".key") or (source / f"{Path(entry.name).stem}.crt").exists():
                    found.append((entry.name, status.st_mtime_ns, status.st_size, status.st_ino))
            if len(found) > _FILES_LIMIT:
                raise OSError(0, f"more than {_FILES_LIMIT} files")
    return tuple(sorted(found))


def _read(source: Path, name: str) -> str:
    parts = [source / f"{name}.pem"]
    if not parts[0].exists():
        parts = [source / f"{name}.crt", source / f"{name}.key"]
    text = ""
    for part in parts:
        with part.open("rb") as file:
            data = file.read(_FILE_LIMIT + 1)
        if len(data) > _FILE_LIMIT:
            raise ValueError(f"{part.name} is larger than {_FILE_LIMIT} bytes")
        text += data.decode("ascii", "replace") + "\n"
    # On HAProxy's command line an empty line ends the certificate.
    return "".join(f"{line}\n" for line in (line.strip() for line in text.splitlines()) if line)


def _verify(text: str, directory: Path) -> None:
    """Make sure that this is a certificate with the key that fits it.

    Raises:
        ValueError: it is not.
    """
    if not text.isascii() or _FIRST.search(text) is None:
        raise ValueError("holds no certificate: BEGIN CERTIFICATE is missing")
    # A name that HAProxy does not read, in the same directory, since nobody else may see the key.
    candidate = directory / ".candidate"
    handle = os.open(candidate, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(candidate, password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(_words(error)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            candidate.unlink()


def _no_password() -> str:
    raise ValueError("its key has a password: HAProxy could not ask for it")


def _words(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if reason == "KEY_VALUES_MISMATCH":
        return "its key belongs to another certificate"
    return reason.lower().replace("_", " ") if reason not in ("", "NO_START_LINE") else "holds no private key"


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _fingerprint(text: str) -> str:
    first = _FIRST.search(text)
    return hashlib.sha1(ssl.PEM_cert_to_DER_cert(first[0]), usedforsecurity=False).hexdigest() if first else ""


def _word(path: Path) -> str:
    """A path as one word on HAProxy's command line."""
    return re.sub(r"([\\ ])", r"\\\1", str(path))


async def _replace(worker: Commands, path: Path, text: str) -> str:
    """Let HAProxy have one certificate; return its words against it, empty if it serves."""
    said = await worker.ask_with(f"set ssl cert {_word(path)}", text)
    if ongoing := _ONGOING.search(said):
        # Somebody has begun to set another and left it at that: HAProxy knows one transaction, and would wait for ever.
        log.warning("certificate_transaction_aborted", name=Path(ongoing[1]).name)
        await worker.ask(f"abort ssl cert {_word(Path(ongoing[1]))}")
        said = await worker.ask_with(f"set ssl cert {_word(path)}", text)
    if "Transaction" not in said or _ONGOING.search(said):
        return _would_not(said)
    said = await worker.ask(f"commit ssl cert {_word(path)}")
    if "Success!" in said:
        return ""
    await worker.ask(f"abort ssl cert {_word(path)}")
    return _would_not(said)


def _would_not(said: str) -> str:
    return f"HAProxy would not take it: {said[:500]!a}"
