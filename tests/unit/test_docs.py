"""What the documents promise is what the code does."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rumor.config.rumor_toml import SECTION_KEYS
from rumor.demo.report import TITLES
from rumor.deploy.report import Report, Step
from rumor.model import (
    Cause,
    Evidence,
    Member,
    MemberStatus,
    Outcome,
    Record,
    Rotation,
    Seconds,
    Server,
    ServerObservation,
    Service,
    StoredRevision,
    Table,
    WallTime,
)
from rumor.names import HostPort, MemberName, ServiceName
from rumor.web import views

ROOT = Path(__file__).parents[2]
NOW = WallTime(1_795_000_000.0)
WEB, NODE, ADDRESS = ServiceName("web"), MemberName("web-1"), HostPort("10.0.0.7", 3000)


def shape(value: object) -> object:
    """Return a value's keys, down to its leaves; lists by their first entry, free-form tables not at all."""
    if isinstance(value, dict):
        return {
            key: shape(inner) for key, inner in value.items() if key not in ("tags", "facts", "counters", "statuses")
        }
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def examples() -> Iterator[dict[str, object]]:
    text = (ROOT / "docs" / "json.md").read_text()
    for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL):
        yield json.loads(block)


def views_by_key() -> dict[str, object]:
    observation = ServerObservation(WEB, NODE, ADDRESS, Rotation.READY, True, "L7OK", "UP", 100, 2)
    server = Server(NODE, ADDRESS, 100, Rotation.READY, evidence=(Evidence("gossip", "alive", at=NOW),))
    table = views.TableView(Table((Service(WEB, (server,)),)), "ab", (observation,), {WEB: ("*/",)})
    stored = StoredRevision("ab", "", Cause("start", "", "", NOW), Outcome.APPLIED, "", "runtime", NOW)
    return {
        "members": views.members_json([Member(NODE, ADDRESS, {}, MemberStatus.ALIVE, status_since=NOW)]),
        "services": views.table_json(table),
        "revisions": views.history_json([stored]),
        "records": views.journal_json([Record(NOW, "start", "", "")]),
        "elsewhere": Report("web", False, "", (Step("web-1", "started", Seconds(1.0)),), ("web-2",)).as_json(),
    }


@pytest.mark.parametrize("key", ["members", "services", "revisions", "records", "elsewhere"])
def test_the_shapes_in_the_document_are_those_of_the_views(key: str) -> None:
    documented = [example for example in examples() if key in example and "node" not in example]
    assert [shape(example) for example in documented] == [shape(views_by_key()[key])]


def test_every_key_of_the_configuration_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for section, keys in SECTION_KEYS.items():
        heading = f"## `[{section}.NAME]`" if section in ("service", "template", "program") else f"## `[{section}]`"
        part = text.split(heading, 1)[1].split("\n## ", 1)[0]
        assert sorted(re.findall(r"^\| `(\w+)`", part, re.MULTILINE)) == sorted(keys), section


def test_every_step_of_the_demo_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in TITLES if f"`{name}`" not in text] == []
