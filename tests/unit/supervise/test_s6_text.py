"""The scan directory that s6-svscan gets: each service's files, and how all of it stops."""

import subprocess
from dataclasses import replace
from pathlib import Path

from rumor.model import Seconds
from rumor.supervise.base import Program
from rumor.supervise.s6_text import STOP_SIGNALS, render_scan_directory, render_service, stop_script

APP = Program(
    "web-app", "app", ("/bin/app", "--name", "it's", "$HOME"), Path("/srv/the app"), Path("/log/web-app.log"),
    Path("/exits"), environment={"GREETING": "hello; rm -rf /"}, forgets=("RUMOR_KEY",), stop_wait=Seconds(2.5),
)  # fmt: skip
AGENT = replace(APP, name="agent", command=("/bin/agent",), notifies=True, priority=900, forgets=(), environment={})
HAPROXY = replace(APP, name="haproxy", command=("/bin/haproxy",), stop_signal="USR1", priority=700)


def test_a_service_has_what_s6_wants_to_know() -> None:
    files = render_service(APP)
    assert files["web-app/timeout-kill"][0] == "2500\n"
    assert files["web-app/down-signal"][0] == "SIGTERM\n"
    assert render_service(HAPROXY)["haproxy/down-signal"][0] == "SIGUSR1\n"
    assert "web-app/notification-fd" not in files
    assert render_service(AGENT)["agent/notification-fd"][0] == "3\n"
    assert "web-app/down" not in files
    assert "web-app/down" in render_service(replace(APP, autostart=False))
    assert files["web-app/run"][1] == 0o700, "it holds secrets"


def test_the_command_is_words_and_no_shell_reads_them() -> None:
    run = render_service(APP)["web-app/run"][0].splitlines()
    assert run[-1] == """exec /bin/app --name 'it'"'"'s' '$HOME'"""
    assert "export GREETING='hello; rm -rf /'" in run
    assert run.index("unset RUMOR_KEY") < run.index("export GREETING='hello; rm -rf /'")
    assert "cd '/srv/the app' || exit 1" in run
    assert (
        render_service(replace(APP, user="www"))["web-app/run"][0].splitlines()[-1].startswith("exec s6-setuidgid www ")
    )


def test_every_text_is_a_script_that_a_shell_can_read() -> None:
    for name, (text, mode) in render_scan_directory((APP, AGENT, HAPROXY), Path("/run/a scan")).items():
        if mode & 0o100:
            done = subprocess.run(["/bin/sh", "-n"], input=text, text=True, capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), name


def test_the_agent_is_stopped_and_waited_for_before_the_others() -> None:
    files = render_scan_directory((APP, AGENT, HAPROXY), Path("/run/scan"))
    for signal in STOP_SIGNALS:
        lines = files[stop_script(signal)][0].splitlines()
        orders = [line for line in lines if line.startswith("s6-")]
        assert lines[-2:] == ['for log in */log; do s6-svc -dx "$log" 2> /dev/null; done', "exit 0"], "one at a time"
        assert orders[:6] == [
            "s6-svc -d agent", "s6-svwait -D -t 3500 agent",
            "s6-svc -d haproxy", "s6-svwait -D -t 3500 haproxy",
            "s6-svc -d web-app", "s6-svwait -D -t 3500 web-app",
        ]  # fmt: skip
        assert orders[6:] == ["s6-svscanctl -t ."]


def finish(directory: Path, program: Program, status: str, signal: str) -> str:
    """Run a service's finish script with a fake s6-svstat; return what it wrote of the end."""
    (directory / "bin").mkdir(exist_ok=True)
    (directory / "bin" / "s6-svstat").write_text("#!/bin/sh\necho true\n")
    (directory / "bin" / "s6-svstat").chmod(0o755)
    subprocess.run(
        ["/bin/sh", "-c", render_service(program)[f"{program.name}/finish"][0], "finish", status, signal],
        cwd=directory, env={"PATH": f"{directory}/bin:/usr/bin:/bin"}, check=True,
    )  # fmt: skip
    return (program.exits / program.name).read_text()


def test_pauses_grow_with_each_end_up_to_the_longest(tmp_path: Path) -> None:
    program = replace(APP, exits=tmp_path / "exits", longest_pause=Seconds(5.0))
    words = [finish(tmp_path, program, "256", "9").split() for _ in range(5)]
    assert [entry[1:5] for entry in words] == [
        ["256", "9", str(number), pause] for number, pause in enumerate(["1", "2", "4", "5", "5"], start=1)
    ]


def test_an_end_after_a_minute_of_running_is_the_first_again(tmp_path: Path) -> None:
    program = replace(APP, exits=tmp_path / "exits")
    for _ in range(3):
        finish(tmp_path, program, "1", "0")
    (tmp_path / "started").write_text("0\n")
    assert finish(tmp_path, program, "1", "0").split()[3:5] == ["1", "1"]
