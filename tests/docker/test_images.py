"""The images as layers: what is shared, and what a change builds anew."""

import json
import shutil
import time
import uuid
from pathlib import Path

import pytest
from tests.docker.conftest import ROOT, Engine


def layers(engine: Engine, image: str) -> list[str]:
    found: list[str] = json.loads(engine.run("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return found


@pytest.mark.timeout(60)
def test_a_change_of_the_app_rebuilds_its_layer_alone(images: Engine, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docker" / ".build" / "webapp", tmp_path, dirs_exist_ok=True)
    with (tmp_path / "webapp.py").open("a") as app:
        app.write("\n# Changed.\n")
    name = f"rumor-{uuid.uuid4().hex[:8]}"
    began = time.monotonic()
    images.run("build", "--quiet", "--network", "host", "--tag", name, str(tmp_path))
    took = time.monotonic() - began
    try:
        changed, before = layers(images, name), layers(images, "rumor-webapp")
    finally:
        images.run("image", "rm", "--force", name)
    assert changed[-1] != before[-1]
    assert changed[:-1] == before[:-1] == layers(images, "rumor-base"), "the base is shared, the app is one layer"
    assert took < 5.0


def test_the_balancer_is_the_same_base_and_one_layer_more(images: Engine) -> None:
    assert layers(images, "rumor-balancer")[:-1] == layers(images, "rumor-base")
