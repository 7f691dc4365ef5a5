"""A file replaced in one step: whole, private, and nothing left beside it."""

from pathlib import Path

import pytest

from rumor.atomic_file import write_atomically


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("old and longer")
    path.chmod(0o644)
    write_atomically(path, "neü")
    assert path.read_text(encoding="utf-8") == "neü"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["haproxy.cfg"]


def test_who_reads_while_a_file_is_replaced_reads_the_old_one_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    write_atomically(path, "old")
    with path.open() as reader:
        write_atomically(path, "new", mode=0o640)
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["haproxy.cfg"]
