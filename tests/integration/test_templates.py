"""Files that are kept rendered: written, checked, reloaded; and the examples, read by the programs they are for."""

import asyncio
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.conftest import require_program

from rumor.agent.drain import BALANCER_TAG
from rumor.agent.picture import picture
from rumor.agent.templates import Templates
from rumor.config import Config, load
from rumor.model import Member, MemberStatus, Record
from rumor.names import HostPort, MemberName
from rumor.render.file import Picture, render_file

DEADLINE = 10.0
EXAMPLES = Path(__file__).parents[2] / "examples" / "templates"
SERVICES = '[cluster]\nname = "shop"\n[service.web]\n[service.api]\nroute = { path = "/api" }\n'


def member(
    name: str, last: int, tags: dict[str, str] | None = None, status: MemberStatus = MemberStatus.ALIVE
) -> Member:
    return Member(MemberName(name), HostPort(f"10.0.0.{last}", 7946), tags or {}, status)


def web(name: str, last: int, offer: str = "3000") -> Member:
    return member(name, last, {"service:web": offer})


def balancer(name: str, last: int) -> Member:
    return member(name, last, {BALANCER_TAG: "80"})


@dataclass(slots=True)
class World:
    directory: Path
    config: Config
    seen: Picture | None
    records: list[Record] = field(default_factory=list)
    templates: Templates | None = None

    def see(self, *members: Member) -> None:
        self.seen = picture(self.config, "lb-1", members)
        if self.templates is not None:
            self.templates.wake()

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        async with asyncio.timeout(DEADLINE):
            while not holds():  # noqa: ASYNC110 - files tell nobody of their changes
                await asyncio.sleep(0.02)
        assert holds(), what

    @property
    def kinds(self) -> list[str]:
        return [record.kind for record in self.records]


@asynccontextmanager
async def keeping(directory: Path, sections: str, *members: Member, parts: tuple[str, ...] = ("balancer",)) -> (
    AsyncIterator[World]
):  # fmt: skip
    (directory / "rumor.toml").write_text(SERVICES + sections)
    config = load(directory / "rumor.toml", environ={})
    world = World(directory, config, None)

    async def keep(record: Record) -> None:
        world.records.append(record)

    world.templates = Templates(
        lambda: world.config, parts, picture=lambda: world.seen, journal=keep, owed=directory / "owed"
    )
    if members:
        world.see(*members)
    task = asyncio.create_task(world.templates.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_file_follows_the_members_and_an_unchanged_one_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "list.j2").write_text("{% for s in services.web.servers %}{{ s.address }} {{ s.state }}\n{% endfor %}")
    log = tmp_path / "log"
    (tmp_path / "reload.sh").write_text(f"#!/bin/sh\necho reloaded $1 >> {log}\n")
    (tmp_path / "reload.sh").chmod(0o755)
    sections = f"""
[template.list]
source = "list.j2"
destination = "list"
mode = "0640"
reload = "{tmp_path}/reload.sh {{file}}"
"""
    async with keeping(tmp_path, sections) as world:
        await asyncio.sleep(0)
        world.see(web("n1", 1))
        await world.until(lambda: log.exists() and len(log.read_text().splitlines()) == 1, "it is written")
        assert (tmp_path / "list").read_text() == "10.0.0.1:3000 ready\n"
        assert stat.S_IMODE((tmp_path / "list").stat().st_mode) == 0o640
        assert log.read_text() == f"reloaded {tmp_path}/list\n"
        first = (tmp_path / "list").stat().st_ino
        world.see(web("n1", 1), member("other", 9))
        world.see(web("n1", 1), web("n2", 2, "3000;state=draining"))
        await world.until(lambda: "10.0.0.2" in (tmp_path / "list").read_text(), "the second one is there")
        assert (tmp_path / "list").read_text().splitlines()[1] == "10.0.0.2:3000 drain"
        await world.until(lambda: len(log.read_text().splitlines()) == 2, "reloaded once for each text")
        assert (tmp_path / "list").stat().st_ino != first
        assert world.templates is not None
        await world.until(lambda: world.kinds == ["template_written"] * 2, "each is journalled once")
        assert world.templates.states[0].error == ""
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


async def test_a_node_that_has_met_nobody_writes_nothing_and_one_of_another_part_neither(tmp_path: Path) -> None:
    (tmp_path / "x.j2").write_text("x")
    section = '[template.x]\nsource = "x.j2"\ndestination = "x"\n'
    section += '[template.y]\nsource = "x.j2"\ndestination = "y"\nparts = ["*"]\n'
    async with keeping(tmp_path, section, web("n1", 1), parts=("web",)) as world:
        await world.until((tmp_path / "y").exists, "every node writes y")
        assert not (tmp_path / "x").exists()
    (tmp_path / "y").unlink()
    async with keeping(tmp_path, section) as world:
        await world.until(lambda: world.templates is not None, "it runs")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("source", "check", "words"),
    [
        ("{{ nobody }}", "", "x.j2, line 1: 'nobody' is undefined"),
        ("a\n{{ members[0].nothing }}", "", "line 2: "),
        ("{% if %}", "", "line 1: Expected an expression"),
        ("text", "false", "false ended with status 1"),
        ("text", "/no/such/program", "/no/such/program cannot be run: No such file or directory"),
        ("text", "sh -c 'echo not good; exit 3'", "sh ended with status 3: not good"),
    ],
)
async def test_what_is_wrong_is_told_and_the_last_good_file_stays(
    tmp_path: Path, source: str, check: str, words: str
) -> None:
    (tmp_path / "x.j2").write_text(source)
    (tmp_path / "x").write_text("good")
    (tmp_path / "other.j2").write_text("{{ members | length }}")
    section = f'[template.x]\nsource = "x.j2"\ndestination = "x"\ncheck = "{check}"\n'
    section += '[template.z]\nsource = "other.j2"\ndestination = "z"\n'
    async with keeping(tmp_path, section, web("n1", 1)) as world:
        await world.until(lambda: "template_refused" in world.kinds, "it is refused")
        assert words in next(record.cause for record in world.records if record.kind == "template_refused")
        assert (tmp_path / "x").read_text() == "good"
        await world.until((tmp_path / "z").exists, "the others go on")
        world.see(web("n1", 1), web("n2", 2))
        await world.until(lambda: (tmp_path / "z").read_text() == "2", "the others go on")
        assert world.kinds.count("template_refused") == 1
        (tmp_path / "x.j2").write_text("mended")
        world.config = load(tmp_path / "rumor.toml", environ={}, overrides={("template", "x", "check"): "true"})
        world.see(web("n1", 1))
        await world.until(lambda: (tmp_path / "x").read_text() == "mended", "a mended one is used")


async def test_a_reload_that_failed_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "x.j2").write_text("text")
    section = f'[template.x]\nsource = "x.j2"\ndestination = "x"\nreload = "test -e {tmp_path}/ready"\n'
    async with keeping(tmp_path, section, web("n1", 1)) as world:
        await world.until(lambda: "template_refused" in world.kinds, "the reload failed")
        assert (tmp_path / "x").read_text() == "text"
        (tmp_path / "ready").touch()
        assert world.templates is not None
        world.templates.wake()
        await world.until(lambda: world.templates is not None and world.templates.states[0].error == "", "it did not")


async def test_a_reload_that_a_killed_agent_owed_is_done_by_the_next_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "x.j2").write_text("text")
    command = f"sh -c 'test -e {tmp_path}/ready && echo >> {tmp_path}/done'"
    section = f'[template.x]\nsource = "x.j2"\ndestination = "x"\nreload = "{command}"\n'
    async with keeping(tmp_path, section, web("n1", 1)) as world:
        await world.until(lambda: "template_refused" in world.kinds, "the reload failed")
    (tmp_path / "ready").touch()
    for _ in range(2):
        async with keeping(tmp_path, section, web("n1", 1)) as world:
            await world.until(lambda: world.templates is not None and bool(world.templates.states), "it has looked")
        assert (tmp_path / "done").read_text() == "\n"


async def test_tags_are_free_text_and_the_filters_hold_them(tmp_path: Path) -> None:
    hostile = 'x"; rm -rf /\n$(reboot)'
    (tmp_path / "ok.j2").write_text("{{ members[0].tags | json }}\n")
    (tmp_path / "word.j2").write_text("{{ members[0].tags.note | word }}")
    (tmp_path / "shell.j2").write_text("{{ members[0].tags.note | shell }}")
    (tmp_path / "bare.j2").write_text("{{ members[0].tags.note }}")
    (tmp_path / "joined.j2").write_text("{{ 'x' ~ members[0].tags.note }}")
    (tmp_path / "listed.j2").write_text("{% for tag in members[0].tags %}{{ tag }}{% endfor %}")
    (tmp_path / "asked.j2").write_text("{{ 'yes' if members[0].tags['note'].startswith('x') else 'no' }}")
    names = ("ok", "word", "shell", "bare", "joined", "listed", "asked")
    section = "".join(f'[template.{name}]\nsource = "{name}.j2"\ndestination = "{name}"\n' for name in names)
    async with keeping(tmp_path, section, member("n1", 1, {"note": hostile})) as world:
        await world.until(lambda: world.kinds.count("template_refused") == 5, "five refuse")
        await world.until((tmp_path / "asked").exists, "to look at one is allowed")
        assert (tmp_path / "asked").read_text() == "yes"
        assert json.loads((tmp_path / "ok").read_text()) == {"note": hostile}
        assert not {"word", "shell", "bare", "joined", "listed"} & set(os.listdir(tmp_path))


# --- the examples, read by the programs they are for


def example(name: str, directory: Path, *members: Member, node: str = "lb-1") -> Path:
    (directory / "rumor.toml").write_text(SERVICES)
    config = load(directory / "rumor.toml", environ={})
    text = render_file(name, (EXAMPLES / name).read_text(), picture(config, node, members))
    path = directory / name.removesuffix(".j2")
    path.write_text(text)
    return path


MEMBERS = (
    web("n1", 1), web("n2", 2, "3000;backup=1"), balancer("lb-1", 11), balancer("lb-2", 12),
    member("gone", 5, status=MemberStatus.FAILED),
)  # fmt: skip


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_nginx_takes_its_upstreams(tmp_path: Path) -> None:
    program = require_program("nginx", "nginx-light")
    path = example("nginx.conf.j2", tmp_path, *MEMBERS)
    assert "server 10.0.0.2:3000 weight=100 backup;" in path.read_text()
    path.write_text(path.read_text().replace("/run/", f"{tmp_path}/"))
    run(program, "-t", "-c", path, "-e", tmp_path / "error.log")


def test_prometheus_takes_its_targets(tmp_path: Path) -> None:
    program = require_program("promtool", "prometheus")
    path = example("prometheus-targets.json.j2", tmp_path, *MEMBERS)
    groups = json.loads(path.read_text())
    assert groups[1] == {
        "targets": ["10.0.0.1:3000", "10.0.0.2:3000"], "labels": {"service": "web", "cluster": "shop"},
    }  # fmt: skip
    config = tmp_path / "prometheus.yml"
    config.write_text(f"scrape_configs:\n- job_name: shop\n  file_sd_configs:\n  - files: ['{path}']\n")
    assert "SUCCESS" in run(program, "check", "config", config)


@pytest.mark.skipif(os.geteuid() != 0, reason="keepalived checks its configuration as root alone")
def test_keepalived_takes_its_peers_and_each_balancer_has_its_own_priority(tmp_path: Path) -> None:
    program, unshare = require_program("keepalived", "keepalived"), require_program("unshare", "util-linux")
    require_program("ip", "iproute2")
    priorities = []
    for node, other in (("lb-1", "10.0.0.12"), ("lb-2", "10.0.0.11")):
        path = example("keepalived.conf.j2", tmp_path, *MEMBERS, node=node)
        text = path.read_text()
        priorities.append(int(text.split("priority ")[1].split()[0]))
        assert other in text.split("unicast_peer")[1]
        # It wants the interface to be there: one of a network namespace's own.
        check = f"{program} --config-test --use-file {path} --log-console --dont-fork"
        run(unshare, "-n", "sh", "-c", f"ip link add eth0 type veth peer name other0 && {check}")
    assert priorities[0] > priorities[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can put another /etc/hosts in place")
def test_the_resolver_finds_members_by_the_hosts_file(tmp_path: Path) -> None:
    unshare = require_program("unshare", "util-linux")
    path = example("hosts.j2", tmp_path, *MEMBERS)
    assert "gone" not in path.read_text()
    said = run(unshare, "-m", "sh", "-c", f"mount --bind {path} /etc/hosts && getent hosts n2.shop")
    assert said.split()[0] == "10.0.0.2"


# --- rumor render


def test_render_prints_compares_and_says_what_is_wrong(tmp_path: Path, free_port: Callable[[], int]) -> None:
    (tmp_path / "nodes.j2").write_text("{% for m in members %}{{ m.name }} {{ m.host }}\n{% endfor %}")
    (tmp_path / "bad.j2").write_text("one\n{{ membrs }}")
    (tmp_path / "rumor.toml").write_text(
        f'[cluster]\nbind = "127.0.0.1:{free_port()}"\n[service.web]\nport = {free_port()}\n'
        '[template.nodes]\nsource = "nodes.j2"\ndestination = "nodes"\nparts = ["web"]\n'
    )
    command = [sys.executable, "-m", "rumor"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, "agent", "web", "--node", "web-1", "--data", ".rumor"], cwd=tmp_path, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait_for(file: Path, text: str, *, count: int = 1) -> None:
        end = time.monotonic() + 20
        while file.read_text().count(text) < count:
            assert time.monotonic() < end, f"{text!r} comes: {file.read_text()}"
            time.sleep(0.05)

    agent = start()

    def rumor(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
            env={**os.environ, "RUMOR_NODE": "web-1"},
        )  # fmt: skip

    try:
        end = time.monotonic() + 20
        while not (tmp_path / "nodes").exists():
            assert time.monotonic() < end, "the agent renders its file"
            time.sleep(0.05)
        assert rumor("render", "nodes").stdout == "web-1 127.0.0.1\n" == (tmp_path / "nodes").read_text()
        assert rumor("render", "nodes", "--diff").returncode == 0
        (tmp_path / "nodes").with_name("old").write_text("web-0 127.0.0.9\n")
        differs = rumor("render", "nodes", "--diff", "--out", "old")
        assert differs.returncode == 1
        assert "-web-0 127.0.0.9\n+web-1 127.0.0.1\n" in differs.stdout
        assert rumor("render", "nodes.j2", "--out", "new").stdout == "wrote new\n"
        assert (tmp_path / "new").read_text() == "web-1 127.0.0.1\n"
        bad = rumor("render", "bad.j2")
        assert (bad.returncode, bad.stderr) == (1, "error: template bad.j2, line 2: 'membrs' is undefined\n")
        assert "did you mean nodes?" in rumor("render", "node").stderr
        said = tmp_path / "watch.err"
        with said.open("w") as errors:
            watching = subprocess.Popen(
                [*command, "render", "nodes", "--watch", "--out", "seen"], cwd=tmp_path, stdout=subprocess.DEVNULL,
                stderr=errors, env={**os.environ, "RUMOR_NODE": "web-1"},
            )  # fmt: skip
        try:
            while not (tmp_path / "seen").exists():
                assert time.monotonic() < end + 20, "it writes"
                time.sleep(0.05)
            (tmp_path / "nodes.j2").write_text("changed\n")
            while (tmp_path / "seen").read_text() != "changed\n":
                assert time.monotonic() < end + 30, "it writes anew"
                time.sleep(0.05)
            # A template that is being written is broken now and then, and an agent may be started anew.
            (tmp_path / "nodes.j2").write_text("{{ broken")
            wait_for(said, "error: template ")
            (tmp_path / "nodes.j2").write_text("changed\n")
            wait_for(said, "well again")
            agent.kill()
            agent.wait(20)
            wait_for(said, "no agent answers")
            time.sleep(1.2)
            assert said.read_text().count("error: ") == 2, "each error is told once"
            agent = start()
            wait_for(said, "well again", count=2)
            (tmp_path / "nodes.j2").write_text("mended\n")
            wait_for(tmp_path / "seen", "mended")
            assert watching.poll() is None
        finally:
            watching.terminate()
            watching.wait(10)
    finally:
        agent.terminate()
        agent.wait(20)
