"""The snapshot file: Serf's format in and out, and what a crash may leave of it."""

import json
import os
from pathlib import Path

import pytest

from rumor.errors import ConfigError
from rumor.names import HostPort
from rumor.serf import snapshot as module
from rumor.serf.snapshot import Remembered, Snapshot, parse_snapshot

WEB_1 = HostPort("10.0.0.1", 7946)
WEB_2 = HostPort("fd00::2", 7946)
VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "handlers.json").read_text())["snapshot_file"]["text"]


def reread(path: Path) -> Remembered:
    return parse_snapshot(path.read_text(errors="surrogateescape"))


def test_a_file_of_a_real_serf_agent_is_read_up_to_its_leave() -> None:
    before_leave = VECTOR[: VECTOR.index("leave\n")]
    remembered = parse_snapshot(before_leave)
    assert remembered.alive == {"f3": HostPort("127.0.0.63", 17946)}
    assert remembered.clocks == {"clock": 1, "event-clock": 4, "query-clock": 7}
    assert not remembered.left


def test_a_leave_forgets_the_members_and_says_so() -> None:
    assert parse_snapshot(VECTOR) == Remembered({}, {"clock": 2}, left=True)


def test_a_name_may_hold_spaces_and_an_address_may_be_ipv6() -> None:
    assert parse_snapshot("alive: my web node [fd00::2]:7946\n").alive == {"my web node": WEB_2}


@pytest.mark.parametrize(
    "line", ["", "# comment", "alive: web-1", "alive: web-1 no:port", "coordinate: x", "clock: ²", "x"]
)
def test_a_line_that_does_not_parse_is_skipped(line: str) -> None:
    assert parse_snapshot(f"{line}\nalive: web-2 {WEB_2}\n") == Remembered({"web-2": WEB_2})


def test_what_is_noted_is_remembered_by_the_next_start(tmp_path: Path) -> None:
    first = Snapshot(tmp_path / "snapshot")
    first.note_alive("web-1", WEB_1)
    first.note_alive("web-2", WEB_2)
    first.note_gone("web-1")
    # No close: this is what kill -9 leaves.
    second = Snapshot(tmp_path / "snapshot")
    assert second.remembered == Remembered({"web-2": WEB_2})
    first.close()
    second.close()


def test_a_leave_is_remembered_until_somebody_is_alive_again(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "snapshot")
    snapshot.note_alive("web-1", WEB_1)
    snapshot.note_leave()
    assert reread(tmp_path / "snapshot").left
    snapshot.note_alive("web-1", WEB_1)
    assert reread(tmp_path / "snapshot") == Remembered({"web-1": WEB_1})
    snapshot.close()


def test_a_torn_last_line_is_no_address_and_does_not_spoil_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    path.write_text(f"alive: web-1 {WEB_1}\nalive: web-3 10.0.0.3:79")
    snapshot = Snapshot(path)
    assert snapshot.remembered.alive == {"web-1": WEB_1}
    snapshot.note_alive("web-2", WEB_2)
    snapshot.close()
    assert reread(path).alive == {"web-1": WEB_1, "web-2": WEB_2}


def test_what_is_known_already_is_not_written_again(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "snapshot")
    for _ in range(3):
        snapshot.note_alive("web-1", WEB_1)
    snapshot.note_gone("web-2")
    snapshot.close()
    assert (tmp_path / "snapshot").read_text() == f"alive: web-1 {WEB_1}\n"


def test_a_file_that_has_grown_is_compacted_without_losing_anything(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    path.write_text(f"query-clock: 7\nalive: web-1 {WEB_1}\n")
    snapshot = Snapshot(path)
    for turn in range(10_000):
        snapshot.note_alive("web-2", HostPort("10.0.0.2", 1 + turn))
        assert path.stat().st_size <= module._COMPACT_AT
    snapshot.close()
    assert reread(path) == Remembered({"web-1": WEB_1, "web-2": HostPort("10.0.0.2", 10_000)}, {"query-clock": 7})
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_name_with_a_line_feed_cannot_write_a_line_of_its_own(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "snapshot")
    snapshot.note_alive("x\nleave", WEB_1)
    snapshot.close()
    assert (tmp_path / "snapshot").read_text() == ""


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        Snapshot(tmp_path / "nowhere" / "snapshot")


def test_a_disk_that_is_full_costs_the_snapshot_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    snapshot = Snapshot(tmp_path / "snapshot")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, snapshot._file)
    os.close(full)
    snapshot.note_alive("web-1", WEB_1)
    snapshot.note_alive("web-2", WEB_2)
    snapshot.close()
    assert caplog.messages == ["snapshot_not_written"]
