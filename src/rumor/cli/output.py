"""Tables and colours: the only place of the command line that draws. JSON is printed as the agent gave it.

Text from the network goes through `_safe`: a name must not steer the terminal it is printed on. And nothing goes to
rich as a bare `str`: it would read markup there, in which `[haproxy.cfg:62]` vanishes and `[/etc/x.pem]` is an error.
"""

import difflib
import json
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

Value = dict[str, Any]
Draw = Callable[[Value], "Table | Text | str"]

_CELL_LIMIT = 200

_COLOURS = {
    "alive": "green", "suspect": "yellow", "leaving": "yellow", "left": "dim", "failed": "red",
    "ready": "green", "drain": "yellow", "maint": "red", "applied": "green", "refused": "red", "pending": "yellow",
    "running": "green", "starting": "yellow", "stopping": "yellow", "stopped": "dim",
    "backoff": "red", "fatal": "red", "exited": "red",
}  # fmt: skip


def show(value: Value, form: str, draw: Draw) -> None:
    """Print a value as JSON or as its table."""
    if form == "json":
        click.echo(json.dumps(value, indent=2))
        return
    drawn = draw(value)
    if isinstance(drawn, str):
        click.echo(drawn, nl=not drawn.endswith("\n"))
        return
    console = Console()
    if not console.is_terminal:
        # Piped output is for programs and logs: no line is cut to a terminal that is not there.
        console = Console(width=1000)
    console.print(drawn, soft_wrap=True)


def members(value: Value) -> Table:
    drawn = _table("name", "address", "status", "tags")
    for member in value["members"]:
        tags = ",".join(f"{key}={text}" for key, text in member["tags"].items())
        _add(drawn, member["name"], member["addr"], _state(member["status"]), tags)
    return drawn


def table(value: Value) -> Table:
    drawn = _table("service", "server", "address", "state", "weight", "HAProxy", "sessions", "evidence")
    notes = _pinned(value) + [
        _set_aside(entry["name"], entry["set_aside"]) for entry in value["services"] if entry["set_aside"]
    ]
    drawn.caption = _caption(notes)
    for service in value["services"]:
        for server in service["servers"] or [None]:
            if server is None:
                _add(drawn, service["name"], Text("no server", style="red"))
                continue
            haproxy = server["haproxy"] or {}
            _add(
                drawn,
                service["name"],
                server["name"],
                server["address"],
                _state(server["state"]),
                str(server["weight"]),
                f"{haproxy.get('status', '-')} {haproxy.get('check', '')}".strip(),
                str(haproxy.get("sessions", "-")),
                "; ".join(_evidence(entry) for entry in server["evidence"]),
            )
    return drawn


def _pinned(value: Value) -> list[str]:
    pinned = value["pinned"]
    if pinned is None:
        return []
    by = f" by {_safe(pinned['by'])}" if pinned["by"] else ""
    return [
        f"the configuration is pinned to {pinned['revision'][:12]}{by} since {pinned['at']}: `rumor config release`"
    ]


def _set_aside(service: str, words: str) -> str:
    return f"{service} is served by what HAProxy has loaded of it, and would not load anew: {_safe(words)}"


def _evidence(entry: Value) -> str:
    by = f" ({entry['by']})" if entry["by"] else ""
    return f"{entry['source']}: {entry['says']}{by}"


def why(value: Value) -> Text:
    """Draw what is known of a server: first what is, then what led to it."""
    drawn = Text()
    for note in _pinned(value) + [_set_aside(service, words) for service, words in value["set_aside"].items()]:
        drawn.append(f"{note}\n", style="yellow")
    for server in value["servers"]:
        drawn.append(f"{server['name']} of {server['service']} at {server['address']}: ")
        drawn.append_text(_state(server["state"]))
        drawn.append(f", weight {server['weight']}\n")
        for entry in server["evidence"]:
            by = f", by {_safe(entry['by'])}" if entry["by"] else ""
            since = f", since {entry['at']}" if entry["at"] else ""
            drawn.append(f"  {entry['source']:<9} {_safe(entry['says'])}{by}{since}\n")
        haproxy = server["haproxy"]
        sessions = f"{haproxy['sessions']} now, {haproxy['sessions_total']} in all" if haproxy else "HAProxy has it not"
        drawn.append(f"  {'sessions':<9} {sessions}\n")
    if value["template"] is not None:
        drawn.append_text(_template(value["template"]))
    elif not value["servers"]:
        member = value["member"]
        seen = f"its member is {member['status']}" if member else "nobody sees its member"
        drawn.append(f"{value['name']} is no server now: {seen}\n")
    drawn.append("\n")
    for record in value["records"]:
        cause = f": {_safe(record['cause'])}" if record["cause"] else ""
        drawn.append(f"{record['at']}  {_safe(record['text'])}{cause}\n")
    if not value["records"]:
        drawn.append("The journal holds nothing of it.\n")
    return drawn


def _template(value: Value) -> Text:
    written = f"written {value['written_at']}" if value["written_at"] else "not written since the agent started"
    drawn = Text(f"{value['name']} is a template of this node: {value['destination']}, {written}\n")
    if value["error"]:
        drawn.append("  error     ").append_text(_safe(value["error"])).append("\n")
    return drawn


def health(value: Value) -> str:
    return "ready" if value["ready"] else f"not ready: {value['reason']}"


def history(value: Value) -> Table:
    drawn = _table("revision", "at", "outcome", "how", "cause", "words")
    drawn.caption = _caption(_pinned(value))
    for entry in value["revisions"]:
        words = entry["words"].splitlines()
        _add(
            drawn, entry["id"][:12], entry["at"], _state(entry["outcome"]), entry["how"], entry["cause"],
            words[0] if words else "",
        )  # fmt: skip
    return drawn


def revision(value: Value) -> str:
    return str(value["text"])


def difference(old: Value, new: Value) -> Value:
    """Return a unified diff of two revisions' texts."""
    lines = difflib.unified_diff(
        old["text"].splitlines(keepends=True), new["text"].splitlines(keepends=True), old["id"][:12], new["id"][:12]
    )
    return {"old": old["id"], "new": new["id"], "cause": new["cause"], "diff": "".join(lines)}


def diff(value: Value) -> Text:
    drawn = Text(f"{value['cause']}\n")
    for line in value["diff"].splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        drawn.append(f"{line}\n", style=style)
    return drawn


def rolled_back(value: Value) -> str:
    said = f"pinned to revision {value['pinned'][:12]}: servers come and go as before, all else holds until "
    return f"{said}`rumor config release`"


def released(value: Value) -> str:
    return f"released from revision {value['released'][:12]}"


def rendered(value: Value) -> str:
    return str(value["text"])


def written(value: Value) -> str:
    return f"wrote {value['written']}"


def file_difference(value: Value) -> Text:
    drawn = Text()
    for line in value["diff"].splitlines():
        drawn.append(f"{line}\n", style={"+": "green", "-": "red", "@": "cyan"}.get(line[:1], ""))
    return drawn


def check(value: Value) -> str:
    return f"{value['file']}: {'HAProxy would load it' if value['ok'] else value['words']}"


def validated(value: Value) -> str:
    services = ", ".join(value["services"]) or "none"
    return "\n".join([f"{value['file']}: right (services: {services})", *value["warnings"]])


def findings(value: Value) -> Table:
    drawn = _table("", "what", "found", "what to do")
    for finding in value["findings"]:
        mark = Text("ok", style="green") if finding["ok"] else Text("lacks", style="red")
        _add(drawn, mark, finding["what"], _cut(finding["found"]), finding["advice"])
    return drawn


def programs(value: Value) -> Table:
    drawn = _table("program", "state", "pid", "since", "last end")
    for program in value["programs"]:
        end = program["last_exit"]
        last = ""
        if end is not None:
            again = (
                f"; tried again after {_span(end['pause'])}" if program["state"] == "backoff" and end["pause"] else ""
            )
            last = f"{end['text']}, {_span(end['ago'])} ago{again}"
        since = "" if program["since"] is None else _span(program["since"])
        drawn.add_row(program["name"], _state(program["state"]), str(program["pid"] or "-"), since, _safe(last))
        for line in program["words"] if program["state"] not in ("running", "stopped") else []:
            drawn.add_row("", "", "", "", _safe(line))
    return drawn


def done_to_programs(value: Value) -> str:
    lines = []
    for program in value["programs"]:
        ended = (
            f" ({program['last_exit']['text']})" if program["last_exit"] and program["state"] != value["wanted"] else ""
        )
        lines.append(f"{program['name']}: {program['state']}{ended}")
    return "\n".join(lines)


def reloaded_services(value: Value) -> str:
    lines = [f"{word}: {', '.join(value[word])}" for word in ("added", "removed", "changed") if value[word]]
    lines += [f"{agent['node']}: {agent['said']}" for agent in value["agents"]]
    return "\n".join(lines) or "nothing has changed"


def installed(value: Value) -> str:
    if value["applied"]:
        return "installed; look with: systemctl status rumor.target 'rumor-*'"
    parts = []
    for file in value["files"]:
        body = file["text"] or "# variables of the program; not shown, since they may be secrets\n"
        parts.append(f"# --- {file['path']} ({file['mode']})\n{body}")
    parts.append("\n".join(f"# then: {' '.join(command)}" for command in value["commands"]) + "\n")
    return "\n".join(parts)


def _span(seconds: float) -> str:
    """Return a length of time as people say it, in its largest unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def _add(drawn: Table, *cells: str | Text) -> None:
    drawn.add_row(*(cell if isinstance(cell, Text) else _safe(cell) for cell in cells))


def _caption(notes: list[str]) -> Text | None:
    return Text("\n".join(notes)) if notes else None


def _cut(text: str) -> str:
    """Return a text on one line that leaves room for others; JSON has it whole."""
    text = " ".join(text.split())
    return text if len(text) <= _CELL_LIMIT else f"{text[: _CELL_LIMIT - 1]}…"


def _state(word: str) -> Text:
    return Text(word, style=_COLOURS.get(word, ""))


def _safe(text: str) -> Text:
    return Text(text if text.isprintable() else ascii(text)[1:-1])
