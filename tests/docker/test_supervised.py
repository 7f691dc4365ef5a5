"""What people do with the programs of a container."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.docker.conftest import Engine, Start, wait_for

FILE = """
[service.web]
port = 3000
check = { http = "/health", interval = "500ms", timeout = "300ms" }
command = "python3 /app/webapp.py"
drain = "1s"
"""
WORKER = """
[program.worker]
command = "sleep 1000"
parts = ["web"]
"""


@pytest.fixture
def node(start: Start, network: Callable[..., str], tmp_path: Path) -> str:
    """A web node whose rumor.toml lies on the host."""
    file = tmp_path / "rumor.toml"
    file.write_text(FILE)
    tmp_path.chmod(0o755)
    return start("rumor-webapp", "--network", network(), "--volume", f"{tmp_path}:/etc/rumor")


def ps(engine: Engine, node: str) -> dict[str, dict[str, Any]]:
    text = engine.run("exec", node, "rumor", "ps", "--format", "json", check=False)
    return {program["name"]: program for program in json.loads(text)["programs"]} if text.startswith("{") else {}


@pytest.mark.timeout(300)
def test_programs_of_a_container_are_shown_stopped_started_and_changed(
    images: Engine, node: str, tmp_path: Path
) -> None:
    wait_for(
        lambda: [one["state"] for one in ps(images, node).values()] == ["running"] * 2, lambda: str(ps(images, node))
    )
    before = ps(images, node)
    assert set(before) == {"agent", "web-app"}
    assert "web-app: stopped" in images.run("exec", node, "rumor", "stop", "web-app")
    assert ps(images, node)["web-app"]["state"] == "stopped"
    assert "web-app: running" in images.run("exec", node, "rumor", "start", "web-app")
    assert "web-app: running" in images.run("exec", node, "rumor", "restart", "web-app")
    (tmp_path / "rumor.toml").write_text(FILE + WORKER)
    assert "added: worker" in images.run("exec", node, "rumor", "reload-services")
    wait_for(lambda: ps(images, node)["worker"]["state"] == "running", lambda: str(ps(images, node)))
    agent = ps(images, node)["agent"]["pid"]
    assert agent == before["agent"]["pid"], "what is the same is not touched"
    # The image's environment says the command, the file the rest.
    (tmp_path / "rumor.toml").write_text(FILE + 'environment = { PORT = "nonsense" }\n')
    done = images.run("exec", node, "rumor", "reload-services", "--timeout", "3s", check=False, both=True)
    assert "changing web-app" in done
    assert "is not ready after 3 s" in done
    wait_for(lambda: ps(images, node)["web-app"]["state"] == "backoff", lambda: str(ps(images, node)))
    falling = ps(images, node)["web-app"]
    assert falling["last_exit"]["status"] == 1
    assert any("invalid literal" in line for line in falling["words"])
    assert "invalid literal" in images.run("exec", node, "rumor", "why", node_name(images, node))


def node_name(engine: Engine, node: str) -> str:
    return engine.run("inspect", "--format", "{{.Config.Hostname}}", node)
