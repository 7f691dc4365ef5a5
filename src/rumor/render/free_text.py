"""Text from the network that a template may look at, and print through a filter alone."""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView


class _Unprinted:
    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError("a tag is free text from the network: print it through a filter, as | word, | json or | shell")


class FreeText(_Unprinted):
    """May be compared, searched and split; printed or joined as it is it raises ValueError, which says what to do."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "<free text>"

    def __eq__(self, other: object) -> bool:
        return text_of(other) == self._text

    def __hash__(self) -> int:
        # As the text's own, so that `tags["zone"]` finds what was stored under a key from the network.
        return hash(self._text)

    def __lt__(self, other: object) -> bool:
        text = text_of(other)
        return NotImplemented if text is None else self._text < text

    def __len__(self) -> int:
        return len(self._text)

    def __contains__(self, part: object) -> bool:
        text = text_of(part)
        return text is not None and text in self._text

    def startswith(self, prefix: str) -> bool:
        return self._text.startswith(prefix)

    def endswith(self, suffix: str) -> bool:
        return self._text.endswith(suffix)

    def split(self, separator: str | None = None) -> "FreeParts":
        return FreeParts(FreeText(part) for part in self._text.split(separator))


class FreeParts(_Unprinted, list[FreeText]):
    """Pieces of free text; together they are none the less free."""


class FreeTags(_Unprinted, Mapping[FreeText, FreeText]):
    """A member's tags by their keys, free text both: to be looked up and gone through, and not printed as they are."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._tags = {FreeText(tag): FreeText(text) for tag, text in sorted(tags.items())}

    def __getitem__(self, tag: FreeText | str) -> FreeText:
        return self._tags[tag]  # type: ignore[index]  # a str is equal to the FreeText that says the same

    def __iter__(self) -> Iterator[FreeText]:
        return iter(self._tags)

    def __len__(self) -> int:
        return len(self._tags)

    def __repr__(self) -> str:
        return "<free tags>"

    # The views of a mapping would print it.
    def keys(self) -> KeysView[FreeText]:
        return _Keys(self)

    def values(self) -> ValuesView[FreeText]:
        return _Values(self)

    def items(self) -> ItemsView[FreeText, FreeText]:
        return _Items(self)


class _Keys(_Unprinted, KeysView[FreeText]):
    pass


class _Values(_Unprinted, ValuesView[FreeText]):
    pass


class _Items(_Unprinted, ItemsView[FreeText, FreeText]):
    pass


def text_of(value: object) -> str | None:
    """Return what a text says, free or not; None for anything else. For filters: what they return is printed."""
    if isinstance(value, FreeText):
        return value._text
    return value if isinstance(value, str) else None
