"""The families of errors, split by what the reader must do.

This module imports nothing, so every other one may raise from it. Library errors are translated into these at the
wall where they arise (`raise ... from`); nothing below `cli` or `agent` catches the whole family.
"""


class RumorError(Exception):
    """Any failure that rumor foresees; its text says what happened, to what, and what to try."""

    exit_status = 1


class ConfigError(RumorError):
    """Fix the configuration: the text names key, file and line where they are known."""

    exit_status = 2


class PeerError(RumorError):
    """Bytes or text from the network that do not parse: count them, journal them, go on."""


class Unreachable(RumorError):
    """The other side does not answer: retry with backoff."""


class Refused(RumorError):
    """HAProxy, supervisord or a peer said no; its own words are in the text."""


class InOthersWords(RumorError):
    """What another program would have said in our place; printed as it is."""


class Bug(RumorError):
    """rumor broke a promise of its own: crash the part and report it."""
