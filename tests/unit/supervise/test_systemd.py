"""What is said when systemd cannot be asked; what it does when it can is in tests/integration/test_supervision.py."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from rumor.errors import Refused, Unreachable
from rumor.supervise.base import Program
from rumor.supervise.inventory import Inventory, format_inventory
from rumor.supervise.systemd import Systemd

PROGRAM = Program("web-app", "apps", ("/bin/serve",), Path("/srv"), Path("/srv/log"), Path("/srv/exits"))


def systemd(root: Path, systemctl: Sequence[str]) -> Systemd:
    place = root / "etc/rumor"
    place.mkdir(parents=True)
    (place / "programs.json").write_text(format_inventory(Inventory((PROGRAM,))))
    return Systemd(root, systemctl)


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("echo 'Failed to connect to bus: No such file or directory' >&2; exit 1", Unreachable, "does not answer"),
        ("echo 'System has not been booted with systemd as init' >&2; exit 1", Unreachable, "has not been booted"),
        ("echo 'Failed to start: Access denied' >&2; exit 1", Refused, "systemctl show .*Access denied"),
        ("true", Refused, "says nothing of rumor-web-app.service"),
        ("echo nonsense", Refused, "what it was not asked for"),
    ],
)
async def test_an_error_says_what_was_asked_and_what_came(
    tmp_path: Path, script: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await systemd(tmp_path, ("sh", "-c", script)).states()


async def test_a_host_without_systemctl_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="/missing/systemctl cannot be run"):
        await systemd(tmp_path, ("/missing/systemctl",)).states()


async def test_a_program_that_is_not_there_is_refused_before_systemd_is_asked(tmp_path: Path) -> None:
    here = systemd(tmp_path, ("/missing/systemctl",))
    for verb in (here.start, here.stop, here.remove):
        with pytest.raises(Refused, match="no program other"):
            await verb(["other"])


def test_where_nothing_was_installed_nothing_is_supervised(tmp_path: Path) -> None:
    assert not Systemd(tmp_path).is_installed()
    with pytest.raises(Unreachable, match="No such file"):
        Systemd(tmp_path).inventory()
