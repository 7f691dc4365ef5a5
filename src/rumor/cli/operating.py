"""`rumor drain|ready|weight` say something of a server; `rumor why` says what is known of it."""

import difflib
import getpass
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from rumor.cli.options import agent_api, asking
from rumor.config import parse_duration
from rumor.errors import Refused, RumorError

if TYPE_CHECKING:
    from rumor.api_client import AgentApi

_POLL = 0.2
_RECORDS = 10_000
_OF_MANY = ("applied", "drift_repaired")
"""Kinds of records that tell of several servers at once."""


@click.command()
@click.argument("target", metavar="SERVER")
@click.option("--wait", metavar="TIME", help="Wait until its last session is over, for at most so long, as 30s.")
@asking
def drain(
    target: str, wait: str | None, data: Path | None, node: str | None, api: str | None, token: str | None, form: str
) -> int:
    """Send SERVER no new sessions, until `rumor ready` takes it back.

    SERVER is a server's name, SERVICE/SERVER, or a node's name for all of its servers. The word outlives the agent.
    """
    patience = _duration(wait) if wait else None
    client = agent_api(data, node, api, token)
    found = _say(client, "drain", target)
    left = _wait_empty(client, found["servers"], patience) if patience is not None else None
    value = found if left is None else found | {"sessions": left}
    words = f"{_names(found)}: draining"
    if left is not None:
        words = f"{_names(found)}: drained" if not left else f"{_names(found)}: {left} sessions are left after {wait}"
    _print(value, form, words)
    return 1 if left else 0


@click.command()
@click.argument("target", metavar="SERVER")
@asking
def ready(target: str, data: Path | None, node: str | None, api: str | None, token: str | None, form: str) -> None:
    """Take a drain back: SERVER gets requests again, once its check has passed."""
    found = _say(agent_api(data, node, api, token), "ready", target)
    _print(found, form, f"{_names(found)}: may serve again")


@click.command()
@click.argument("target", metavar="SERVER")
@click.argument("weight", metavar="N|auto")
@asking
def weight(
    target: str, weight: str, data: Path | None, node: str | None, api: str | None, token: str | None, form: str
) -> None:
    """Give SERVER a weight from 0 to 256 instead of the one its node says; `auto` takes that back."""
    found = _say(agent_api(data, node, api, token), "weight", target, weight=weight)
    _print(found, form, f"{_names(found)}: weight {'as its node says' if weight == 'auto' else weight}")


@click.command()
@click.argument("target", metavar="SERVER|SERVICE")
@click.option("--limit", type=click.IntRange(1, _RECORDS), default=30, show_default=True, help="How many events.")
@asking
def why(
    target: str, limit: int, data: Path | None, node: str | None, api: str | None, token: str | None, form: str
) -> None:
    """Say why a server gets traffic or none: its state, the evidence, and what led to it, in order of time."""
    from rumor.cli import output

    client = agent_api(data, node, api, token)
    table, members = _table_if_any(client), client.get("/v1/members")["members"]
    service, _, name = target.rpartition("/")
    servers = [
        {"service": entry["name"]} | server
        for entry in table["services"]
        for server in entry["servers"]
        if (server["name"] == name and service in ("", entry["name"])) or (not service and entry["name"] == name)
    ]
    named = {server["name"] for server in servers} or {name}
    records = [
        _part_about(record, named)
        for record in client.get(f"/v1/journal?limit={_RECORDS}")["records"]
        if record["subject"] in named or (record["kind"] in _OF_MANY and _is_about_any(record, named))
    ]
    is_service = any(entry["name"] == name for entry in table["services"])
    member = next((one for one in members if one["name"] == name), None)
    templates = client.get("/v1/templates")["templates"]
    template = next((one for one in templates if one["name"] == name), None) if not servers and not member else None
    if not servers and not records and member is None and template is None and not is_service:
        known = sorted({server["name"] for entry in table["services"] for server in entry["servers"]})
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known[:10]) or 'none'}"
        raise RumorError(f"nothing is known of {target}{hint}")
    oldest_first = records[:limit][::-1]
    # The journal keeps the order of writing, in which gossip's news and the balancer's deeds may stand a moment apart.
    history = sorted(oldest_first, key=lambda record: record["at"])
    asides = {entry["name"]: entry["set_aside"] for entry in table["services"] if entry["set_aside"]}
    about = {server["service"] for server in servers} | {name}
    value = {
        "name": target,
        "pinned": table["pinned"],
        "set_aside": {service: words for service, words in asides.items() if service in about},
        "servers": servers,
        "member": member,
        "template": template,
        "records": history,
    }
    output.show(value, form, output.why)


COMMANDS = (drain, ready, weight, why)


def _table_if_any(client: "AgentApi") -> dict[str, Any]:
    """Return the table; an empty one on a node that steers no HAProxy, whose journal still tells of itself."""
    try:
        return client.get("/v1/table")
    except Refused:
        return {"services": [], "pinned": None}


def me() -> str:
    """Return who asks, for the journal: user and host, fit for a query."""
    return quote(f"{getpass.getuser()}@{socket.gethostname()}")


def _say(client: "AgentApi", word: str, target: str, *, weight: str = "") -> dict[str, Any]:
    more = f"&weight={quote(weight)}" if weight else ""
    return client.post(f"/v1/operator/{word}?server={quote(target, safe='')}&by={me()}{more}")


def _wait_empty(client: "AgentApi", servers: list[dict[str, str]], patience: float) -> int:
    """Wait until HAProxy counts no session on these servers; return how many are left at the deadline."""
    wanted = {(one["service"], one["server"]) for one in servers}
    deadline = time.monotonic() + patience
    while True:
        sessions = 0
        for entry in client.get("/v1/table")["services"]:
            for server in entry["servers"]:
                if (entry["name"], server["name"]) in wanted and server["haproxy"] is not None:
                    is_out = server["haproxy"]["status"].startswith(("DRAIN", "MAINT"))
                    sessions += server["haproxy"]["sessions"] if is_out else max(1, server["haproxy"]["sessions"])
        if not sessions or time.monotonic() >= deadline:
            return sessions
        time.sleep(_POLL)


def _part_about(record: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the record of what was done to many servers with what concerns these alone; any other as it is."""
    if record["kind"] not in _OF_MANY:
        return record
    steps = [step for step in _steps(record) if _is_about(step, names)]
    text = "; ".join(steps) or f"{record['facts'].get('how', 'changed')}, among many others"
    if record["kind"] == "drift_repaired":
        return record | {"text": f"{record['text'].partition(': ')[0]}: {text}"}
    if not record["facts"].get("cause_kind", "server_").startswith("server_"):
        # It names nobody, so it is about all of them.
        return record | {"text": text}
    causes = [cause for cause in record["cause"].split("; ") if _is_about(cause, names)]
    return record | {"text": text, "cause": "; ".join(causes)}


def _steps(record: dict[str, Any]) -> list[str]:
    """Return what was done, step by step: the text has the first of many only, the facts have them all."""
    text = record["text"].partition(": ")[2] if record["kind"] == "drift_repaired" else record["text"]
    steps: list[str] = record["facts"].get("steps", text).split("; ")
    return steps


def _is_about_any(record: dict[str, Any], names: set[str]) -> bool:
    return _is_about(record["text"], names) or _is_about(record["facts"].get("servers", ""), names)


def _is_about(text: str, names: set[str]) -> bool:
    words = set(text.replace(";", " ").replace("/", " ").replace(":", " ").split())
    return bool(words & names)


def _names(found: dict[str, Any]) -> str:
    return ", ".join(f"{one['service']}/{one['server']}" for one in found["servers"])


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"--wait wants {error}, and this is {text!r}") from error


def _print(value: dict[str, Any], form: str, words: str) -> None:
    from rumor.cli import output

    output.show(value, form, lambda _: words)
