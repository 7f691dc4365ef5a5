"""`rumor render`: what would come out of a template now, from what an agent sees."""

import difflib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rumor.cli.options import agent_api, asking, file_of, file_option
from rumor.errors import PeerError, RumorError

if TYPE_CHECKING:
    from rumor.api_client import AgentApi
    from rumor.config import Config
    from rumor.config.templates import TemplateConfig
    from rumor.model import Member

_LOOK_INTERVAL = 0.5


@click.command()
@click.argument("template", metavar="TEMPLATE")
@click.option("--once", "how", flag_value="once", default=True, help="Print it and end; what happens by default.")
@click.option(
    "--watch",
    "how",
    flag_value="watch",
    help="Print it, or write --out, anew at each change until Ctrl-C, whatever is wrong meanwhile.",
)
@click.option(
    "--diff", "how", flag_value="diff", help="Compare with the file in its place; exit status 1 if they differ."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write this file instead of printing.")
@file_option
@asking
def render(
    template: str,
    how: str,
    out: Path | None,
    file: Path | None,
    data: Path | None,
    node: str | None,
    api: str | None,
    token: str | None,
    form: str,
) -> int:
    """Render TEMPLATE, a [template.NAME] of rumor.toml or a file, from what an agent sees now."""
    from rumor.agent.templates import read_source
    from rumor.config import load
    from rumor.render.file import render_file

    path = file_of(file)
    config = load(path, environ=os.environ)
    known = next((entry for entry in config.templates if entry.name == template), None)
    source = known.source if known is not None else _file(template, config)
    client = agent_api(data, node, api, token)

    def rendered() -> str:
        return render_file(str(source), read_source(source), _picture(client, config))

    if how == "watch":
        _watch(rendered, lambda text: _put(text, out, known, form))
    text = rendered()
    if how == "diff":
        return _show_difference(text, out or _destination(known, template), form)
    _put(text, out, known, form)
    return 0


def _watch(rendered: Callable[[], str], put: Callable[[str], None]) -> NoReturn:
    """Put what comes out at each change, for ever: a template that is being written is broken now and then."""
    last, told = "", ""
    is_first = True
    while True:
        try:
            text = rendered()
            if is_first or text != last:
                put(text)
                last, is_first = text, False
            elif told:
                click.echo("well again, and what comes out is the same", err=True)
            told = ""
        except RumorError as error:
            if str(error) != told:
                click.echo(f"error: {error}", err=True)
            told = str(error)
        time.sleep(_LOOK_INTERVAL)


def _file(template: str, config: "Config") -> Path:
    path = Path(template)
    if path.is_file():
        return path
    names = [entry.name for entry in config.templates]
    near = difflib.get_close_matches(template, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names) or 'none'}"
    raise RumorError(f"there is no [template.{template}] in rumor.toml and no file {template}; {hint}")


def _destination(known: "TemplateConfig | None", template: str) -> Path:
    if known is None:
        raise click.UsageError(f"--diff needs to know with what: {template} has no destination, so say --out FILE")
    return known.destination


def _picture(client: "AgentApi", config: "Config") -> Any:
    from rumor.agent.picture import picture

    members = [_member(value) for value in client.get("/v1/members")["members"]]
    return picture(config, client.get("/v1/status")["node"], members)


def _member(value: dict[str, Any]) -> "Member":
    from rumor.model import Member, MemberStatus
    from rumor.names import parse_host_port, parse_member_name

    try:
        return Member(
            parse_member_name(value["name"]), parse_host_port(value["addr"]), value["tags"],
            MemberStatus(value["status"]),
        )  # fmt: skip
    except (PeerError, ValueError) as error:
        raise RumorError(f"the agent says what this rumor does not understand: {error}") from error


def _put(text: str, out: Path | None, known: "TemplateConfig | None", form: str) -> None:
    from rumor.cli import output

    if out is None:
        output.show({"text": text}, form, output.rendered)
        return
    from rumor.atomic_file import write_atomically

    try:
        write_atomically(out, text, mode=known.mode if known is not None else 0o644)
    except OSError as error:
        raise RumorError(f"cannot write {out}: {error.strerror}") from error
    output.show({"written": str(out)}, form, output.written)


def _show_difference(text: str, path: Path, form: str) -> int:
    from rumor.cli import output

    try:
        old = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        old = ""
    except (OSError, UnicodeDecodeError) as error:
        raise RumorError(f"cannot read {path}: {error}") from error
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), text.splitlines(keepends=True), str(path), f"{path} as it would be"
    )
    value = {"file": str(path), "differs": old != text, "diff": "".join(lines)}
    output.show(value, form, output.file_difference)
    return 1 if old != text else 0
