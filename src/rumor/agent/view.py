"""What the agent shows of itself to the API: satisfies `rumor.web.views.View`."""

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from rumor import __version__
from rumor.agent.membership import Membership
from rumor.agent.offering import Offering
from rumor.journal import Journal
from rumor.model import Member, Seconds, WallTime
from rumor.names import MemberName
from rumor.web.views import GossipStatus, HaproxyStatus, Sample, Status, TableView, TemplateView, iso

if TYPE_CHECKING:
    from rumor.agent.balancing import Balancing
    from rumor.agent.templates import Templates


class AgentView:
    """The present picture of one agent; every call is cheap and waits for nothing."""

    def __init__(
        self,
        node: MemberName,
        parts: tuple[str, ...],
        *,
        membership: Membership,
        offering: Offering,
        balancing: "Balancing | None",
        journal: Journal,
        templates: "Callable[[], Templates | None]",
        reload: Callable[[], Awaitable[str]],
    ) -> None:
        self._node = node
        self._parts = parts
        self._membership = membership
        self._offering = offering
        self._balancing = balancing
        self._journal = journal
        self._templates = templates
        self._reload = reload
        self._started_at = WallTime(time.time())
        self._started = time.monotonic()

    @property
    def history(self) -> Journal:
        return self._journal

    async def reload(self) -> str:
        return await self._reload()

    async def operate(self, word: str, target: str, *, weight: int | None, by: str) -> Sequence[tuple[str, str]] | None:
        if self._balancing is None:
            return None
        return await self._balancing.operate(word, target, weight=weight, by=by)

    async def roll_back(self, prefix: str, by: str) -> str | None:
        return None if self._balancing is None else await self._balancing.roll_back(prefix, by)

    async def release(self, by: str) -> str | None:
        return None if self._balancing is None else await self._balancing.release(by)

    def members(self) -> Sequence[Member]:
        return self._membership.members()

    def table(self) -> TableView | None:
        balancing = self._balancing
        if balancing is None:
            return None
        return TableView(
            table=balancing.table,
            revision=balancing.revision.id if balancing.revision else "",
            observations=balancing.observed.servers if balancing.observed else (),
            routes=balancing.settings.routes,
            set_aside=balancing.set_aside,
            pinned=None if (pinned := balancing.pinned) is None else (pinned.revision, pinned.by, pinned.at),
        )

    def templates(self) -> Sequence[TemplateView]:
        templates = self._templates()
        return [
            TemplateView(state.name, str(state.destination), state.written_at, state.error)
            for state in (templates.states if templates is not None else ())
        ]

    def status(self) -> Status:
        return Status(
            node=self._node,
            parts=self._parts,
            version=__version__,
            pid=os.getpid(),
            started_at=self._started_at,
            uptime=Seconds(time.monotonic() - self._started),
            not_ready=self._offering.not_ready or self._balancer_not_ready(),
            gossip=self._gossip(),
            haproxy=self._haproxy(),
            services=self._offering.offers(),
            journal_write_errors=self._journal.write_errors,
            problems=self._problems(),
            notices=self._notices(),
        )

    def samples(self) -> Sequence[Sample]:
        if self._balancing is None:
            return ()
        counters = self._balancing.counters
        samples = [
            Sample("cycles", "counter", "Rounds of looking, deciding and acting.", counters.cycles),
            Sample(
                "revisions_refused", "counter", "Revisions that a check or HAProxy refused.", self._balancing.refusals
            ),
            Sample(
                "repairs", "counter", "Times that HAProxy differed though nothing new was wanted.", counters.repairs
            ),
            Sample(
                "offers_refused", "counter", "Offers from the network that were not taken.", counters.offers_refused
            ),
        ]
        samples += [
            Sample("applies", "counter", "Rounds that changed HAProxy, by the way taken.", count, (("how", how),))
            for how, count in sorted(counters.applies.items())
        ]
        return samples

    def _gossip(self) -> GossipStatus:
        statistics = self._membership.statistics
        counters = {
            "packets_in": statistics.packets_in,
            "packets_out": statistics.packets_out,
            "bytes_in": statistics.bytes_in,
            "bytes_out": statistics.bytes_out,
            "probes": statistics.probes,
            "probes_failed": statistics.probes_failed,
            "refused": sum(statistics.refused.values()),
        }
        return GossipStatus(statistics.health_score, self._membership.has_synced, counters)

    def _balancer_not_ready(self) -> str:
        if self._balancing is None:
            return ""
        if self._balancing.observed is None:
            return "HAProxy does not answer"
        return "" if self._balancing.revision is not None else "no revision has passed its check yet"

    def _problems(self) -> tuple[str, ...]:
        found = list(self._balancing.problems) if self._balancing is not None else []
        if self._journal.failing:
            found.append(f"the journal cannot be written: {self._journal.failing}")
        found += [f"template {one.name}: {one.error}" for one in self.templates() if one.error]
        return tuple(found)

    def _notices(self) -> tuple[str, ...]:
        pinned = self._balancing.pinned if self._balancing is not None else None
        if pinned is None:
            return ()
        said = f"the configuration is pinned to revision {pinned.revision[:12]} since {iso(pinned.at)}"
        return (f"{said}: what rumor.toml says now waits for `rumor config release`",)

    def _haproxy(self) -> HaproxyStatus | None:
        if self._balancing is None:
            return None
        observed = self._balancing.observed
        return HaproxyStatus(
            master_pid=observed.processes.master_pid if observed else None,
            worker_pid=observed.processes.worker_pid if observed else None,
            version=observed.version if observed else "",
            revision=observed.revision if observed else "",
            is_converged=self._balancing.is_converged,
            is_in_control=observed is not None and self._balancing.revision is not None,
        )
