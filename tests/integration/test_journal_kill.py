"""kill -9 of a process that writes its journal: what it was told is kept, is kept."""

# ruff: noqa: ASYNC220, ASYNC240 - nothing else runs in this loop while it waits for the writer

import signal
import subprocess
import sys
from pathlib import Path

from rumor.journal import Journal

WRITER = """
import asyncio, sys
from pathlib import Path
from rumor.journal import Journal, Outcome, Record
from rumor.model import Cause, Revision, Table, WallTime

async def main() -> None:
    journal = await Journal.open(Path(sys.argv[1]))
    number = 0
    while True:
        revision = Revision(f"{number:064x}", f"text {number}", Table(), Cause("test", "again"))
        await journal.append(Record(WallTime(number), "test", "web-1", str(number)))
        await journal.add_revision(revision, Outcome.APPLIED)
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
        number += 1

asyncio.run(main())
"""


async def test_nothing_accepted_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    for rounds in range(1, 4):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                if int(line) >= 100 * rounds:
                    break
            writer.send_signal(signal.SIGKILL)
            # What it wrote to the pipe before it died was accepted as well.
            accepted = max([int(line), *(int(rest) for rest in writer.stdout if rest.endswith("\n"))])
        journal = await Journal.open(path)
        try:
            records = await journal.records(limit=100_000)
            latest = await journal.revision(f"{accepted:064x}")
        finally:
            await journal.close()
        # The newest life's records come first and count down to its first one without a gap.
        life = [int(record.text) for record in records[: int(records[0].text) + 1]]
        assert life == list(range(life[0], -1, -1))
        assert life[0] >= accepted
        assert latest is not None
        assert latest.text == f"text {accepted}"
    assert not list(tmp_path.glob("*.corrupt-*"))
