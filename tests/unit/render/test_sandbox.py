"""What a template may see of rumor's values, and what of Python it may not."""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import pytest

from rumor.errors import Refused
from rumor.render.sandbox import render_text


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Value:
    name: str
    colour: Colour = Colour.RED
    _hidden: str = "secret"

    @property
    def shout(self) -> str:
        return self.name.upper()

    @cached_property
    def length(self) -> int:
        return len(self.name)


Value.__module__ = Colour.__module__ = "rumor.tests"


def rendered(source: str) -> str:
    return render_text("mine.j2", source, (), {"value": Value("web-1")})


def test_fields_and_properties_of_our_values_are_seen() -> None:
    source = "{{ value.name }} {{ value.shout }} {{ value.length }} {{ value.colour.value }} {{ value.colour.name }}"
    assert rendered(source) == "web-1 WEB-1 5 red RED"


def test_methods_of_plain_values_go_on_working() -> None:
    assert rendered("{{ value.name.upper() }} {{ '{}'.format(value.name) }}") == "WEB-1 web-1"


@pytest.mark.parametrize(
    "source",
    [
        "{{ value._hidden }}",
        "{{ value.__class__ }}",
        "{{ value.__dataclass_fields__ }}",
        "{{ value.colour.__class__ }}",
        "{{ value.colour._value_ }}",
        "{{ value.shout.__class__.__mro__ }}",
        "{{ '{0.__class__}'.format(value) }}",
    ],
)
def test_what_is_not_ours_to_show_is_refused(source: str) -> None:
    with pytest.raises(Refused, match="unsafe"):
        rendered(source)


def test_name_that_nothing_has_is_refused() -> None:
    with pytest.raises(Refused, match="has no attribute 'nmae'"):
        rendered("{{ value.nmae }}")
