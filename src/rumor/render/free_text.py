"""Text from the network that a template may look at, and print through a filter alone."""


class FreeText:
    """May be compared, searched and split; printed or joined as it is it raises ValueError, which says what to do."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        raise ValueError("a tag is free text from the network: print it through a filter, as | word, | json or | shell")

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

    def split(self, separator: str | None = None) -> "list[FreeText]":
        return [FreeText(part) for part in self._text.split(separator)]


def text_of(value: object) -> str | None:
    """Return what a text says, free or not; None for anything else. For filters: what they return is printed."""
    if isinstance(value, FreeText):
        return value._text
    return value if isinstance(value, str) else None
