"""What is supervised, as a file; and what lies between two pictures of it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from rumor.errors import Refused, Unreachable
from rumor.model import Seconds
from rumor.supervise.base import Program
from rumor.supervise.inventory import Inventory, changing, format_inventory, parse_inventory, read_inventory
from rumor.supervise.operating import changes

PROGRAM = Program(
    "web-1-app", "apps", ("/bin/serve", "a b"), Path("/srv"), Path("/srv/log"), Path("/srv/exits"), "web-1",
    environment={"A": "1"}, forgets=("KEY",), user="www", stop_signal="INT", stop_wait=Seconds(3.0), notifies=True,
    longest_pause=Seconds(2.0), priority=7, autostart=False, writes=(Path("/srv/out"),), binds_low_ports=True,
    reads_homes=True,
)  # fmt: skip


def test_an_inventory_is_read_back() -> None:
    inventory = Inventory((PROGRAM, replace(PROGRAM, name="other")), {"file": "/srv/rumor.toml", "joins": ["a"]})
    assert parse_inventory(format_inventory(inventory)) == inventory


@pytest.mark.parametrize("text", ["", "[]", '{"programs": []}', '{"origin": {}, "programs": [{"name": "x"}]}'])
def test_what_is_no_inventory_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        parse_inventory(text)


def test_a_missing_one_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="No such file"):
        read_inventory(tmp_path / "programs.json")


def test_programs_are_added_once_and_found_by_name() -> None:
    inventory = Inventory((PROGRAM,))
    with pytest.raises(Refused, match="web-1-app: supervised already"):
        inventory.with_added([PROGRAM])
    with pytest.raises(Refused, match="no program nobody"):
        inventory.find(["nobody"])
    assert inventory.without(["web-1-app"]).programs == ()


def test_changes_are_what_is_new_gone_and_otherwise() -> None:
    same, gone, new = (replace(PROGRAM, name=name) for name in ("same", "gone", "new"))
    otherwise = replace(PROGRAM, command=("/bin/other",))
    found = changes([PROGRAM, same, gone], [otherwise, same, new])
    assert (found.added, found.removed, found.changed) == ((new,), (gone,), (otherwise,))


async def test_who_changes_it_has_it_for_himself(tmp_path: Path) -> None:
    path, order = tmp_path / "programs.json", list[str]()

    async def change(name: str) -> None:
        async with changing(path):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(*(change(name) for name in ("a", "b", "c")))
    assert [word.split()[1] for word in order] == ["in", "out"] * 3
