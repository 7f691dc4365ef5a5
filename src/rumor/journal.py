"""The node's memory in one SQLite file: what happened, and every revision with its cause. No other file knows SQL.

What `append` or `add_revision` has returned from is in the file and outlives kill -9 of the process (WAL, with the
kernel holding the pages; a power cut may cost the last moments). A journal that cannot be written costs history and
never a request: the failure is logged and counted, and the caller goes on. The newest applied revision is never pruned,
since it is what a restarted balancer compares the running HAProxy with.
"""

import asyncio
import json
import os
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from rumor.errors import ConfigError, Refused, Unreachable
from rumor.log import get_logger
from rumor.model import Cause, Outcome, Record, Revision, Seconds, StoredRevision, WallTime

__all__ = ["Journal", "JournalLimits", "Outcome", "Record", "StoredRevision"]

log = get_logger("journal")

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE texts (id TEXT PRIMARY KEY, text BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE revisions (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, cause TEXT NOT NULL,
    subject TEXT NOT NULL, outcome TEXT NOT NULL, words TEXT NOT NULL, how TEXT NOT NULL, settled_at REAL
);
CREATE INDEX revisions_by_id ON revisions (id, seq);
CREATE TABLE records (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL,
    cause TEXT NOT NULL, facts TEXT NOT NULL
);
CREATE INDEX records_by_subject ON records (subject, seq);
"""
_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_REVISION = (
    "SELECT revisions.id, texts.text, revisions.kind, cause, subject, at, outcome, words, how, settled_at"
    " FROM revisions JOIN texts ON texts.id = revisions.id"
)
_RECORD = "SELECT at, kind, subject, text, cause, facts FROM records"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """How much is kept; what is over goes oldest first, `step` rows at a time, so that no append ever waits long."""

    revisions: int = 1_000
    records: int = 100_000
    bytes: int = 64 * 1024 * 1024
    step: int = 50
    text_chars: int = 16_384
    """A longer text in a record or an outcome is cut."""
    deadline: Seconds = Seconds(5.0)
    """How long a caller waits for the disk."""


class Journal:
    """Owns the file and the one thread that touches it."""

    def __init__(self, path: Path, limits: JournalLimits) -> None:
        """Prepare an unopened journal; use `open`."""
        self._path = path
        self._limits = limits
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._db: sqlite3.Connection | None = None
        self._is_closed = False
        self._records = 0
        self._revisions = 0
        self.write_errors = 0
        """Records and revisions that were lost because the file could not be written."""
        self.failing = ""
        """Why the last write failed; empty if it did not."""

    @classmethod
    async def open(cls, path: Path, *, limits: JournalLimits | None = None) -> "Journal":
        """Open the journal, or begin a new one where there is none or only a corrupt one (which is set aside).

        Raises:
            ConfigError: the file was written by a newer rumor, or it cannot be opened or created here.
        """
        journal = cls(path, limits or JournalLimits())
        try:
            await journal._call(journal._open)
        except BaseException as error:
            journal._thread.shutdown(wait=False)
            if isinstance(error, TimeoutError):
                raise ConfigError(f"journal {path} cannot be opened: the disk does not answer") from error
            raise
        return journal

    async def close(self) -> None:
        """Close the file; what was appended is in it. Closing twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._call(self._close)
        except (TimeoutError, sqlite3.Error) as error:
            log.warning("journal_close_failed", path=self._path, error=error)
        finally:
            self._thread.shutdown(wait=False)

    async def append(self, record: Record) -> None:
        """Keep one record; once this returns, kill -9 does not lose it (see `write_errors` for the exception)."""
        await self._write(lambda db: self._append(db, record))

    async def append_all(self, records: Sequence[Record]) -> None:
        """Keep records, in this order; as `append` does, but in few writes, each no longer than one step of pruning."""
        for start in range(0, len(records), self._limits.step):
            await self._write(partial(self._append_each, records=records[start : start + self._limits.step]))

    async def add_revision(self, revision: Revision, outcome: Outcome, words: str = "", how: str = "") -> None:
        """Keep a revision. The same text may come back later with another cause: that is a new entry of its own."""
        await self._write(lambda db: self._add_revision(db, revision, outcome, words, how))

    async def set_outcome(
        self, revision_id: str, outcome: Outcome, words: str, how: str = "", *, at: WallTime | None = None
    ) -> None:
        """Say what became of the newest entry with this id; `how` is `runtime` or `reload`, `at` is now if left out."""
        settled_at = time.time() if at is None else at
        await self._write(lambda db: self._set_outcome(db, revision_id, outcome, words, how, settled_at))

    async def revision(self, prefix: str) -> StoredRevision | None:
        """Return the newest entry whose id begins with `prefix`, or None.

        Raises:
            Refused: the prefix fits several ids.
            Unreachable: the file cannot be read.
        """
        return await self._read(lambda db: self._find_revision(db, prefix))

    async def revisions(self, limit: int = 50) -> tuple[StoredRevision, ...]:
        """Return the newest entries, newest first.

        Raises:
            Unreachable: the file cannot be read.
        """
        sql = f"{_REVISION} ORDER BY seq DESC LIMIT ?"
        return await self._read(lambda db: tuple(_revision(row) for row in db.execute(sql, (limit,))))

    async def records(self, *, subject: str | None = None, limit: int = 200) -> tuple[Record, ...]:
        """Return the newest records, of one subject or of all, newest first.

        Raises:
            Unreachable: the file cannot be read.
        """
        where, values = ("", (limit,)) if subject is None else (" WHERE subject = ?", (subject, limit))
        sql = f"{_RECORD}{where} ORDER BY seq DESC LIMIT ?"
        return await self._read(lambda db: tuple(_record(row) for row in db.execute(sql, values)))

    # --- from here on: between the event loop and the thread

    async def _call(self, work: Callable[[], Answer]) -> Answer:
        async with asyncio.timeout(self._limits.deadline):
            if self._is_closed and work != self._close:
                raise sqlite3.ProgrammingError("it is closed")
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _read(self, query: Callable[[sqlite3.Connection], Answer]) -> Answer:
        try:
            return await self._call(lambda: self._healing(query))
        except (sqlite3.Error, TimeoutError, zlib.error) as error:
            raise Unreachable(f"journal {self._path} cannot be read: {_words(error)}") from error

    async def _write(self, statements: Callable[[sqlite3.Connection], None]) -> None:
        try:
            await self._call(lambda: self._healing(lambda db: self._transact(db, statements)))
        except (sqlite3.Error, OSError, ConfigError) as error:  # TimeoutError is an OSError
            self.write_errors += 1
            self.failing = _words(error)
            log.error("journal_write_failed", path=self._path, error=self.failing)
        else:
            self.failing = ""

    # --- from here on: in the thread

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.ProgrammingError("it is closed")
        return self._db

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Created by us and not by SQLite: a configuration may hold what others must not read.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            try:
                self._db = self._connect()
                self._count()
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                self._close()
                self._set_aside(error)
                self._db = self._connect()
                self._count()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"journal {self._path} cannot be opened: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=2.0, isolation_level=None, check_same_thread=False)
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > _SCHEMA_VERSION:
                raise ConfigError(
                    f"journal {self._path} was written by a newer rumor (schema {version}, this one knows"
                    f" {_SCHEMA_VERSION}): run that version, or move the file away to begin a new journal"
                )
            if version == 0:
                # Before the first table, since it is laid down in the file: pruned pages may go back to the disk.
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 4194304")
            db.execute("PRAGMA cache_size = -512")
            if version == 0:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
        except BaseException:
            db.close()
            raise
        return db

    def _set_aside(self, error: sqlite3.Error) -> None:
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.corrupt-{number}")).exists():
            number += 1
        for suffix in ("-wal", "-shm"):
            beside = self._path.with_name(self._path.name + suffix)
            if beside.exists():
                beside.replace(aside.with_name(aside.name + suffix))
        self._path.replace(aside)
        log.error("journal_corrupt", path=self._path, set_aside=aside, error=error)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _count(self) -> None:
        db = self._opened()
        (self._records,) = db.execute("SELECT count(*) FROM records").fetchone()
        (self._revisions,) = db.execute("SELECT count(*) FROM revisions").fetchone()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _healing(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Do the work; a file found corrupt on the way is set aside, and the work done in a new one."""
        try:
            return work(self._opened())
        except sqlite3.DatabaseError as error:
            if not _is_corrupt(error):
                raise
            self._close()
            self._set_aside(error)
            self._db = self._connect()
            self._count()
            return work(self._db)

    def _transact(self, db: sqlite3.Connection, statements: Callable[[sqlite3.Connection], None]) -> None:
        counts = self._records, self._revisions
        db.execute("BEGIN IMMEDIATE")
        try:
            statements(db)
            self._prune(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._records, self._revisions = counts
            raise

    def _cut(self, text: str) -> str:
        """Return what fits, with anything that is not Unicode (odd bytes in HAProxy's words) as an escape."""
        text = text.encode(errors="backslashreplace").decode()
        return text if len(text) <= self._limits.text_chars else text[: self._limits.text_chars - 1] + "…"

    def _append_each(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        for record in records:
            self._append(db, record)

    def _append(self, db: sqlite3.Connection, record: Record) -> None:
        db.execute(
            "INSERT INTO records (at, kind, subject, text, cause, facts) VALUES (?, ?, ?, ?, ?, ?)",
            (
                record.at,
                record.kind,
                self._cut(record.subject),
                self._cut(record.text),
                self._cut(record.cause),
                json.dumps({key: self._cut(value) for key, value in record.facts.items()}),
            ),
        )
        self._records += 1

    def _add_revision(self, db: sqlite3.Connection, revision: Revision, outcome: Outcome, words: str, how: str) -> None:
        db.execute(
            "INSERT OR IGNORE INTO texts (id, text) VALUES (?, ?)",
            (revision.id, zlib.compress(revision.text.encode())),
        )
        cause = revision.cause
        settled_at = None if outcome is Outcome.PENDING else cause.at
        db.execute(
            "INSERT INTO revisions (id, at, kind, cause, subject, outcome, words, how, settled_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                revision.id,
                cause.at,
                cause.kind,
                self._cut(cause.text),
                cause.subject,
                outcome.value,
                self._cut(words),
                how,
                settled_at,
            ),
        )
        self._revisions += 1

    def _set_outcome(
        self, db: sqlite3.Connection, revision_id: str, outcome: Outcome, words: str, how: str, at: float
    ) -> None:
        db.execute(
            "UPDATE revisions SET outcome = ?, words = ?, how = ?, settled_at = ?"
            " WHERE seq = (SELECT max(seq) FROM revisions WHERE id = ?)",
            (outcome.value, self._cut(words), how, at, revision_id),
        )

    def _prune(self, db: sqlite3.Connection) -> None:
        limits = self._limits
        used = _bytes_used(db)
        is_too_big = used > limits.bytes
        records = limits.step if is_too_big else min(self._records - limits.records, limits.step)
        revisions = limits.step if is_too_big else min(self._revisions - limits.revisions, limits.step)
        removed = 0
        if records > 0:
            cursor = db.execute(
                "DELETE FROM records WHERE seq IN (SELECT seq FROM records ORDER BY seq LIMIT ?)"
                " AND seq < (SELECT max(seq) FROM records)",
                (records,),
            )
            self._records -= cursor.rowcount
            removed += cursor.rowcount
        if revisions > 0:
            cursor = db.execute(
                "DELETE FROM revisions WHERE seq IN"
                " (SELECT seq FROM revisions WHERE seq < (SELECT max(seq) FROM revisions) AND seq IS NOT"
                " (SELECT max(seq) FROM revisions WHERE outcome = ?) ORDER BY seq LIMIT ?)",
                (Outcome.APPLIED.value, revisions),
            )
            self._revisions -= cursor.rowcount
            removed += cursor.rowcount
            db.execute("DELETE FROM texts WHERE id NOT IN (SELECT id FROM revisions)")
        if is_too_big and removed:
            log.info("journal_pruned_by_size", path=self._path, bytes=used, limit=limits.bytes, removed=removed)
            db.execute("PRAGMA incremental_vacuum").fetchall()

    def _find_revision(self, db: sqlite3.Connection, prefix: str) -> StoredRevision | None:
        if not _PREFIX.fullmatch(prefix):
            return None
        ids = [
            row[0]
            for row in db.execute(
                "SELECT DISTINCT id FROM revisions WHERE id >= ? AND id < ? LIMIT 4", (prefix, prefix + "g")
            )
        ]
        if len(ids) > 1:
            found = ", ".join(revision_id[:12] for revision_id in ids[:3])
            raise Refused(f"revision {prefix} is ambiguous: it begins {found}{', …' if len(ids) > 3 else ''}")
        if not ids:
            return None
        row = db.execute(f"{_REVISION} WHERE revisions.id = ? ORDER BY seq DESC LIMIT 1", (ids[0],)).fetchone()
        return None if row is None else _revision(row)


def _words(error: Exception) -> str:
    return "the disk does not answer" if isinstance(error, TimeoutError) else str(error)


def _is_corrupt(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "malformed" in str(error) or "not a database" in str(error)
    return (code & 0xFF) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _bytes_used(db: sqlite3.Connection) -> int:
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


def _revision(row: tuple[str, bytes, str, str, str, float, str, str, str, float | None]) -> StoredRevision:
    revision_id, text, kind, cause, subject, at, outcome, words, how, settled_at = row
    return StoredRevision(
        revision_id,
        zlib.decompress(text).decode(),
        Cause(kind, cause, subject, WallTime(at)),
        Outcome(outcome),
        words,
        how,
        None if settled_at is None else WallTime(settled_at),
    )


def _record(row: tuple[float, str, str, str, str, str]) -> Record:
    at, kind, subject, text, cause, facts = row
    return Record(WallTime(at), kind, subject, text, cause, json.loads(facts))
