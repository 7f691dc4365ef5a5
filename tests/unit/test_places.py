"""Where a node's files and sockets are: short enough for a socket, and nobody else's."""

import os
from pathlib import Path

import pytest

from rumor.errors import ConfigError
from rumor.places import places, run_directory


def test_sockets_lie_in_the_data_directory_where_it_is_short() -> None:
    place = places(Path("/srv/shop/.rumor"), "web-1")
    assert place.agent_socket == Path("/srv/shop/.rumor/web-1/agent.sock")
    assert place.journal == Path("/srv/shop/.rumor/web-1/journal.db")


def test_a_deep_data_directory_gets_a_short_run_directory_of_its_own() -> None:
    deep, other = Path("/srv") / ("x" * 120), Path("/srv") / ("y" * 120)
    assert len(os.fsencode(places(deep, "web-1").master_socket)) < 84
    assert run_directory(deep) != run_directory(other)
    assert run_directory(deep) == run_directory(deep), "whoever knows the data directory finds it"
    assert places(deep, "web-1").directory.is_relative_to(deep)


def test_a_relative_directory_means_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places(Path(".rumor"), "a") == places(tmp_path / ".rumor", "a")


def test_directories_are_made_for_this_user_alone(tmp_path: Path) -> None:
    place = places(tmp_path / ("d" * 100), "web-1")
    place.make()
    place.make()
    assert place.directory.is_dir()
    assert place.run_directory.stat().st_mode & 0o077 == 0
    place.run_directory.rmdir()
    place.run_directory.parent.rmdir()


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot create .*choose another --data"):
        places(tmp_path / "file" / "data", "web-1").make()


def test_a_run_directory_that_is_a_link_is_not_trusted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "web-1").mkdir(parents=True)
    place = places(tmp_path / ("e" * 100), "web-1")
    place.run_directory.parent.mkdir(mode=0o700)
    place.run_directory.symlink_to(data / "web-1")
    try:
        with pytest.raises(ConfigError, match="belongs to somebody else"):
            place.make()
    finally:
        place.run_directory.unlink()
        place.run_directory.parent.rmdir()
