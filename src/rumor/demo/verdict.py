"""Judge what became of the requests: failed, or beyond anybody's saving.

A failure is `unsaveable` only if the request may not be sent twice (a POST) and the request log of the very process
that was killed or frozen holds its id: that proves it had got there, and nobody but that process could tell whether it
was done. Every other failure counts against rumor.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rumor.demo.load import Result


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One line of an app's request log."""

    id: str
    pid: int
    method: str
    path: str
    at: float
    """In calendar time."""


@dataclass(frozen=True, slots=True)
class Count:
    """The requests of one step."""

    sent: int
    failed: tuple[Result, ...]
    unsaveable: tuple[Result, ...]


def parse_log(text: str) -> list[LoggedRequest]:
    """Return the requests in a log; a line torn by kill -9 is skipped."""
    requests = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            requests.append(LoggedRequest(entry["id"], entry["pid"], entry["method"], entry["path"], entry["t"]))
        except (ValueError, KeyError, TypeError):
            continue
    return requests


def judge(
    results: Iterable[Result], logged: Iterable[LoggedRequest], struck: frozenset[int], begin: float, end: float
) -> Count:
    """Count the requests sent from `begin` to before `end`.

    Args:
        results: every request's outcome.
        logged: the apps' request logs.
        struck: pids of app processes that were killed or frozen.
        begin: on the results' clock; `end` likewise.
    """
    reached: Mapping[str, int] = {entry.id: entry.pid for entry in logged if entry.pid in struck}
    mine = [result for result in results if begin <= result.sent_at < end]
    bad = [result for result in mine if not result.is_ok]
    unsaveable = tuple(result for result in bad if result.method == "POST" and result.id in reached)
    return Count(len(mine), tuple(result for result in bad if result not in unsaveable), unsaveable)
