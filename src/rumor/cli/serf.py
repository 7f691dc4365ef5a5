"""serf's own commands, with serf's output: they ask any agent that speaks Serf's RPC, serf's or ours.

What they print follows the program itself (Debian's serf 0.9.4). Without an address they ask the agent that runs in the
data directory; `-rpc-addr` or SERF_RPC_ADDR names another one.
"""

import base64
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from rumor.config import RPC_PORT
from rumor.errors import InOthersWords as SerfError
from rumor.errors import PeerError, Unreachable
from rumor.names import Endpoint, HostPort, parse_endpoint
from rumor.places import places
from rumor.serf import rpc
from rumor.serf.coordinate import Coordinate
from rumor.serf.rpc_client import RpcClient, RpcError
from rumor.swim.fields import read_ip

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Asking:
    """Which agent a command asks, and how it prints."""

    rpc_addr: str | None
    rpc_auth: str
    data: Path | None
    node: str | None
    form: str

    def connect(self) -> RpcClient:
        """Connect to the agent that is meant.

        Raises:
            RumorError: none is there, or it does not take the token.
        """
        try:
            return RpcClient(_where(self.rpc_addr, self.data, self.node), token=self.rpc_auth)
        except (Unreachable, RpcError) as error:
            raise SerfError(str(error)) from error

    @property
    def is_json(self) -> bool:
        return self.form == "json"

    def say_line(self, text: str) -> None:
        """Print what only people want to read."""
        if not self.is_json:
            click.echo(text)

    def say(self, text: str, value: object) -> None:
        """Print serf's words, or the same as one JSON object."""
        if self.is_json:
            _json(value)
        elif text:
            click.echo(text)


def asks(command: Command, *, node_option: str = "--node") -> Command:
    """Add the options that say which agent is asked; the command gets them as one `Asking`."""

    @functools.wraps(command)
    def ask(
        *arguments: object,
        rpc_addr: str | None,
        rpc_auth: str,
        data: Path | None,
        asked: str | None,
        form: str,
        **more: object,
    ) -> object:
        if form not in ("text", "table", "json"):
            raise SerfError(f'Encoding error: Invalid output format "{form}"')
        return command(Asking(rpc_addr, rpc_auth, data, asked, form), *arguments, **more)

    asking: Any = ask
    for option in (
        click.option("--format", "form", default="text", metavar="FORMAT", help="text (default) or json."),
        click.option("--rpc-auth", envvar="SERF_RPC_AUTH", default="", metavar="TOKEN", help="The agent's RPC token."),
        click.option("--rpc-addr", envvar="SERF_RPC_ADDR", metavar="ADDRESS", help="The RPC address of the agent."),
        click.option(node_option, "asked", metavar="NAME", help="Which node's agent in the data directory to ask."),
        click.option("--data", envvar="RUMOR_DATA", type=click.Path(path_type=Path), help="The data directory."),
    ):
        asking = option(asking)
    result: Command = asking
    return result


def asks_all(command: Command) -> Command:
    """The same for `query`, whose --node says who shall answer."""
    return asks(command, node_option="--ask")


def _where(rpc_addr: str | None, data: Path | None, asked: str | None) -> Endpoint | Path:
    if rpc_addr:
        try:
            return parse_endpoint(rpc_addr, default_port=RPC_PORT)
        except PeerError as error:
            raise click.UsageError(f"-rpc-addr: {error}") from error
    directory = (data or Path(".rumor")).absolute()
    if asked is not None:
        return places(directory, asked).rpc_socket
    names = [path.name for path in sorted(directory.glob("*")) if places(directory, path.name).rpc_socket.exists()]
    if names:
        return places(directory, "balancer" if "balancer" in names else names[0]).rpc_socket
    if data is not None:
        raise Unreachable(f"no agent runs in {directory}: start one, or say --rpc-addr")
    return Endpoint("127.0.0.1", RPC_PORT)


def _json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _text(value: object) -> str:
    return rpc.text(value)


def _safe(text: str) -> str:
    """A name from the network must not steer the terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


# --- members


@click.command("members")
@click.option("--detailed/--no-detailed", default=False, help="Show protocol versions, too.")
@click.option("--name", default="", metavar="REGEXP", help="Only members whose whole name matches.")
@click.option("--role", default="", metavar="REGEXP", help="Only members whose tag role matches; old, see --tag.")
@click.option("--status", default="", metavar="REGEXP", help="Only members whose status matches.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=REGEXP", help="Only members with such a tag; repeat.")
@asks
def members(asking: Asking, detailed: bool, name: str, role: str, status: str, tags: tuple[str, ...]) -> None:
    """List the members of the cluster, as serf does."""
    wanted = dict(_pair(tag, "tag") for tag in tags)
    if role:
        click.echo("Deprecation warning: 'Role' has been replaced with 'Tags'")
        wanted["role"] = role
    with asking.connect() as agent:
        try:
            reply = agent.call("members-filtered", {"Tags": wanted, "Status": status, "Name": name})
        except Unreachable as error:
            raise SerfError(f"Error retrieving members: {error}") from error
    found = sorted((_member(record) for record in reply["Members"] or []), key=lambda one: str(one["name"]))
    if asking.is_json:
        _json({"members": found})
        return
    rows = []
    for one in found:
        row = [
            one["name"],
            one["addr"],
            one["status"],
            ",".join(f"{key}={value}" for key, value in sorted(one["tags"].items())),
        ]
        if detailed:
            versions = one["protocol"]
            row.append(f"Protocol Version: {versions['version']}")
            row.append(f"Available Protocol Range: [{versions['min']}, {versions['max']}]")
        rows.append(row)
    click.echo(_columns(rows))


def _member(record: dict[str, Any]) -> dict[str, Any]:
    address = HostPort.of(read_ip(record["Addr"]), record["Port"]) if record["Port"] else None
    return {
        "name": _safe(_text(record["Name"])),
        "addr": str(address or f"{read_ip(record['Addr'])}:0"),
        "port": record["Port"],
        "tags": {_safe(key): _safe(_text(value)) for key, value in sorted((record["Tags"] or {}).items())},
        "status": _text(record["Status"]),
        "protocol": {
            "max": record["DelegateMax"], "min": record["DelegateMin"], "version": record["DelegateCur"],
        },
    }  # fmt: skip


def _columns(rows: list[list[str]]) -> str:
    """Align columns with two blanks between them; the last one is not filled up."""
    if not rows:
        return ""
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    return "\n".join(
        "  ".join([cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)] + [row[-1]])
        for row in rows
    )


def _pair(text: str, what: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SerfError(f"Error: Invalid {what}: '{text}'")
    return key, value


# --- coming and going


@click.command("join")
@click.argument("addresses", nargs=-1, metavar="ADDRESS...")
@click.option("--replay/--no-replay", default=False, help="Hear the user events of the past, too.")
@asks
def join(asking: Asking, addresses: tuple[str, ...], replay: bool) -> None:
    """Let an agent join a cluster through any of its members."""
    if not addresses:
        raise SerfError("At least one address to join must be specified.")
    with asking.connect() as agent:
        try:
            reply = agent.call("join", {"Existing": list(addresses), "Replay": replay})
        except RpcError as error:
            raise SerfError(f"Error joining the cluster: {error}") from error
    asking.say(f"Successfully joined cluster by contacting {reply['Num']} nodes.", {"joined": reply["Num"]})


@click.command("leave")
@asks
def leave(asking: Asking) -> None:
    """Let an agent leave the cluster, and end."""
    with asking.connect() as agent:
        try:
            agent.call("leave")
        except RpcError as error:
            raise SerfError(f"Error leaving: {error}") from error
    asking.say("Graceful leave complete", {"left": True})


@click.command("force-leave")
@click.argument("name", required=False)
@click.option("--prune/--no-prune", default=False, help="Forget the member at once.")
@asks
def force_leave(asking: Asking, name: str | None, prune: bool) -> None:
    """Say of a failed member that it has left, so that nobody looks for it any longer."""
    if not name:
        raise SerfError("A node name must be specified to force leave.")
    with asking.connect() as agent:
        try:
            agent.call("force-leave", {"Node": name, "Prune": prune})
        except RpcError as error:
            raise SerfError(f"Error force leaving: {error}") from error
    asking.say("", {"name": name, "pruned": prune})


@click.command("tags")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Create or change a tag; repeat for more.")
@click.option("--delete", multiple=True, metavar="KEY", help="Remove a tag, if it is there; repeat for more.")
@asks
def tags(asking: Asking, changes: tuple[str, ...], delete: tuple[str, ...]) -> None:
    """Change the tags of a running agent."""
    if not changes and not delete:
        raise click.UsageError("say --set KEY=VALUE or --delete KEY")
    with asking.connect() as agent:
        try:
            agent.call("tags", {"Tags": dict(_pair(text, "tag") for text in changes), "DeleteTags": list(delete)})
        except RpcError as error:
            raise SerfError(f"Error setting tags: {error}") from error
    asking.say("Successfully updated agent tags", {"updated": True})


# --- events and queries


@click.command("event")
@click.argument("words", nargs=-1, metavar="NAME [PAYLOAD]")
@click.option("--coalesce/--no-coalesce", default=True, help="Repetitions within a short time count as one.")
@asks
def event(asking: Asking, words: tuple[str, ...], coalesce: bool) -> None:
    """Tell the whole cluster that something happened."""
    name, payload = _name_and_payload(words, "An event name must be specified.")
    with asking.connect() as agent:
        try:
            agent.call("event", {"Name": name, "Payload": payload, "Coalesce": coalesce})
        except RpcError as error:
            raise SerfError(f"Error sending event: {error}") from error
    words_back = f"Event '{name}' dispatched! Coalescing enabled: {str(coalesce).lower()}"
    asking.say(words_back, {"event": name, "coalesce": coalesce})


@click.command("query")
@click.argument("words", nargs=-1, metavar="NAME [PAYLOAD]")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only this node shall answer; repeat for more.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=REGEXP", help="Only nodes with such a tag; repeat for more.")
@click.option("--timeout", default="", metavar="TIME", help="How long to wait, such as 15s.")
@click.option("--no-ack/--ack", default=False, help="Do not ask for acknowledgements.")
@click.option("--relay-factor", default=0, type=click.IntRange(0, 255), help="How many others relay answers.")
@asks_all
def query(
    asking: Asking,
    words: tuple[str, ...],
    nodes: tuple[str, ...],
    tags: tuple[str, ...],
    timeout: str,
    no_ack: bool,
    relay_factor: int,
) -> None:
    """Ask the whole cluster, or some of it, and print what comes back."""
    from rumor.config import parse_duration

    name, payload = _name_and_payload(words, "A query name must be specified.")
    try:
        wait = parse_duration(timeout) if timeout else 0.0
    except ValueError as error:
        raise click.UsageError(f"-timeout wants {error}, and this is {timeout!r}") from error
    body = {
        "FilterNodes": list(nodes) or None,
        "FilterTags": dict(_pair(text, "tag") for text in tags) or None,
        "RequestAck": not no_ack,
        "RelayFactor": relay_factor,
        "Timeout": round(wait * 1e9),
        "Name": name,
        "Payload": payload,
    }
    acks: list[str] = []
    responses: dict[str, str] = {}
    with asking.connect() as agent:
        try:
            agent.call("query", body)
        except RpcError as error:
            raise SerfError(f"Error sending query: {error}") from error
        if not asking.is_json:
            click.echo(f"Query '{name}' dispatched")
        for kind, named, said in answers(agent):
            sender = _safe(named)
            if kind == "ack":
                acks.append(sender)
                if not asking.is_json:
                    click.echo(f"Ack from '{sender}'")
            else:
                answer = _text(said)
                responses[sender] = answer
                if not asking.is_json:
                    click.echo(f"Response from '{sender}': {_safe(answer.removesuffix(chr(10)))}")
    if asking.is_json:
        _json({"Acks": acks or ([] if not no_ack else None), "Responses": responses})
        return
    if not no_ack:
        click.echo(f"Total Acks: {len(acks)}")
    click.echo(f"Total Responses: {len(responses)}")


def answers(agent: RpcClient) -> Iterator[tuple[str, str, object]]:
    """Yield what comes back to a query until it is over: `ack` or `response`, whose, and what it says.

    Without those of nobody: a Serf agent that closes a query may write some before it says that it is done.
    """
    for _, record in agent.records():
        kind, sender = _text(record["Type"]), _text(record["From"])
        if kind == "done":
            return
        if sender:
            yield kind, sender, record["Payload"]


def _name_and_payload(words: tuple[str, ...], without: str) -> tuple[str, bytes | None]:
    if not words:
        raise SerfError(without)
    if len(words) > 2:
        raise SerfError("Too many command line arguments. Only a name and payload must be specified.")
    return words[0], words[1].encode("utf-8", "surrogateescape") if len(words) == 2 else None


@click.command("monitor")
@click.option("--log-level", default="INFO", metavar="LEVEL", help="The least important lines to show.")
@asks
def monitor(asking: Asking, log_level: str) -> None:
    """Show an agent's log and its events, until Ctrl-C."""
    with asking.connect() as agent:
        try:
            events = agent.send("stream", {"Type": "*"})
            agent.call("monitor", {"LogLevel": log_level})
        except RpcError as error:
            raise SerfError(f"Error starting monitor: {error}") from error
        for seq, record in agent.records():
            if asking.is_json:
                click.echo(json.dumps(_printable(record)))
            elif seq == events:
                _print_event(record)
            else:
                click.echo(_safe(_text(record["Log"])))


def _printable(value: object) -> Any:
    """Return a record with text for its bytes; an address in its usual form."""
    if isinstance(value, dict):
        return {
            key: str(read_ip(one)) if key == "Addr" and isinstance(one, bytes) else _printable(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_printable(one) for one in value]
    return _safe(_text(value)) if isinstance(value, bytes) else value


def _print_event(record: dict[str, Any]) -> None:
    click.echo("Event Info:")
    for key, value in sorted(record.items()):
        if key == "Members":
            names = ", ".join(_safe(_text(member["Name"])) for member in value)
            click.echo(f"\tMembers: {names}")
        else:
            click.echo(f"\t{key}: {_safe(_text(value)) if isinstance(value, bytes | None) else value}")


# --- looking at an agent


@click.command("info")
@asks
def info(asking: Asking) -> None:
    """Show an agent's own numbers."""
    with asking.connect() as agent:
        reply = agent.call("stats")
    stats = {
        section: {key: _safe(_text(value)) for key, value in sorted((facts or {}).items())}
        for section, facts in sorted(reply.items())
    }
    if asking.is_json:
        _json(stats)
        return
    for section, facts in stats.items():
        click.echo(f"{section}:")
        for key, text in facts.items():
            click.echo(f"\t{key} = {text}")


@click.command("rtt")
@click.argument("names", nargs=-1, metavar="NODE [NODE]")
@asks
def rtt(asking: Asking, names: tuple[str, ...]) -> None:
    """Estimate the round-trip time between two members, or between one and the asked agent."""
    if not 1 <= len(names) <= 2:
        raise SerfError("One or two node names must be specified")
    with asking.connect() as agent:
        first, second = names if len(names) == 2 else (names[0], _text(agent.call("stats")["agent"]["name"]))
        here, there = (_coordinate(agent, name) for name in (first, second))
    milliseconds = here.distance(there) * 1000
    asking.say(
        f"Estimated {first} <-> {second} rtt: {milliseconds:.3f} ms",
        {"from": first, "to": second, "rtt_ms": round(milliseconds, 3)},
    )


def _coordinate(agent: RpcClient, name: str) -> Coordinate:
    reply = agent.call("get-coordinate", {"Node": name})
    if not reply["Ok"]:
        raise SerfError(f'Could not find a coordinate for node "{name}"')
    found = reply["Coord"]
    return Coordinate(tuple(found["Vec"]), found["Error"], found["Adjustment"], found["Height"])


@click.command("reachability")
@click.option("--verbose/--no-verbose", default=False, help="Show each answer.")
@asks
def reachability(asking: Asking, verbose: bool) -> int:
    """Ask every live member for a sign of life."""
    with asking.connect() as agent:
        found = agent.call("members")["Members"] or []
        live = {_text(record["Name"]) for record in found if _text(record["Status"]) == "alive"}
        asking.say_line(f"Total members: {len(found)}, live members: {len(live)}")
        body = {"FilterNodes": None, "FilterTags": None, "RequestAck": True, "RelayFactor": 0, "Timeout": 0,
                "Name": "_serf_ping", "Payload": None}  # fmt: skip
        agent.call("query", body)
        asking.say_line("Starting reachability test...")
        began = last = time.monotonic()
        acked: set[str] = set()
        for kind, sender, _ in answers(agent):
            if kind == "ack":
                last = time.monotonic()
                acked.add(sender)
                if verbose:
                    asking.say_line(f"\tAck from '{_safe(sender)}'")
    if verbose:
        total = time.monotonic() - began
        asking.say_line(f"Query time: {total:.2f} sec, time to last response: {last - began:.2f} sec")
    silent = sorted(_safe(name) for name in live - acked)
    words = "Successfully contacted all live nodes"
    if silent:
        words = "\n\t".join(["Failed to contact the following nodes:", *silent])
    asking.say(words, {"ok": not silent, "members": len(found), "live": len(live), "silent": silent})
    return 1 if silent else 0


# --- keys


@click.command("keygen")
@click.option("--format", "form", default="text", metavar="FORMAT", help="text (default) or json.")
def keygen(form: str) -> None:
    """Make a new encryption key, 32 random bytes in base64."""
    key = base64.b64encode(os.urandom(32)).decode()
    if form == "json":
        _json({"key": key})
    else:
        click.echo(key)


@click.command("keys")
@click.option("--install", default="", metavar="KEY", help="Let all members open with a new key.")
@click.option("--use", default="", metavar="KEY", help="Let all members seal with a key that is installed.")
@click.option("--remove", default="", metavar="KEY", help="Let all members forget a key.")
@click.option("--list/--no-list", "lists", default=False, help="List the keys, and how many members have each.")
@asks
def keys(asking: Asking, install: str, use: str, remove: str, lists: bool) -> int:
    """List and change the keys of the whole cluster's gossip."""
    chosen = [(verb, key) for verb, key in (("install", install), ("use", use), ("remove", remove)) if key]
    if len(chosen) + lists != 1:
        raise click.UsageError("say one of --install KEY, --use KEY, --remove KEY and --list")
    verb, key = chosen[0] if chosen else ("list", "")
    begin, done, failure = _KEY_WORDS[verb]
    is_json = asking.is_json
    if not is_json:
        click.echo(f"==> {begin} all members{' for installed keys' if lists else ''}...")
    with asking.connect() as agent:
        try:
            reply, error = agent.call("list-keys" if lists else f"{verb}-key", None if lists else {"Key": key}), ""
        except RpcError as refused:
            reply, error = refused.body, str(refused)
    found = {_text(one): count for one, count in (reply.get("Keys") or {}).items()}
    messages = {_safe(name): _text(text) for name, text in sorted((reply.get("Messages") or {}).items())}
    if is_json:
        _json({"ok": not error, "error": error, "keys": found, "messages": messages, "nodes": reply.get("NumNodes", 0)})
    elif error:
        if messages:
            click.echo(_columns([["failed:", name, text] for name, text in messages.items()]))
        click.echo()
        click.echo(f"{failure}: {error}", err=True)
    else:
        click.echo(f"==> {done}")
        if lists:
            click.echo()
            rows = [[one, f"[{count}/{reply['NumNodes']}]"] for one, count in sorted(found.items())]
            click.echo(_columns(rows))
    return 1 if error else 0


_KEY_WORDS = {
    "install": ("Installing key on", "Successfully installed key!", "Error installing key"),
    "use": ("Changing primary key on", "Successfully changed primary key!", "Error changing primary key"),
    "remove": ("Removing key on", "Successfully removed key!", "Error removing key"),
    "list": ("Asking", "Keys gathered, listing cluster keys...", "Failed to gather member keys"),
}

COMMANDS = (join, leave, force_leave, tags, event, query, monitor, info, rtt, reachability, keygen, keys)
