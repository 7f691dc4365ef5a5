"""What was done to HAProxy, in words for the journal: the text says the first steps, the facts all of them."""

import re
from collections.abc import Sequence

from rumor.haproxy.apply import ApplyReport

_DONE_LIMIT = 20
"""So many steps stand in a record's text."""
_STEP_TARGET = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


def in_words(done: Sequence[str]) -> str:
    """Return the steps in one sentence."""
    more = f"; and {len(done) - _DONE_LIMIT} more" if len(done) > _DONE_LIMIT else ""
    return "; ".join(done[:_DONE_LIMIT]) + more


def facts(report: ApplyReport) -> dict[str, str]:
    """Return what the words leave out: the way, all servers that it is about, and all steps if they are many."""
    servers = dict.fromkeys(word for step in report.done for word in step.split() if _STEP_TARGET.fullmatch(word))
    found = {"how": report.how, "servers": " ".join(servers)}
    return found | {"steps": "; ".join(report.done)} if len(report.done) > _DONE_LIMIT else found
