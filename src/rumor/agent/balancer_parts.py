"""Build what only a balancer needs; imported only by one, since HAProxy's parts and Jinja2 weigh on other nodes."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rumor.agent.addresses import advertised_address
from rumor.agent.balancer_settings import balancing_settings
from rumor.agent.balancing import Balancing, BalancingSettings
from rumor.agent.membership import Membership
from rumor.agent.operator_words import OperatorWords
from rumor.agent.pin import Pin
from rumor.agent.revisions import Revisions
from rumor.agent.settings import check_settings
from rumor.atomic_file import write_atomically
from rumor.checks.outcome import CheckSettings
from rumor.checks.sweep import Question, sweep
from rumor.config import Config
from rumor.errors import ConfigError, PeerError
from rumor.haproxy.apply import Applier, ApplierSettings
from rumor.haproxy.binds import ANY_HOST, new_binds, untested_binds
from rumor.haproxy.certificates import Certificates
from rumor.journal import Journal
from rumor.log import get_logger
from rumor.model import Record, WallTime
from rumor.names import HostPort, ServiceName, parse_ip, parse_member_name
from rumor.places import Places
from rumor.render.publish import allowed_maxconn, check_haproxy, find_haproxy, read_template, test_bind
from rumor.render.template import revision_id

log = get_logger("agent")


def settings_of(config: Config, place: Places) -> BalancingSettings:
    """Return what the configuration says of the balancer.

    Raises:
        ConfigError: the template cannot be read, or an address is none.
    """
    return balancing_settings(
        config,
        place.run_directory,
        read_template(config.balancer.template),
        maxconn=allowed_maxconn(config.balancer.maxconn),
        peers=_peers(config),
    )


def _peers(config: Config) -> HostPort | None:
    """Return where this balancer shares its stick tables, as others reach it."""
    endpoint = config.balancer.peers
    if endpoint is None:
        return None
    host = endpoint.host if endpoint.host not in ANY_HOST else advertised_address(config.cluster).host
    try:
        return HostPort.of(parse_ip(host), endpoint.port)
    except PeerError as error:
        raise ConfigError(f"balancer.peers wants an address of this node: {error}") from error


def make_balancing(
    config: Callable[[], Config],
    place: Places,
    *,
    membership: Membership,
    journal: Journal,
    environ: Mapping[str, str],
) -> Balancing:
    """Find HAProxy, take the lock of its configuration, and return who steers it.

    Args:
        config: returns the configuration as it is now; it may be read again while the agent runs.
        place: where this node keeps its things.
        membership: whose picture is rendered.
        journal: keeps each revision.
        environ: for finding HAProxy.

    Raises:
        ConfigError: there is no HAProxy, it is too old, or somebody else steers this one.
    """
    program = find_haproxy(environ)
    settings = settings_of(config(), place)
    log.info("haproxy", program=program.path, version=program.version, config=place.haproxy_config)

    untested: set[str] = set()

    async def check(text: str, running: str) -> str:
        words = applier.words_against(text) or await check_and_learn(program.path, text, applier)
        before = running or await text_that_runs() or await asyncio.to_thread(_read_if_there, place.haproxy_config)
        for bind in untested_binds(before, text):
            if not words and bind not in untested:
                untested.add(bind)
                log.warning("bind_untested", bind=bind)
                said = f"nobody can try to bind {bind} before HAProxy reloads: should it fail, requests may be lost"
                await journal.append(Record(WallTime(time.time()), "bind_untested", "", said))
        return words or await asyncio.to_thread(test_bind, new_binds(before, text))

    async def text_that_runs() -> str:
        """The file may be gone or another's: HAProxy's own addresses must not seem to be taken by somebody else."""
        observed = await applier.observe()
        return "" if observed is None else await text_of(observed.revision) or ""

    async def text_of(revision: str) -> str | None:
        stored = await journal.revision(revision) if revision else None
        if stored is not None:
            return stored.text
        text = await asyncio.to_thread(_read_if_there, place.haproxy_config)
        return text if revision_id(text) == revision else None

    checks = _Checks(config)

    async def probe(servers: Sequence[tuple[ServiceName, HostPort]], on_well: Callable[[int], None]) -> None:
        known = [(place, checks.of(service), address) for place, (service, address) in enumerate(servers)]
        asked = [(place, Question(settings, address)) for place, settings, address in known if settings is not None]
        await sweep([question for _, question in asked], lambda number: on_well(asked[number][0]))

    async def keep_template(text: str) -> None:
        try:
            await asyncio.to_thread(write_atomically, place.good_template, text)
        except OSError as error:
            log.error("template_not_kept", path=place.good_template, reason=error.strerror)

    applier = Applier(
        ApplierSettings(config=place.haproxy_config, run_directory=place.run_directory, drains=settings.drains),
        text_of=text_of,
        write=partial(write_atomically, survives_power_cut=True),
        probe=probe,
    )
    applier.lock()
    revisions = Revisions(
        journal,
        check=check,
        pin=Pin(place.pin),
        good_text=_read_if_there(place.haproxy_config),
        good_template=_read_if_there(place.good_template),
        keep_template=keep_template,
    )
    return Balancing(
        settings,
        applier=applier,
        journal=journal,
        picture=membership.picture,
        probe_member=membership.probe_soon,
        words=OperatorWords(place.operator_words),
        revisions=revisions,
        certificates=Certificates(write_atomically),
        node=parse_member_name(membership.name),
    )


class _Checks:
    """How each service's apps are asked; put together once for each configuration, and not for each of its servers."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._read: Config | None = None
        self._settings: Mapping[ServiceName, CheckSettings] = {}

    def of(self, service: ServiceName) -> CheckSettings | None:
        config = self._config()
        if config is not self._read:
            self._settings = {entry.name: check_settings(entry) for entry in config.services}
            self._read = config
        return self._settings.get(service)


async def check_and_learn(program: Path, text: str, applier: Applier) -> str:
    """Return HAProxy's own words against a configuration; meanwhile the applier reads it, should it come to that."""
    async with asyncio.TaskGroup() as tasks:
        checking = tasks.create_task(check_haproxy(program, text), name="haproxy -c")
        # Time for it to begin: another processor does that work.
        await asyncio.sleep(0)
        applier.learn(text)
    return checking.result()


def _read_if_there(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
