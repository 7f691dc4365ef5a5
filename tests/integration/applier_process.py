"""A process that applies one revision after the other until it is killed; test_apply_killed.py does that.

python applier_process.py RUN_DIRECTORY PORT FIRST ADDRESS…
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from rumor.atomic_file import write_atomically
from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.checks.sweep import Question, sweep
from rumor.haproxy.apply import Applier, ApplierSettings
from rumor.journal import Journal
from rumor.model import Cause, Outcome, Revision, Rotation, Seconds, Server, Service, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName, parse_host_port
from rumor.render import publish
from rumor.render.settings import BackendSettings, BalancerTimeouts, CheckRule, RenderSettings, Route
from rumor.render.template import render

WEB = ServiceName("web")
DRAIN = Seconds(2.0)


def rules(directory: Path, port: int) -> RenderSettings:
    backend = BackendSettings(
        WEB, (Route(),), CheckRule("/health", Seconds(0.3), Seconds(3.0), 1, 2), "roundrobin",
        drain=DRAIN, retries=3, repeat_post=False, sticky_key="",
    )  # fmt: skip
    return RenderSettings(
        binds=(Endpoint("127.0.0.1", port),), stats=None, run_directory=directory, maxconn=500,
        timeouts=BalancerTimeouts(server=Seconds(10.0)), backends=(backend,), template_text=publish.read_template(None),
    )  # fmt: skip


def wanted(settings: RenderSettings, addresses: Sequence[HostPort], number: int) -> Revision:
    """Return the revision of a number: some of the servers, two of them ready, now and then another balance."""
    random = Random(number)
    chosen = random.sample(range(len(addresses)), random.randrange(3, len(addresses) + 1))
    states = [Rotation.READY, Rotation.READY, *random.choices([*Rotation, Rotation.READY], k=len(chosen) - 2)]
    servers = tuple(
        Server(MemberName(f"web-{index}"), addresses[index], random.choice((1, 50, 100, 256)), state)
        for index, state in sorted(zip(chosen, states, strict=True))
    )
    if number % 4 == 0:
        backend = replace(settings.backends[0], balance=random.choice(("leastconn", "random", "first")))
        settings = replace(settings, backends=(backend,))
    return render(Table((Service(WEB, servers),)), settings, Cause("test", f"number {number}"))


def applier(directory: Path, journal: Journal) -> Applier:
    async def text_of(revision: str) -> str | None:
        stored = await journal.revision(revision)
        return None if stored is None else stored.text

    async def probe(servers: Sequence[tuple[ServiceName, HostPort]], on_well: Callable[[int], None]) -> None:
        check = CheckSettings(CheckKind.TCP, timeout=Seconds(0.2))
        await sweep([Question(check, address) for _, address in servers], on_well)

    return Applier(
        ApplierSettings(directory / "haproxy.cfg", directory, {WEB: DRAIN}),
        text_of=text_of, write=write_atomically, probe=probe,
    )  # fmt: skip


async def main(directory: Path, port: int, number: int, addresses: Sequence[HostPort]) -> None:
    journal = await Journal.open(directory / "journal.db")
    one = applier(directory, journal)
    one.lock()
    print("ready", flush=True)
    while True:
        revision = wanted(rules(directory, port), addresses, number)
        await journal.add_revision(revision, Outcome.PENDING)
        while not (report := await one.apply(revision)).is_converged:  # noqa: ASYNC110 - as it says itself
            await asyncio.sleep(report.wake_in or 0.02)
        number += 1


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [*map(parse_host_port, sys.argv[4:])]))
