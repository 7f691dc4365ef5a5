"""Make revisions: render, check, set bad parts aside, and keep every one with its cause.

Owns the newest revision that passed its check, and knows which services are served by an older part of it. Whatever a
template or HAProxy speaks against is journalled with their words, and what served before serves on.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from rumor.agent.pin import Pin, Pinned
from rumor.errors import Refused
from rumor.haproxy.config_text import read_config
from rumor.haproxy.parts import blamed, differs_in_servers_only, served, with_old_parts, with_servers, without_lines
from rumor.journal import Journal
from rumor.log import get_logger
from rumor.model import Cause, Outcome, Record, Revision, StoredRevision, Table, WallTime
from rumor.names import HostPort, ServiceName
from rumor.render.settings import Peers, RenderSettings
from rumor.render.template import identified, render

log = get_logger("balancer")

_HISTORY = 200
_WORDS_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a configuration holds that neither rumor.toml nor the table says."""

    certificates: tuple[str, ...] = ()
    peers: tuple[tuple[str, HostPort], ...] = ()
    """All balancers that share stick tables, this one too; empty where this one does not."""
    node: str = ""

    def complete(self, settings: RenderSettings) -> RenderSettings:
        tls = None if settings.tls is None else replace(settings.tls, certificates=self.certificates)
        peers = Peers(self.node, self.peers) if self.peers else None
        return replace(settings, tls=tls, peers=peers)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A configuration that was refused as a whole, or in part, and the words against it."""

    id: str
    words: str
    text: str

    @property
    def said(self) -> str:
        """The refusal in a sentence."""
        if not self.id.strip("0"):
            return f"the template was refused: {self.words}"
        return f"revision {self.id[:12]} was refused by HAProxy: {self.words}"

    def is_no_news(self, other: "Refusal") -> bool:
        """Say whether the same was refused for the same reason; other servers are no other configuration."""
        return without_lines(self.words) == without_lines(other.words) and _base(self.text) == _base(other.text)


_NO_REFUSAL = Refusal("", "", "")


class Revisions:
    """The way from a table to a revision that HAProxy would load."""

    def __init__(
        self,
        journal: Journal,
        *,
        check: Callable[[str, str], Awaitable[str]],
        pin: Pin,
        good_text: str = "",
        good_template: str = "",
        keep_template: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Begin without a revision.

        Args:
            journal: keeps each revision, good or bad.
            check: returns what speaks against a new configuration text, given the one that runs; empty for nothing.
            pin: the configuration that an operator went back to, if so.
            good_text: what HAProxy's file holds from an earlier life.
            good_template: the last one that passed its check, in an earlier life; serves until a better one is
                offered, should the present one be broken.
            keep_template: keeps such a template for the next life.
        """
        self._journal = journal
        self._check = check
        self._pin = pin
        self._good_text = good_text
        self._runs = False
        """Whether HAProxy has been seen to run the good text in this life."""
        self._good_template = good_template
        self._keep_template = keep_template
        self.surroundings = Surroundings()
        self.newest: Revision | None = None
        self.set_aside: Mapping[ServiceName, str] = {}
        """Services that are served by the last good part of the configuration, and what speaks against the new."""
        self.refusals = 0
        self._refused = _NO_REFUSAL

    @property
    def _running(self) -> str:
        """The text that runs, as far as we have seen it; empty where the check is to find out by itself."""
        return self._good_text if self._runs else ""

    @property
    def refused(self) -> Refusal:
        """The last configuration that was refused, and why."""
        return self._refused

    @property
    def pinned(self) -> Pinned | None:
        return self._pin.pinned

    async def offer(self, table: Table, settings: RenderSettings, cause: Cause) -> Revision:
        """Return the revision for this table; it has passed its check and is the newest from now on.

        Raises:
            Refused: the template or HAProxy speaks against it; the newest stays what it was.
        """
        revision = await self._render(table, settings, cause)
        is_known = self.newest is not None and revision.id == self.newest.id
        if self.newest is not None and is_known and not self.set_aside and self._refused.id != revision.id:
            return self.newest
        words = await self._check(revision.text, self._running)
        aside: dict[ServiceName, str] = {}
        if words and differs_in_servers_only(self._good_text, revision.text):
            # What runs has been loaded: a file that has gone since is no reason to keep a dead server. But HAProxy
            # would not start again, and that must be said.
            aside = blamed(words, revision.text) or dict.fromkeys(self._services(revision), words[:_WORDS_LIMIT])
        elif words:
            revision, aside = await self._set_aside(revision, words)
        await self._note_set_aside(aside)
        if not aside:
            self._refused = _NO_REFUSAL
        if self.newest is not None and revision.id == self.newest.id:
            return self.newest
        log.info("revision", id=revision.id[:12], cause=cause.text)
        await self._keep(settings.template_text)
        self.newest = revision
        await self._journal.add_revision(revision, Outcome.PENDING)
        return revision

    def accept(self, revision: Revision) -> None:
        """HAProxy runs this revision: it is what a bad part gives way to from now on."""
        self._good_text, self._runs = revision.text, True

    async def refuse(self, revision: Revision, words: str, how: str) -> None:
        """HAProxy would not load what had passed its check; the next offer will meet its words."""
        self._refused = Refusal(revision.id, words, revision.text)
        self.refusals += 1
        log.error("apply_refused", id=revision.id[:12], words=words)
        await self._journal.set_outcome(revision.id, Outcome.REFUSED, words, how)

    async def carry_on(self, table: Table, cause: Cause) -> Revision | None:
        """Give the last good configuration today's servers, since a newer one was refused as a whole.

        It needs no check: HAProxy has it loaded, and servers need no reload. A service gets servers only where it, or
        the refused one, has some: nobody knows otherwise what words theirs want. None in an agent that has just
        started, and met a configuration that serves nobody.
        """
        refused, before = self._refused, served(self._good_text)
        if not self._good_text or (self.newest is None and not before):
            return None
        known = before | served(refused.text)
        todays = Table(tuple(service for service in table.services if service.name in known))
        text = f"{cause.text} (all else stays as it was: {refused.said.partition(':')[0]})"
        revision = identified(
            with_servers(self._good_text, todays, like=refused.text), table, replace(cause, text=text)
        )
        if self.newest is None or revision.id != self.newest.id:
            log.info("revision", id=revision.id[:12], cause=revision.cause.text)
            self.newest = revision
            await self._journal.add_revision(revision, Outcome.PENDING)
        return self.newest

    async def fall_back(self, table: Table, settings: RenderSettings, cause: Cause) -> RenderSettings | None:
        """Serve with the template of an earlier life; return the settings that do, None if there is no other way.

        The template on disk was broken while nobody watched.
        """
        if self._good_template in ("", settings.template_text):
            return None
        older = replace(settings, template_text=self._good_template)
        try:
            await self.offer(table, older, cause)
        except Refused:
            return None
        log.error("template_refused", text="going on with the last template that passed its check")
        return older

    # --- going back

    async def roll_back(self, prefix: str, table: Table, by: str) -> Pinned:
        """Pin an older configuration, with today's servers in it, until it is released.

        Args:
            prefix: the beginning of its id; empty for the last one that differs in more than its servers.
            table: today's servers.
            by: who says so.

        Raises:
            Refused: there is none, or HAProxy speaks against it today; nothing changed then.
            Unreachable: the journal cannot be read.
        """
        stored = await (self._journal.revision(prefix) if prefix else self._before())
        if stored is None:
            raise Refused(
                f"no revision begins with {prefix[:80]}: see `rumor config history`"
                if prefix
                else "there is no applied revision that differs in more than its servers: see `rumor config history`"
            )
        if stored.outcome is Outcome.REFUSED:
            raise Refused(f"revision {stored.id[:12]} was refused when it was new: {stored.words[:_WORDS_LIMIT]}")
        text = with_servers(stored.text, table)
        words = await self._check(text, self._running)
        if words:
            raise Refused(f"HAProxy would not load revision {stored.id[:12]} today: {words[:_WORDS_LIMIT]}")
        pinned = Pinned(stored.id, stored.text, by, WallTime(time.time()))
        self._pin.set(pinned)
        log.warning("rolled_back", to=stored.id[:12], by=by)
        said = f"{by or 'somebody'} went back to revision {stored.id[:12]}; it holds until `rumor config release`"
        await self._journal.append(Record(pinned.at, "rolled_back", "", said))
        return pinned

    async def release(self, by: str) -> Pinned:
        """Let the present configuration come again; return what was pinned.

        Raises:
            Refused: nothing was.
        """
        pinned = self._pin.pinned
        if pinned is None:
            raise Refused("no configuration is pinned")
        self._pin.release()
        log.warning("released", by=by)
        said = f"{by or 'somebody'} released the configuration from revision {pinned.revision[:12]}"
        await self._journal.append(Record(WallTime(time.time()), "released", "", said))
        return pinned

    async def _before(self) -> StoredRevision | None:
        newest = self.newest
        if newest is None:
            return None
        base = read_config(newest.text).base
        for stored in await self._journal.revisions(_HISTORY):
            if stored.outcome is Outcome.APPLIED and read_config(stored.text).base != base:
                return stored
        return None

    # --- one revision

    async def _render(self, table: Table, settings: RenderSettings, cause: Cause) -> Revision:
        pinned = self._pin.pinned
        if pinned is not None:
            text = f"{cause.text} (pinned to revision {pinned.revision[:12]})"
            return identified(with_servers(pinned.text, table), table, replace(cause, text=text))
        try:
            return render(table, self.surroundings.complete(settings), cause)
        except Refused as error:
            await self._refuse(Revision("0" * 64, settings.template_text, table, cause), str(error))
            raise

    async def _set_aside(self, revision: Revision, words: str) -> tuple[Revision, dict[ServiceName, str]]:
        """Serve bad services by their last good parts; what belongs to all can only be refused.

        Raises:
            Refused: with HAProxy's words.
        """
        aside: dict[ServiceName, str] = {}
        candidate, against = revision, words
        while against:
            found = blamed(against, candidate.text)
            if not found.keys() - aside.keys():
                await self._refuse(revision, words)
                raise Refused(words)
            aside = found | aside
            text = with_old_parts(revision.text, self._good_text, aside.keys(), revision.table)
            candidate = identified(text, revision.table, revision.cause)
            against = await self._check(candidate.text, self._running)
        if self.newest is None or candidate.id != self.newest.id:
            await self._refuse(revision, words)
        return candidate, aside

    def _services(self, revision: Revision) -> list[ServiceName]:
        return [service.name for service in revision.table.services]

    async def _note_set_aside(self, aside: Mapping[ServiceName, str]) -> None:
        now = WallTime(time.time())
        for service in sorted(aside.keys() - self.set_aside.keys()):
            log.error("service_set_aside", service=service, words=aside[service])
            said = f"{service} is served by what HAProxy has loaded of it, since it would not load it anew"
            await self._journal.append(Record(now, "service_set_aside", service, said, aside[service]))
        for service in sorted(self.set_aside.keys() - aside.keys()):
            log.info("service_restored", service=service)
            await self._journal.append(
                Record(now, "service_restored", service, f"{service}'s own part of the configuration serves again")
            )
        self.set_aside = aside

    async def _keep(self, template: str) -> None:
        if template != self._good_template and self._pin.pinned is None:
            self._good_template = template
            if self._keep_template is not None:
                await self._keep_template(template)

    async def _refuse(self, revision: Revision, words: str) -> None:
        refused = Refusal(revision.id, words, revision.text)
        if refused.is_no_news(self._refused):
            return
        self._refused = refused
        self.refusals += 1
        log.error("revision_refused", id=revision.id[:12], cause=revision.cause.text, words=words)
        await self._journal.add_revision(revision, Outcome.REFUSED, words)


def _base(text: str) -> str:
    """Return all of a configuration but its servers; a template, or what rumor cannot take apart, as it is."""
    try:
        return read_config(text).base
    except Refused:
        return text
