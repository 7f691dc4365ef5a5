"""The journal: what goes in comes out, within its limits, and a broken file stops nobody."""

# ruff: noqa: ASYNC240 - the journal's file is small and local, and nothing else runs in this loop

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from pathlib import Path

import pytest

from rumor.errors import ConfigError, Refused, Unreachable
from rumor.journal import Journal, JournalLimits
from rumor.model import Cause, Outcome, Record, Revision, Table, WallTime


def record(number: int, subject: str = "web-1", text: str = "") -> Record:
    return Record(
        WallTime(1000.0 + number), "server_down", subject, text or f"happened {number}", "check", {"n": str(number)}
    )


def revision(text: str, *, at: float = 1.0) -> Revision:
    return Revision(
        sha256(text.encode()).hexdigest(), text, Table(), Cause("server_ready", f"for {text}", "web-1", WallTime(at))
    )


@asynccontextmanager
async def journal(path: Path, limits: JournalLimits | None = None) -> AsyncIterator[Journal]:
    opened = await Journal.open(path, limits=limits)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node" / "journal.db"


def numbers(records: tuple[Record, ...]) -> list[int]:
    return [int(record.facts["n"]) for record in records]


async def test_records_come_back_as_they_went_in_newest_first(path: Path) -> None:
    async with journal(path) as book:
        for number in range(3):
            await book.append(record(number))
        assert await book.records() == (record(2), record(1), record(0))


async def test_records_of_one_subject_are_found_among_others(path: Path) -> None:
    async with journal(path) as book:
        for number in range(6):
            await book.append(record(number, subject=f"web-{number % 2}"))
        assert numbers(await book.records(subject="web-1", limit=2)) == [5, 3]
        assert await book.records(subject="web-9") == ()


async def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    async with journal(path) as book:
        await book.append(record(7))
        await book.add_revision(revision("global"), Outcome.PENDING)
    async with journal(path) as book:
        assert await book.records() == (record(7),)
        assert len(await book.revisions()) == 1


async def test_revision_keeps_text_cause_and_outcome(path: Path) -> None:
    wanted = revision("global\n  # größer\n")
    async with journal(path) as book:
        await book.add_revision(wanted, Outcome.PENDING)
        before = await book.revision(wanted.id)
        await book.set_outcome(wanted.id, Outcome.APPLIED, "Success. Reload took 0.1 s", "reload", at=WallTime(9.5))
        after = await book.revision(wanted.id)
    assert before is not None
    assert (before.outcome, before.settled_at) == (Outcome.PENDING, None)
    assert after is not None
    assert (after.text, after.cause) == (wanted.text, wanted.cause)
    assert (after.outcome, after.words, after.how) == (Outcome.APPLIED, "Success. Reload took 0.1 s", "reload")
    assert after.settled_at == 9.5


async def test_same_text_that_comes_back_is_a_new_entry_with_its_own_outcome(path: Path) -> None:
    async with journal(path) as book:
        await book.add_revision(revision("a", at=1), Outcome.APPLIED, how="reload")
        await book.add_revision(revision("b", at=2), Outcome.APPLIED, how="runtime")
        await book.add_revision(revision("a", at=3), Outcome.PENDING)
        await book.set_outcome(revision("a").id, Outcome.REFUSED, "no such address", at=WallTime(4))
        entries = await book.revisions()
    assert [(entry.text, entry.cause.at, entry.outcome) for entry in entries] == [
        ("a", 3.0, Outcome.REFUSED),
        ("b", 2.0, Outcome.APPLIED),
        ("a", 1.0, Outcome.APPLIED),
    ]


async def test_prefix_finds_a_revision_unless_it_is_ambiguous_or_no_id_at_all(path: Path) -> None:
    ids = ["ab" + "0" * 62, "ab" + "f" * 62, "cd" + "0" * 62]
    async with journal(path) as book:
        for number, revision_id in enumerate(ids):
            await book.add_revision(Revision(revision_id, str(number), Table(), Cause("start", "")), Outcome.PENDING)
        found = await book.revision("c")
        assert found is not None
        assert found.id == ids[2]
        assert await book.revision("ee") is None
        for no_id in ("", "%", "AB", "c' OR 1", ids[0] + "0"):
            assert await book.revision(no_id) is None
        with pytest.raises(Refused, match="ambiguous"):
            await book.revision("ab")


async def test_oldest_records_go_once_there_is_one_too_many(path: Path) -> None:
    async with journal(path, JournalLimits(records=5)) as book:
        for number in range(5):
            await book.append(record(number))
        assert numbers(await book.records()) == [4, 3, 2, 1, 0]
        await book.append(record(5))
        assert numbers(await book.records()) == [5, 4, 3, 2, 1]


async def test_lowered_limit_is_reached_in_small_steps(path: Path) -> None:
    async with journal(path) as book:
        for number in range(20):
            await book.append(record(number))
    async with journal(path, JournalLimits(records=5, step=4)) as book:
        sizes = []
        for number in range(20, 26):
            await book.append(record(number))
            sizes.append(len(await book.records()))
    assert sizes == [17, 14, 11, 8, 5, 5]


async def test_oldest_revisions_go_but_never_the_newest_applied_one(path: Path) -> None:
    async with journal(path, JournalLimits(revisions=3)) as book:
        await book.add_revision(revision("old"), Outcome.APPLIED)
        await book.add_revision(revision("runs"), Outcome.APPLIED)
        for number in range(10):
            await book.add_revision(revision(f"refused {number}"), Outcome.REFUSED)
        assert [entry.text for entry in await book.revisions()] == ["refused 9", "refused 8", "runs"]
        assert await book.revision(revision("old").id) is None


async def test_text_of_a_pruned_revision_stays_while_a_younger_entry_needs_it(path: Path) -> None:
    async with journal(path, JournalLimits(revisions=2)) as book:
        for text in ("a", "b", "a"):
            await book.add_revision(revision(text), Outcome.REFUSED)
        found = await book.revision(revision("a").id)
    assert found is not None
    assert found.text == "a"


async def test_file_does_not_grow_beyond_its_limit_of_bytes(path: Path) -> None:
    limits = JournalLimits(bytes=256 * 1024, step=20)
    async with journal(path, limits) as book:
        for number in range(1000):
            await book.append(record(number, text="x" * 2000))
        kept = numbers(await book.records(limit=1000))
    assert path.stat().st_size <= 1.25 * limits.bytes
    assert kept == list(range(999, 999 - len(kept), -1))
    assert len(kept) > 30


async def test_long_text_is_cut_at_its_limit(path: Path) -> None:
    async with journal(path, JournalLimits(text_chars=10)) as book:
        await book.append(record(0, text="x" * 10))
        await book.append(record(0, text="y" * 11))
        cut, whole = await book.records()
    assert (whole.text, cut.text) == ("x" * 10, "y" * 9 + "…")


async def test_words_that_are_not_unicode_are_kept_as_escapes(path: Path) -> None:
    async with journal(path) as book:
        await book.append(record(0, subject=b"web\xff".decode(errors="surrogateescape"), text="a\udcffb\0c"))
        (kept,) = await book.records()
    assert (kept.subject, kept.text) == ("web\\udcff", "a\\udcffb\0c")


async def test_corrupt_file_is_set_aside_and_a_new_one_begun(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = b"not a database at all, but long enough to have a header " * 50
    path.parent.mkdir()
    path.write_bytes(content)
    async with journal(path) as book:
        await book.append(record(1))
        assert numbers(await book.records()) == [1]
    assert path.with_name("journal.db.corrupt-1").read_bytes() == content
    assert "journal_corrupt" in caplog.text


async def test_second_corrupt_file_does_not_replace_the_first(path: Path) -> None:
    path.parent.mkdir()
    for number in (1, 2):
        path.write_bytes(b"broken %d " % number * 200)
        async with journal(path):
            pass
        assert path.with_name(f"journal.db.corrupt-{number}").exists()


async def test_file_found_corrupt_while_it_is_written_is_set_aside_too(path: Path) -> None:
    async with journal(path) as book:
        for number in range(200):
            await book.append(record(number, text="x" * 1000))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * (size - 4096 * 3))
    async with journal(path) as book:
        for number in range(20):
            await book.append(record(number))
        assert numbers(await book.records(limit=20)) == list(range(19, -1, -1))
        assert book.write_errors == 0
    assert path.with_name("journal.db.corrupt-1").exists()


async def test_journal_of_a_newer_rumor_is_left_alone(path: Path) -> None:
    async with journal(path) as book:
        await book.append(record(1))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"journal\.db was written by a newer rumor \(schema 99"):
        await Journal.open(path)
    assert path.read_bytes() == before


async def test_path_that_cannot_be_a_journal_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be opened"):
        await Journal.open(tmp_path / "file" / "journal.db")
    with pytest.raises(ConfigError, match="cannot be opened"):
        await Journal.open(tmp_path)


async def test_write_that_fails_is_counted_and_stops_nobody(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with journal(path) as book:
        await book.append(record(1))
        with closing(sqlite3.connect(path)) as other:
            other.execute("ALTER TABLE records RENAME TO elsewhere")
            await book.append(record(2))
            assert book.write_errors == 1
            assert "journal_write_failed" in caplog.text
            with pytest.raises(Unreachable, match="cannot be read"):
                await book.records()
            other.execute("ALTER TABLE elsewhere RENAME TO records")
        await book.append(record(3))
        assert numbers(await book.records()) == [3, 1]


async def test_closed_journal_refuses_and_may_be_closed_again(path: Path) -> None:
    async with journal(path) as book:
        await book.close()
        await book.append(record(1))
        assert book.write_errors == 1
        with pytest.raises(Unreachable, match="closed"):
            await book.records()


async def test_file_is_for_its_owner_alone(path: Path) -> None:
    async with journal(path) as book:
        await book.append(record(1))
        for file in path.parent.iterdir():
            assert file.stat().st_mode & 0o077 == 0, file


async def test_many_records_come_in_order_and_pruning_keeps_up_with_them(path: Path) -> None:
    async with journal(path, JournalLimits(records=30, step=7)) as book:
        await book.append_all([record(number) for number in range(20)])
        assert numbers(await book.records(limit=3)) == [19, 18, 17]
        await book.append_all([record(number) for number in range(20, 100)])
        assert numbers(await book.records()) == list(range(99, 69, -1))
        await book.append_all([])
        assert len(await book.records()) == 30
