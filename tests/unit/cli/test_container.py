"""What `rumor supervise` refuses before it becomes the first process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("node", ["a b", "-web"])
def test_a_name_that_no_member_can_have_says_how_to_mend_it(node: str, tmp_path: Path) -> None:
    (tmp_path / "rumor.toml").write_text("[service.web]\nport = 3000\n")
    words = ["supervise", "web", "--node", node, "--data", str(tmp_path), "--scan-directory", str(tmp_path / "scan")]
    done = subprocess.run(
        [sys.executable, "-m", "rumor", *words],
        env={**os.environ, "RUMOR_FILE": str(tmp_path / "rumor.toml")},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "set RUMOR_NODE" in done.stderr
    assert not (tmp_path / "scan").exists()
