"""The live table of `rumor up` on a terminal."""

import asyncio
import contextlib

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rumor.errors import RumorError
from rumor.local.cluster import LocalCluster

_INTERVAL = 0.5
_COLOURS = {"ready": "green", "drain": "yellow", "maint": "red"}


async def show_live(cluster: LocalCluster) -> None:
    """Draw the servers, their states and the evidence, until cancelled."""
    with Live(Text("…"), console=Console(), auto_refresh=False) as live:
        while True:
            with contextlib.suppress(RumorError):
                live.update(_draw(await cluster.ask("/v1/table")), refresh=True)
            await asyncio.sleep(_INTERVAL)


def _draw(table: dict[str, object]) -> Table:
    drawn = Table("service", "server", "address", "state", "HAProxy", "sessions", "evidence", box=None, pad_edge=False)
    services = table["services"]
    assert isinstance(services, list)  # noqa: S101 - the API's promise, docs/json.md
    for service in services:
        for server in service["servers"]:
            haproxy = server["haproxy"] or {}
            evidence = ", ".join(f"{entry['source']} {entry['says']}" for entry in server["evidence"])
            # As Text: rich would read markup out of a bare str, and `[fd00::1]:3000` would lose its host.
            drawn.add_row(
                Text(service["name"]),
                Text(server["name"]),
                Text(server["address"]),
                Text(server["state"], style=_COLOURS.get(server["state"], "")),
                Text(str(haproxy.get("status", ""))),
                Text(str(haproxy.get("sessions", ""))),
                Text(evidence, overflow="ellipsis"),
            )
    return drawn
