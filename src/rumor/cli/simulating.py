"""`rumor simulate`: a whole cluster on a virtual clock, put to the test."""

import json
import re
import sys
from dataclasses import asdict
from typing import Any

import click

from rumor.config import parse_duration
from rumor.model import Seconds
from rumor.swim.scenario import AFTER_PARTITION, Partition, ScenarioResult, ScenarioSettings, Times, run_scenario

_PARTITION = re.compile(r"(0?\.\d+|1(?:\.0+)?)@([^:]+):(.+)")


def parse_partition(text: str) -> Partition:
    """Parse `SHARE@START:END`, such as `0.2@30s:60s`.

    Raises:
        click.BadParameter: it is something else.
    """
    match = _PARTITION.fullmatch(text)
    try:
        if match is None:
            raise ValueError("SHARE@START:END, such as 0.2@30s:60s")
        found = Partition(float(match[1]), parse_duration(match[2]), parse_duration(match[3]))
        if found.end <= found.start:
            raise ValueError("an end after its start")
    except ValueError as error:
        raise click.BadParameter(f"wants {error}, and this is {text!r}") from error
    return found


@click.command()
@click.option("--nodes", type=click.IntRange(2, 20_000), default=100, show_default=True, help="How many members.")
@click.option(
    "--loss", type=click.FloatRange(0, 0.9), default=0.0, show_default=True, help="The share of lost packets."
)
@click.option("--fail", type=click.IntRange(0), default=1, show_default=True, help="How many crash, after 10 s.")
@click.option("--partition", "cut", metavar="SHARE@START:END", help="Cut off a share of the members for a while.")
@click.option(
    "--profile", type=click.Choice(["lan", "wan", "local"]), default="lan", show_default=True, help="The timings."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same output.")
@click.option("--duration", metavar="TIME", help="Simulated time (default 60s, longer with a partition).")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def simulate(
    nodes: int, loss: float, fail: int, cut: str | None, profile: str, seed: int, duration: str | None, form: str
) -> None:
    """Put a simulated cluster to the test: how soon is a crash known, at what cost, and what is wrongly believed?

    The members are the real ones, on a virtual clock and network; they begin as if long joined.
    """
    partition = parse_partition(cut) if cut else None
    length = Seconds(max(60.0, partition.end + AFTER_PARTITION if partition else 0.0))
    if duration:
        try:
            length = parse_duration(duration)
        except ValueError as error:
            raise click.BadParameter(f"--duration wants {error}, and this is {duration!r}") from error
    if fail >= nodes:
        raise click.BadParameter("--fail must leave somebody to notice")
    settings = ScenarioSettings(nodes, loss, fail, partition, profile, seed, length)
    # Untyped in click: what it returns is a bar only once it is entered.
    bar: Any = click.progressbar(length=1000, label=f"{nodes} members, {length:g} s", file=sys.stderr)
    with bar:
        shown = 0

        def progress(done: float, total: float) -> None:
            nonlocal shown
            step = int(1000 * done / total)
            bar.update(step - shown)
            shown = step

        result = run_scenario(settings, progress)
    value = {"settings": asdict(settings), "result": asdict(result)}
    click.echo(json.dumps(value, indent=2) if form == "json" else _table(settings, result))


def _table(settings: ScenarioSettings, result: ScenarioResult) -> str:
    lines = [
        f"{settings.nodes} members, profile {settings.profile}, {settings.loss:.0%} of the packets lost, "
        f"{settings.fail} crashed, {settings.duration:g} s, seed {settings.seed}",
        "",
        f"{'':24}{'median':>10}{'99th':>10}{'last':>10}",
        f"{'first to know':24}{_row(result.detection)}",
        f"{'everybody to know':24}{_row(result.dissemination)}",
        "",
        f"still unaware            {result.missed}",
        f"false suspicions         {result.false_suspicions}",
        f"false failures           {result.false_failures}",
    ]
    if settings.partition is not None:
        healed = "never" if result.healed_after is None else f"{result.healed_after:.1f} s after its end"
        lines.append(f"partition healed         {healed}")
    lines.append(f"each member sent         {result.packets:.1f} packets and {result.bytes:,.0f} bytes a second")
    return "\n".join(lines)


def _row(times: Times) -> str:
    texts = ("-" if value is None else f"{value:.2f} s" for value in (times.median, times.p99, times.last))
    return "".join(f"{text:>10}" for text in texts)
