"""Free text is looked at by templates, and printed by none of them as it is, however it is wrapped."""

import json

import pytest

from rumor.errors import Refused
from rumor.render.file import MemberView, Picture, render_file
from rumor.render.free_text import FreeTags

TAGS = {"zone": "eu,us", "note": "x\ny"}


def rendered(source: str) -> str:
    member = MemberView("web-1", "10.0.0.1", 7946, "alive", FreeTags(TAGS), is_balancer=False)
    return render_file("a.j2", source, Picture("shop", "web-1", (member,), ()))


@pytest.mark.parametrize(
    "expression",
    [
        "tags", "tags.zone", "tags['zone']", "tags.items()", "tags.keys()", "tags.values()", "tags.zone.split(',')",
        "tags | string", "'x' ~ tags", "'%s' | format(tags)", "tags | join", "tags.values() | join(',')",
        "tags.zone.split(',') | join",
        "tags | upper",
    ],
)  # fmt: skip
def test_nothing_prints_it_bare(expression: str) -> None:
    with pytest.raises(Refused, match="free text from the network: print it through a filter"):
        rendered("{% set tags = members[0].tags %}{{ " + expression + " }}")


@pytest.mark.parametrize("expression", ["members", "members[0]", "[members[0].tags]", "members[0].tags | list"])
def test_what_wraps_it_does_not_show_it(expression: str) -> None:
    text = rendered("{{ " + expression + " }}")
    assert "zone" not in text
    assert "eu" not in text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ tags | json }}", json.dumps(TAGS, sort_keys=True)),
        ("{{ tags.zone.split(',') | json }}", '["eu", "us"]'),
        ("{% for key, value in tags.items() %}{{ key | word }} {% endfor %}", "note zone "),
        ("{% for key, value in tags | dictsort %}{{ value | json }} {% endfor %}", '"x\\ny" "eu,us" '),
        ("{{ tags.get('zone') | word }} {{ tags.get('none', 'no') }} {{ tags | length }}", "eu,us no 2"),
        ("{{ 'zone' in tags }} {{ 'none' in tags }} {{ tags['zone'] == 'eu,us' }}", "True False True"),
        ("{{ tags.none is defined }} {{ tags.zone is defined }}", "False True"),
    ],
)
def test_it_can_be_looked_at(source: str, text: str) -> None:
    assert rendered("{% set tags = members[0].tags %}" + source) == text
