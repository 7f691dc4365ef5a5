"""What a container or host is to play, and the programs that this takes."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from rumor.config import Config, load
from rumor.errors import ConfigError
from rumor.host.plan import SECRETS, Node, Tools, make_programs, parts_of
from rumor.model import Seconds
from rumor.names import MemberName
from rumor.supervise.base import Program

TOML = """
[service.web]
command     = "python app.py --port {port} --host {host}"
port        = 3000
drain       = "9s"
stop_wait   = "3s"
environment = { DB = "db:5432" }

[service.api]
port    = 4000
drain   = "20s"
route   = { path = "/api" }
members = { role = "backends" }

[program.worker]
command = "worker --fast"
parts   = ["web"]
order   = -1

[program.shipper]
command = "shipper"
parts   = ["*"]

[program.exporter]
command = "exporter"
"""
TOOLS = Tools("/usr/bin/python3", Path("/opt/haproxy"), lambda name: f"/bin/{name}", "rumor", is_root=False)


def config(tmp_path: Path, text: str = TOML) -> Config:
    file = tmp_path / "rumor.toml"
    file.write_text(text)
    return load(file, environ={})


def node(*parts: str, settings: tuple[str, ...] = ()) -> Node:
    return Node(MemberName("n1"), parts, None, Path("/data"), settings, Path("/app"))


def programs(tmp_path: Path, *parts: str, tools: Tools = TOOLS, text: str = TOML) -> Mapping[str, Program]:
    return {one.name: one for one in make_programs(config(tmp_path, text), node(*parts), tools)}


@pytest.mark.parametrize(
    ("given", "environ", "parts"),
    [
        (["web"], {"RUMOR_ROLE": "api"}, ("web",)),
        ([], {"RUMOR_ROLE": "web, balancer,", "ROLE": "api"}, ("web", "balancer")),
        ([], {"RUMOR_ROLE": "", "ROLE": "api"}, ("api",)),
        ([], {"ROLE": "backends"}, ("api",)),
        ([], {"ROLE": "api,backends,api"}, ("api",)),
    ],
)
def test_the_part_is_what_was_said_then_rumor_role_then_role(
    tmp_path: Path, given: list[str], environ: dict[str, str], parts: tuple[str, ...]
) -> None:
    assert parts_of(given, environ, config(tmp_path).services) == parts


def test_where_there_is_one_service_backend_means_it(tmp_path: Path) -> None:
    one = config(tmp_path, "[service.shop]\nport = 3000\n")
    assert parts_of([], {"ROLE": "backend"}, one.services) == ("shop",)
    with pytest.raises(ConfigError, match="there is no part 'backend'"):
        parts_of([], {"ROLE": "backend"}, config(tmp_path).services)


@pytest.mark.parametrize(("environ", "words"), [({}, "what does this node play"), ({"ROLE": "wbe"}, "no part 'wbe'")])
def test_a_part_that_is_not_said_or_not_known_is_refused(tmp_path: Path, environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=f"{words}.*balancer, api, web"):
        parts_of([], environ, config(tmp_path).services)


def test_each_node_runs_its_agent_and_what_it_plays(tmp_path: Path) -> None:
    assert set(programs(tmp_path, "web")) == {"agent", "web-app", "worker", "shipper"}
    assert set(programs(tmp_path, "api")) == {"agent", "shipper"}, "an app without a command others run"
    assert set(programs(tmp_path, "balancer")) == {"agent", "haproxy", "shipper", "exporter"}


def test_the_agent_stops_first_and_has_time_for_the_longest_drain(tmp_path: Path) -> None:
    found = programs(tmp_path, "web", "api", "balancer")
    order = sorted(found.values(), key=lambda program: -program.priority)
    assert [program.name for program in order[:3]] == ["agent", "haproxy", "worker"]
    assert found["agent"].stop_wait == Seconds(20 + 7)
    assert found["web-app"].stop_wait == Seconds(3)
    assert (found["haproxy"].stop_signal, found["haproxy"].longest_pause) == ("USR1", Seconds(0))


def test_an_app_finds_what_its_section_says_and_no_secret(tmp_path: Path) -> None:
    app = programs(tmp_path, "web")["web-app"]
    assert app.command == ("/bin/python", "app.py", "--port", "3000", "--host", "0.0.0.0")
    assert app.directory == Path("/app")
    assert {"DB": "db:5432", "HOST": "0.0.0.0", "PORT": "3000", "TAG": "n1"}.items() <= dict(app.environment).items()
    assert set(app.forgets) == set(SECRETS)


def test_a_secret_does_not_stand_on_the_agents_command_line(tmp_path: Path) -> None:
    settings = ("cluster.key=AAECAwQFBgcICQoLDA0ODw==", "cluster.preset=lan")
    agent = make_programs(config(tmp_path), node("web", settings=settings), TOOLS)[0]
    assert "AAEC" not in " ".join(agent.command)
    assert agent.environment["RUMOR_CLUSTER_KEY"] == "AAECAwQFBgcICQoLDA0ODw=="
    assert "cluster.preset=lan" in agent.command


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"python app.py --port {port} --host {host}"', '"app \'"', "service.web.command: No closing quotation"),
        ('"python app.py --port {port} --host {host}"', '"nowhere"', "there is no program 'nowhere' on this machine"),
        ("port        = 3000", "", "service.web.port is missing"),
        ("port        = 3000", 'port = 3000\nuser = "www"', "only root can run it as www"),
        ("program.worker", "program.web-app", "program.web-app: the app of a service is called so"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    tools = Tools("/usr/bin/python3", None, lambda name: None if name == "nowhere" else f"/bin/{name}", "rumor", False)
    with pytest.raises(ConfigError, match=words):
        programs(tmp_path, "web", tools=tools, text=TOML.replace(old, new, 1))


def test_python_is_found_where_the_image_has_none_of_that_name(tmp_path: Path) -> None:
    tools = Tools("/venv/bin/python", None, lambda name: None if name == "python" else f"/bin/{name}", "rumor", False)
    assert programs(tmp_path, "web", tools=tools)["web-app"].command[0] == "/venv/bin/python"
