"""The command line: one function for each command, and nothing but translation.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration. Errors are one clear line on stderr; `--debug` shows the
traceback. What a command needs is imported when it runs: `rumor agent web` loads neither Jinja2 nor rich.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from rumor import __version__, log
from rumor.cli.options import (
    DEFAULT_DATA,
    DEFAULT_FILE,
    RUNNING,
    agent_api,
    asking,
    data_of,
    data_option,
    file_of,
    file_option,
    format_option,
    logging_options,
    overrides_of,
    revision_of,
    revisions_to_compare,
    set_option,
)
from rumor.config import Config, load
from rumor.errors import ConfigError, InOthersWords, RumorError


def main() -> None:
    """Run `rumor` and end the process with its exit status."""
    arguments = _like_go(sys.argv[1:])
    try:
        if arguments[:1] == ["agent"] and _is_serf_style(arguments[1:]):
            sys.exit(_run_serf_agent(arguments[1:]))
        status = cli.main(arguments, prog_name="rumor", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except RumorError as error:
        if "--debug" in arguments:
            raise
        click.echo(str(error) if isinstance(error, InOthersWords) else f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        if "--debug" in arguments:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{error.strerror or error}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


_LATE = {
    "deploy": ("deploying", "deploy"), "install": ("installing", "install"), "render": ("rendering", "render"),
    "simulate": ("simulating", "simulate"), "supervise": ("container", "supervise"),
}  # fmt: skip
"""Commands by the modules that are loaded when one of them is named, or all are listed."""
_SUPERVISING = ("ps", "start", "stop", "restart", "reload-services")
_OPERATING = ("drain", "ready", "weight", "why")
_SERF_COMMANDS = frozenset(
    {
        "members", "join", "leave", "force-leave", "tags", "event", "query", "monitor", "info", "rtt", "reachability",
        "keygen", "keys",
    }
)  # fmt: skip
_GO_SWITCHES = {
    "coalesce": "no-coalesce", "detailed": "no-detailed", "no-ack": "ack", "prune": "no-prune",
    "replay": "no-replay", "verbose": "no-verbose", "list": "no-list",
}  # fmt: skip
"""serf's switches, which may be said as `-prune` or `-prune=false`, and how each is switched off here."""


def _like_go(arguments: list[str]) -> list[str]:
    """Let serf's own spelling pass: `-format json` everywhere, and one dash and bare switches in serf's commands."""
    command = arguments[0] if arguments else ""
    if command not in _SERF_COMMANDS:
        return [f"-{word}" if word == "-format" or word.startswith("-format=") else word for word in arguments]
    found = [command]
    for word in arguments[1:]:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and not word.startswith("--") and len(name) > 1:
            word = f"-{word}"
        if name in _GO_SWITCHES and word.startswith("--"):
            is_off = word.partition("=")[2].lower() in ("0", "f", "false")
            word = f"--{_GO_SWITCHES[name] if is_off else name}"
        found.append(word)
    serfs = ("--rpc-addr", "--rpc-auth", "--detailed", "--name", "--role", "--status", "--tag")
    if command == "members" and (os.environ.get("SERF_RPC_ADDR") or any(word.startswith(serfs) for word in found)):
        found[0] = "serf-members"
    return found


def _is_serf_style(arguments: list[str]) -> bool:
    if not arguments or not all(word.startswith("-") for word in arguments[:1]):
        return not arguments
    from rumor.cli.serf_flags import is_serf_style

    return is_serf_style(arguments)


def _run_serf_agent(arguments: list[str]) -> int:
    from rumor.cli.serf_agent import run

    return run(arguments)


class _Commands(click.Group):
    """Commands, of which serf's own are loaded only when one is named or all are listed."""

    def list_commands(self, context: click.Context) -> list[str]:
        serf = _SERF_COMMANDS - {"members"}
        return sorted({*super().list_commands(context), *_LATE, *_SUPERVISING, *_OPERATING, *serf})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in _LATE:
            module, command = _LATE[name]
            found: click.Command = getattr(import_module(f"rumor.cli.{module}"), command)
            return found
        if name in _SUPERVISING:
            from rumor.cli import supervising

            return {one.name: one for one in supervising.COMMANDS}[name]
        if name in _OPERATING:
            from rumor.cli import operating

            return {one.name: one for one in operating.COMMANDS}[name]
        if name == "serf-members" or (name in _SERF_COMMANDS and name != "members"):
            from rumor.cli import serf

            return serf.members if name == "serf-members" else {one.name: one for one in serf.COMMANDS}.get(name)
        return super().get_command(context, name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rumor", message="rumor %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Your servers tell the load balancer about themselves."""


# --- running things


@cli.command()
@click.argument("parts", nargs=-1, required=True, metavar="PART...")
@file_option
@data_option
@click.option("--node", envvar="RUMOR_NODE", metavar="NAME", help="This member's name (default: the host's name).")
@click.option("--bind", metavar="ADDRESS", help="Where to gossip, UDP and TCP (default 0.0.0.0:7946).")
@click.option("--advertise", metavar="ADDRESS", help="Where others reach this node, if not at --bind.")
@click.option("--join", multiple=True, metavar="ADDRESS", help="Any member of the cluster; repeat for more.")
@click.option("--preset", type=click.Choice(["lan", "wan", "local"]), help="The timings of gossip (default lan).")
@click.option("--port", "ports", multiple=True, metavar="SERVICE=PORT", help="Where this node's app listens.")
@set_option
@logging_options
def agent(
    parts: tuple[str, ...],
    file: Path | None,
    data: Path | None,
    node: str | None,
    bind: str | None,
    advertise: str | None,
    join: tuple[str, ...],
    preset: str | None,
    ports: tuple[str, ...],
    settings: tuple[str, ...],
    log_level: str,
    log_format: log.LogFormat,
) -> int:
    """Play PARTs of the cluster on this node: `balancer`, or names of services.

    The agent joins (trying for ever), checks its app, tells its tags, and on SIGTERM drains, leaves and exits 0.
    SIGHUP reads rumor.toml and the template again.

    With serf's own flags instead, or with nothing at all, it is a plain member of a Serf cluster, as `serf agent` is.
    """
    from rumor.agent.run import run_agent

    log.configure(level=log_level, format=log_format)
    overrides = overrides_of(settings)
    flags: dict[str, object] = {"bind": bind, "advertise": advertise, "join": list(join), "preset": preset}
    overrides |= {("cluster", key): value for key, value in flags.items() if value}
    for port in ports:
        service, equals, number = port.partition("=")
        if not equals or not number.isdigit():
            raise click.UsageError(f"--port wants SERVICE=PORT, and this is {port!r}")
        overrides["service", service, "port"] = int(number)
    path = file_of(file)

    def load_config() -> Config:
        return load(path, environ=os.environ, overrides=overrides)

    config = load_config()
    for warning in config.warnings:
        log.get_logger("config").warning("not_acted_on", text=warning)
    return asyncio.run(
        run_agent(
            config,
            parts,
            node=node or socket.gethostname().partition(".")[0],
            data=data_of(data, path),
            environ=os.environ,
            load_config=load_config,
        )
    )


@cli.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--app", metavar="COMMAND", help="With no file: the app to run; {port} stands for its port.")
@click.option("--replicas", type=click.IntRange(1, 1000), help="How many of them.")
@click.option(
    "--bind", metavar="ADDRESS", help="Where HAProxy serves (default: the file's, else :8080 or a free port)."
)
@data_option
@set_option
def up(
    file: Path | None,
    app: str | None,
    replicas: int | None,
    bind: str | None,
    data: Path | None,
    settings: tuple[str, ...],
) -> int:
    """Run the whole cluster of FILE (default ./rumor.toml) on this machine, until Ctrl-C."""
    from rumor.local.up import run_up

    if bind:
        settings = (*settings, f'balancer.bind="{bind}"')
    path = file or file_of(None)
    if app is not None:
        if file is not None:
            raise click.UsageError("say either FILE or --app, not both")
        path = _write_app_file(app, data or Path(DEFAULT_DATA), replicas or 1)
        data = data or Path(DEFAULT_DATA)
    if path is None:
        raise click.UsageError("there is no ./rumor.toml: name a FILE, or say --app COMMAND (`rumor init` writes one)")
    config = load(path, environ=os.environ, overrides=overrides_of(settings))
    if replicas is not None:
        settings = (*settings, *(f"service.{service.name}.replicas={replicas}" for service in config.services))
        config = load(path, environ=os.environ, overrides=overrides_of(settings))
    for warning in config.warnings:
        click.echo(f"rumor: {warning}", err=True)
    return _run(
        run_up(
            config,
            file=path.absolute(),
            data=data_of(data, path),
            environ=os.environ,
            settings=settings,
            app_directory=Path.cwd() if app is not None else None,
        )
    )


@cli.command()
@data_option
def down(data: Path | None) -> int:
    """End the cluster of a data directory, for example one that `rumor demo --keep` has left running."""
    from rumor.local.up import run_down

    return _run(run_down(data_of(data, file_of(None))))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout at the end; progress goes to stderr.")
@click.option("--keep", is_flag=True, help="Leave the cluster running; `rumor down` ends it.")
@click.option("--rate", type=click.FloatRange(1, 5000), default=200.0, show_default=True, help="Requests a second.")
@click.option("--nodes", type=click.IntRange(2, 50), default=3, show_default=True, help="Web nodes at the start.")
@click.option("--delay", type=click.IntRange(0, 1000), default=20, show_default=True, help="Service time in ms.")
@click.option("--step", "steps", multiple=True, metavar="NAME", help="Tell only this step; repeat for more.")
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(["gossip", "drain", "redispatch"]),
    help="Switch this off, and see the demo fail.",
)
@data_option
def demo(
    as_json: bool,
    keep: bool,
    rate: float,
    nodes: int,
    delay: int,
    steps: tuple[str, ...],
    without: tuple[str, ...],
    data: Path | None,
) -> int:
    """Watch a real HAProxy keep serving while web nodes join, drain, crash and freeze."""
    from rumor.demo.story import DemoSettings, run_demo, step_names

    unknown = [step for step in steps if step not in step_names()]
    if unknown:
        raise click.UsageError(f"there is no step {unknown[0]!r}; the steps are: {', '.join(step_names())}")
    settings = DemoSettings(rate, nodes, delay, steps, frozenset(without), as_json, keep, data)
    return _run(run_demo(settings, os.environ))


# --- looking in


@cli.command()
@asking
def members(data: Path | None, node: str | None, api: str | None, token: str | None, form: str) -> None:
    """List the members of the cluster, as one agent sees them."""
    from rumor.cli import output

    output.show(agent_api(data, node, api, token).get("/v1/members"), form, output.members)


@cli.command()
@asking
def table(data: Path | None, node: str | None, api: str | None, token: str | None, form: str) -> None:
    """Show services, servers, states, weights, and the evidence behind each."""
    from rumor.cli import output

    output.show(agent_api(data, node, api, token).get("/v1/table"), form, output.table)


@cli.command()
@asking
def health(data: Path | None, node: str | None, api: str | None, token: str | None, form: str) -> int:
    """Say whether an agent lives and is ready; exit status 0 if it is."""
    import json

    from rumor.cli import output

    status, body = agent_api(data, node, api, token).request("GET", "/ready")
    output.show(json.loads(body), form, output.health)
    return 0 if status == 200 else 1


@cli.group()
def config() -> None:
    """Show, compare and check HAProxy's configuration."""


@config.command("show")
@click.argument("revision", required=False)
@asking
def config_show(
    revision: str | None, data: Path | None, node: str | None, api: str | None, token: str | None, form: str
) -> None:
    """Print a revision's text: the beginning of an id, `wanted`, or `running`, which is meant without REVISION."""
    from rumor.cli import output

    client = agent_api(data, node, api, token)
    output.show(revision_of(client, revision or RUNNING), form, output.revision)


@config.command("history")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many, newest first.")
@asking
def config_history(
    limit: int, data: Path | None, node: str | None, api: str | None, token: str | None, form: str
) -> None:
    """List revisions with their causes and outcomes, newest first."""
    from rumor.cli import output

    output.show(agent_api(data, node, api, token).get(f"/v1/config/history?limit={limit}"), form, output.history)


@config.command("diff")
@click.argument("old", required=False)
@click.argument("new", required=False)
@asking
def config_diff(
    old: str | None,
    new: str | None,
    data: Path | None,
    node: str | None,
    api: str | None,
    token: str | None,
    form: str,
) -> None:
    """Compare two revisions, named by the beginnings of their ids, or `running` or `wanted`.

    Without NEW with the one that runs. Without OLD, too, the one that runs with the one that is wanted; where that is
    the same, the one that ran before with the one that runs.
    """
    from rumor.cli import output

    before, after = revisions_to_compare(agent_api(data, node, api, token), old, new)
    output.show(output.difference(before, after), form, output.diff)


@config.command("rollback")
@click.option(
    "--to", default="", metavar="REV", help="The beginning of a revision's id; without it the last other one."
)
@asking
def config_rollback(
    to: str, data: Path | None, node: str | None, api: str | None, token: str | None, form: str
) -> None:
    """Go back to an older configuration, with today's servers, until it is released."""
    from rumor.cli import output
    from rumor.cli.operating import me

    if to and not to.isalnum():
        raise click.UsageError(f"{to!r} is no revision: take the beginning of an id from `rumor config history`")
    output.show(
        agent_api(data, node, api, token).post(f"/v1/config/rollback?to={to}&by={me()}"), form, output.rolled_back
    )


@config.command("release")
@asking
def config_release(data: Path | None, node: str | None, api: str | None, token: str | None, form: str) -> None:
    """Let the present configuration come again after a rollback."""
    from rumor.cli import output
    from rumor.cli.operating import me

    output.show(agent_api(data, node, api, token).post(f"/v1/config/release?by={me()}"), form, output.released)


@config.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--config", "toml", envvar="RUMOR_FILE", type=click.Path(path_type=Path), help="rumor.toml, for a template."
)
@format_option
def config_check(file: Path | None, toml: Path | None, form: str) -> int:
    """Ask HAProxy whether it would load FILE: a haproxy.cfg, a template (.j2), or what a rumor.toml renders.

    Without FILE it is ./rumor.toml. What is rendered is rendered with sample servers of every kind, and below each of
    HAProxy's words stands the line they are about.
    """
    from rumor.cli import output
    from rumor.cli.checking import check_file

    path = file_of(toml)
    if file is None and path is None:
        raise click.UsageError("there is no ./rumor.toml: name a FILE (`rumor init` writes a rumor.toml)")
    words = check_file(file, path)
    output.show({"file": str(file or path), "ok": not words, "words": words}, form, output.check)
    return 1 if words else 0


@cli.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@format_option
def validate(file: Path | None, form: str) -> int:
    """Read rumor.toml and say what is wrong with it."""
    from rumor.cli import output

    path = file or file_of(None)
    if path is None:
        raise click.UsageError("there is no ./rumor.toml: name a FILE (`rumor init` writes one)")
    config = load(path, environ=os.environ)
    value = {
        "file": str(path),
        "ok": True,
        "services": [service.name for service in config.services],
        "warnings": list(config.warnings),
    }
    output.show(value, form, output.validated)
    return 0


@cli.command()
@click.argument("file", default=DEFAULT_FILE, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(file: Path, force: bool) -> None:
    """Write a commented rumor.toml to begin with."""
    from importlib import resources

    if file.exists() and not force:
        raise ConfigError(f"{file} is there already: --force replaces it")
    file.write_text(resources.files("rumor.cli").joinpath("sample.toml").read_text(encoding="utf-8"), encoding="utf-8")
    click.echo(f"wrote {file}; next: rumor up")


@cli.command()
@file_option
@data_option
@format_option
def doctor(file: Path | None, data: Path | None, form: str) -> int:
    """Say what this machine has and lacks: HAProxy, ports, limits."""
    from rumor.cli import output
    from rumor.cli.examination import examine

    path = file_of(file)
    findings = examine(path, data_of(data, path), os.environ)
    value = {"ok": all(finding.ok for finding in findings), "findings": [finding.value() for finding in findings]}
    output.show(value, form, output.findings)
    return 0 if value["ok"] else 1


@cli.command()
def version() -> None:
    """Print rumor's version."""
    click.echo(f"rumor {__version__}")


# --- small change


def _run(work: Coroutine[Any, Any, int]) -> int:
    return asyncio.run(work)


def _write_app_file(app: str, data: Path, replicas: int) -> Path:
    """Write the rumor.toml of `rumor up --app`, unless a cluster that runs reads it."""
    import json

    from rumor.local.cluster import refuse_second

    refuse_second(data)
    data.mkdir(parents=True, exist_ok=True)
    path = data / "app.toml"
    # A JSON string is a TOML string.
    path.write_text(f"[service.web]\ncommand = {json.dumps(app)}\nreplicas = {replicas}\n", encoding="utf-8")
    return path
