"""The balancer's loop: members in, a running HAProxy brought to what they say out.

One task owns the table, the revision and the applier. Each cycle looks (HAProxy, gossip), decides in one synchronous
stretch (table, revision) and acts (check, apply, journal, acknowledge drains). It is woken by a change of the members
and, at the latest, each second, so that what runs is read back and repaired even when nothing happens.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rumor.agent.drain import Drained, format_drained
from rumor.errors import Bug, Refused, RumorError, Unreachable
from rumor.haproxy.apply import Applier, ApplyReport, Observed
from rumor.journal import Journal, Outcome, Record
from rumor.log import get_logger
from rumor.model import Cause, Instant, Revision, Seconds, ServerObservation, Table, WallTime
from rumor.names import MemberName, ServiceName
from rumor.pool.table import PoolSettings, build_table, changes, drained, explain
from rumor.render.settings import RenderSettings
from rumor.render.template import render
from rumor.sources.base import Snapshot

log = get_logger("balancer")

# Events come in bursts (three agents joining); one table for all of them costs them this much delay.
_DEBOUNCE = 0.02
_RECONCILE_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class BalancingSettings:
    """What a balancer is told by its configuration; replaced as a whole when rumor.toml is read again."""

    render: RenderSettings
    pool: Mapping[ServiceName, PoolSettings]


class Balancing:
    """Owns the table, the revision that is wanted and the applier."""

    def __init__(
        self,
        settings: BalancingSettings,
        *,
        applier: Applier,
        journal: Journal,
        check: Callable[[Revision], "asyncio.Future[str]"],
        picture: Callable[[], Snapshot],
        tell_drained: Callable[[MemberName, bytes], None],
    ) -> None:
        self._settings = settings
        self._applier = applier
        self._journal = journal
        self._picture = picture
        self._tell_drained = tell_drained
        self._table = Table()
        self._revision: Revision | None = None
        self._observed: Observed | None = None
        self._changed = asyncio.Event()
        self._causes: list[Cause] = []
