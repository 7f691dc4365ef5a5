"""The command line as a user meets it: by subprocess, with exit status and words, and never a traceback."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

GOOD = '[balancer]\nbind = "127.0.0.1:{port}"\n\n[service.web]\nport = 3000\n'


def rumor(*words: str, cwd: Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "rumor", *words],
        cwd=cwd, capture_output=True, text=True, timeout=40, check=False, env={**os.environ, **(environ or {})},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_help_lists_every_command(tmp_path: Path) -> None:
    done = rumor("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in (
        "agent",
        "up",
        "down",
        "demo",
        "members",
        "table",
        "config",
        "validate",
        "init",
        "doctor",
        "version",
    ):
        assert f"\n  {command} " in done.stdout


def test_version(tmp_path: Path) -> None:
    assert rumor("version", cwd=tmp_path).stdout.startswith("rumor 0.")
    assert rumor("--version", cwd=tmp_path).stdout == rumor("version", cwd=tmp_path).stdout


def test_an_unknown_command_is_wrong_usage(tmp_path: Path) -> None:
    assert rumor("no-such-command", cwd=tmp_path).returncode == 2


def test_what_init_writes_validates_and_is_not_overwritten(tmp_path: Path) -> None:
    assert rumor("init", cwd=tmp_path).returncode == 0
    assert rumor("validate", cwd=tmp_path).stdout == "rumor.toml: right (services: web)\n"
    again = rumor("init", cwd=tmp_path)
    assert (again.returncode, "--force" in again.stderr) == (2, True)


def test_an_unknown_key_is_named_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "rumor.toml").write_text("[service.web]\nprot = 3000\n")
    for words in (("validate",), ("agent", "web"), ("up",)):
        done = rumor(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "error: rumor.toml, line 2: service.web.prot: unknown key; did you mean port?\n"


def test_validate_in_json(tmp_path: Path) -> None:
    (tmp_path / "rumor.toml").write_text(GOOD.format(port=8080))
    value = json.loads(rumor("validate", "-format", "json", cwd=tmp_path).stdout)
    assert value == {"file": "rumor.toml", "ok": True, "services": ["web"], "warnings": []}


@pytest.mark.parametrize("command", [["members"], ["table"], ["config", "history"], ["health"]])
def test_without_an_agent_the_answer_says_what_to_start(tmp_path: Path, command: list[str]) -> None:
    done = rumor(*command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "start `rumor up` or `rumor agent`" in done.stderr


def test_an_api_that_nobody_serves_is_a_clear_error(tmp_path: Path, free_port: Callable[[], int]) -> None:
    done = rumor("members", "--api", f"http://127.0.0.1:{free_port()}", cwd=tmp_path)
    assert done.returncode == 1
    assert "no agent answers at http://127.0.0.1" in done.stderr


def test_up_with_nothing_to_run_is_wrong_usage(tmp_path: Path) -> None:
    done = rumor("up", cwd=tmp_path)
    assert done.returncode == 2
    assert "--app" in done.stderr


def test_config_check_gives_haproxys_own_words(tmp_path: Path) -> None:
    (tmp_path / "good.cfg").write_text(
        "defaults\n    mode http\n    timeout client 1s\nlisten web\n    bind 127.0.0.1:8080\n"
    )
    assert rumor("config", "check", "good.cfg", cwd=tmp_path).returncode == 0
    (tmp_path / "bad.cfg").write_text("defaults\n    mode htp\n")
    done = rumor("config", "check", "bad.cfg", cwd=tmp_path)
    assert done.returncode == 1
    assert "unknown proxy mode 'htp'" in done.stdout


def test_config_check_renders_a_template(tmp_path: Path) -> None:
    (tmp_path / "broken.j2").write_text("global\n{{ nobody_knows_this }}\n")
    done = rumor("config", "check", "broken.j2", "--format", "json", cwd=tmp_path)
    value = json.loads(done.stdout)
    assert (done.returncode, value["ok"]) == (1, False)
    assert "nobody_knows_this" in value["words"]


def test_doctor_names_what_is_there_and_what_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "rumor.toml").write_text(GOOD.format(port=port))
        done = rumor("doctor", "--format", "json", cwd=tmp_path)
    value = json.loads(done.stdout)
    findings = {finding["what"]: finding for finding in value["findings"]}
    assert findings["HAProxy"]["ok"] is True
    assert findings["balancer.bind"]["ok"] is False
    assert (done.returncode, value["ok"]) == (1, False)


def test_a_missing_haproxy_is_named_with_what_to_install(tmp_path: Path, free_port: Callable[[], int]) -> None:
    (tmp_path / "rumor.toml").write_text(GOOD.format(port=free_port()))
    environ = {"RUMOR_HAPROXY": str(tmp_path / "nowhere")}
    bind = f"127.0.0.1:{free_port()}"
    for words in (("agent", "balancer", "--node", "lb", "--bind", bind), ("up", "--app", "sleep 9")):
        done = rumor(*words, cwd=tmp_path, environ=environ)
        assert done.returncode == 2
        assert "pip install 'rumor[haproxy]'" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody"], "there is no [service.nobody]"),
        (["web", "--node", "we b"], "--node: member name 'we b' is refused"),
        (["web", "--bind", "nonsense:port"], "cluster.bind"),
        (["web", "--port", "web"], "--port wants SERVICE=PORT"),
        (["web", "--set", "service.web.port"], "--set wants KEY=VALUE"),
        (["web", "--join", "a b"], "cluster.join"),
    ],
)
def test_an_agent_told_nonsense_says_so(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "rumor.toml").write_text(GOOD.format(port=8080))
    done = rumor("agent", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_gossip_port_that_is_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "rumor.toml").write_text(GOOD.format(port=8080))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        done = rumor("agent", "web", "--node", "web-1", "--bind", bind, cwd=tmp_path)
    assert done.returncode == 2
    assert bind in done.stderr


def test_a_join_address_that_never_answers_is_a_warning_and_the_agent_goes_on(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    (tmp_path / "rumor.toml").write_text(GOOD.format(port=8080))
    nobody = f"127.0.0.1:{free_port()}"
    log = tmp_path / "agent.log"
    with log.open("w") as output:
        agent = subprocess.Popen(
            [sys.executable, "-m", "rumor", "agent", "web", "--node", "web-1", "--bind", f"127.0.0.1:{free_port()}",
             "--join", nobody],
            cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while f"join_failed address={nobody}" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        assert agent.poll() is None
        assert json.loads(rumor("members", "--format", "json", cwd=tmp_path).stdout)["members"][0]["name"] == "web-1"
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(20) == 0
    finally:
        if agent.poll() is None:
            agent.kill()
            agent.wait(10)


def test_the_reader_of_a_pipe_may_leave(tmp_path: Path) -> None:
    command = f"{sys.executable} -m rumor --help | head -n 1"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def checked(directory: Path, *words: str) -> tuple[bool, str]:
    done = rumor("config", "check", *words, "--format", "json", cwd=directory)
    value = json.loads(done.stdout)
    assert (done.returncode == 0) == value["ok"]
    return value["ok"], value["words"]


BUILT_IN = (Path(__file__).parents[2] / "src" / "rumor" / "render" / "haproxy.cfg.j2").read_text()


@pytest.mark.parametrize("has_services", [True, False])
def test_config_check_renders_server_lines_too(tmp_path: Path, has_services: bool) -> None:
    if has_services:
        (tmp_path / "rumor.toml").write_text("[service.web]\nport = 3000\n")
    (tmp_path / "good.j2").write_text(BUILT_IN)
    assert checked(tmp_path, "good.j2") == (True, "")
    (tmp_path / "nonsense.j2").write_text(BUILT_IN.replace("weight {{", "wieght {{ nonsense }} {{"))
    assert checked(tmp_path, "nonsense.j2")[0] is False
    (tmp_path / "broken.j2").write_text(BUILT_IN.replace("weight {{", "wieght {{"))
    ok, said = checked(tmp_path, "broken.j2")
    assert ok is False
    assert "unknown keyword 'wieght'" in said
    # The text is nowhere to be seen, so the line is.
    assert re.search(r"^    line \d+: server sample-ready 192\.0\.2\.1:\d+ wieght 100 check ", said, re.MULTILINE), said


@pytest.mark.parametrize(("old", "new"), [(" backup", " bakcup"), (" disabled", " disbaled")])
def test_config_check_has_a_sample_of_every_kind_of_server(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "broken.j2").write_text(BUILT_IN.replace(old, new))
    ok, said = checked(tmp_path, "broken.j2")
    assert (ok, f"unknown keyword '{new.strip()}'" in said) == (False, True)


@pytest.mark.parametrize(
    "raw",
    [
        '[service.web.raw]\nserver = "bogus yes"', '[service.web.raw]\nbackend = "bogus yes"',
        '[balancer.raw]\nfrontend = "bogus yes"', '[balancer.raw]\nsections = "ring x\\n    bogus yes"',
    ],
)  # fmt: skip
@pytest.mark.parametrize("words", [(), ("rumor.toml",)])
def test_config_check_without_a_file_checks_what_rumor_toml_renders(
    tmp_path: Path, raw: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "rumor.toml").write_text(f"[service.web]\nport = 3000\n{raw}\n")
    ok, said = checked(tmp_path, *words)
    assert ok is False
    assert re.search(r"^    line \d+: .*bogus yes", said, re.MULTILINE), said
    (tmp_path / "rumor.toml").write_text(
        '[balancer]\nbind = ":8080"\npeers = ":8765"\n[service.web]\n[service.api]\nroute = { path = "/api" }\n'
    )
    assert checked(tmp_path, *words) == (True, "")


def test_config_check_without_any_file_is_wrong_usage(tmp_path: Path) -> None:
    done = rumor("config", "check", cwd=tmp_path)
    assert (done.returncode, "there is no ./rumor.toml" in done.stderr) == (2, True)


def test_config_check_names_certificates_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "shop.pem").write_text("no certificate")
    (tmp_path / "rumor.toml").write_text(
        '[balancer]\nbind = ":8080"\n[balancer.tls]\nbind = ":8443"\ncertificates = "certs"\n[service.web]\n'
    )
    ok, said = checked(tmp_path)
    assert (ok, said.startswith("certificate shop would not be used: ")) == (False, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.cfg", "cannot read no.cfg: No such file"), ("no.j2", "cannot read the template no.j2: No such file"),
        ("no.toml", "no.toml"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_is_called_what_it_is(tmp_path: Path, name: str, words: str) -> None:
    done = rumor("config", "check", name, cwd=tmp_path)
    assert (done.returncode, words in done.stderr, "Errno" in done.stderr) == (2, True, False), done.stderr
