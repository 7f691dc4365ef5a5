"""The house rules a machine can hold: imports point down, no cycles, thinking files do not act, nodes stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}

# Lower may not import higher; equals may not import one another unless they are the same package.
FLOORS: dict[str, int] = {
    "model": 0, "names": 0, "offers": 0, "errors": 0, "log": 0, "places": 0, "api_client": 0,
    "atomic_file": 0,
    "swim": 1,
    "serf": 2,
    "joiner": 3,
    "sources": 4, "pool": 4, "render": 4, "haproxy": 4, "supervise": 4, "checks": 4, "journal": 4, "web": 4,
    "config": 5,
    "agent": 6,
    "host": 7,
    "local": 8,
    "demo": 9, "deploy": 9,
    "cli": 10, "__main__": 11,
}  # fmt: skip

ACTING_LIBRARIES = {
    "asyncio",
    "socket",
    "subprocess",
    "sqlite3",
    "random",
    "time",
    "threading",
    "selectors",
    "signal",
    "os",
}
THINKING = {
    "model", "names", "offers", "errors", "config.lines", "config.values", "config.services", "config.traffic",
    "config.templates", "config.programs", "config.environment",
    "config.rumor_toml", "swim.messages", "swim.codec", "swim.presets",
    "swim.membership", "swim.suspicion", "swim.probe", "swim.awareness", "swim.broadcast", "swim.events",
    "swim.scenario", "swim.fields", "swim.lzw", "swim.sealing", "swim.wire", "swim.delegate", "swim.node",
    "swim.simulation", "serf.tags", "serf.messages", "serf.codec", "serf.lamport", "serf.coordinate", "serf.events",
    "serf.members", "serf.ring", "serf.queries", "serf.keys", "serf.layer", "serf.stream", "serf.rpc", "sources.base",
    "sources.gossip", "pool.table", "pool.evidence", "render.settings", "render.template",
    "render.sandbox", "render.words", "render.file", "render.free_text", "haproxy.replies",
    "haproxy.config_text", "haproxy.steps", "haproxy.plan", "checks.outcome", "checks.answer",
    "supervise.base", "supervise.backoff", "supervise.exits",
    "supervise.s6_text", "supervise.systemd_text", "supervise.systemd_words", "supervise.supervisord_log", "web.views",
    "haproxy.parts", "haproxy.binds", "haproxy.refusals", "haproxy.idle", "pool.split", "pool.damping",
    "agent.debounce", "agent.peers", "agent.picture", "agent.drain", "agent.endings", "agent.settings",
    "agent.balancer_settings",
    "local.plan", "host.plan", "deploy.engine", "deploy.report", "deploy.docker_like",
    "demo.verdict", "demo.report",
}  # fmt: skip


def floor(module: str) -> int | None:
    return FLOORS.get(module.removeprefix("rumor").lstrip(".").split(".")[0])


def imports(module: str, *, also_late: bool = True) -> set[str]:
    tree = ast.parse(MODULES[module].read_text())
    nodes = ast.walk(tree) if also_late else tree.body
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: write imports in full"
            found.add(node.module)
            found |= {name for alias in node.names if (name := f"{node.module}.{alias.name}") in MODULES}
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if name != "rumor"])
def test_every_module_has_its_floor_and_a_door_plate(module: str) -> None:
    assert floor(module) is not None, f"{module}: say on which floor of the import ladder it lives"
    path = MODULES[module]
    if path.name != "__init__.py" or path.stat().st_size:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{module} opens without a docstring"


@pytest.mark.parametrize("module", [name for name in MODULES if name != "rumor"])
def test_imports_point_down(module: str) -> None:
    here = floor(module)
    assert here is not None
    for target in imports(module):
        there = floor(target) if target.startswith("rumor.") else None
        if there is None or target.split(".")[1] == module.split(".")[1]:
            continue
        # The shared nouns on the ground floor lean on one another.
        assert there < here or here == 0, f"{module} imports {target}, which is not below it"


def test_there_is_no_import_cycle() -> None:
    edges = {name: {target for target in imports(name) if target in MODULES and target != name} for name in MODULES}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in edges[name]:
                walk(target, (*path, name))
            done.add(name)

    for name in MODULES:
        walk(name, ())


@pytest.mark.parametrize("module", sorted(THINKING))
def test_a_file_that_thinks_does_not_act(module: str) -> None:
    acting = {name for name in imports(f"rumor.{module}") if name.split(".")[0] in ACTING_LIBRARIES}
    # A Random is handed in as an argument; its type may be named. The names of signals are facts, not deeds.
    allowed = {"random"} if module.startswith(("swim.", "serf.")) else set()
    allowed |= {"signal"} if module.startswith("supervise.") else set()
    assert acting <= allowed, f"{module} thinks, so it must not import {acting - allowed}"


@pytest.mark.parametrize("heavy", ["jinja2", "aiohttp", "prometheus_client", "rich", "structlog", "cryptography"])
def test_an_agent_that_plays_no_balancer_does_not_load(heavy: str) -> None:
    program = (
        "import sys, rumor.cli.main, rumor.agent.run, rumor.agent.membership, rumor.agent.offering;"
        f"sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0
