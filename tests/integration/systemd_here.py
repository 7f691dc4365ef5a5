"""A systemd of its own: the real one, first process of namespaces that share nothing with this machine but the kernel.

It sees this machine's files through an overlay, so what it writes is gone with it; one directory is shared. Only root
can make it, and a kernel that refuses one of its mounts makes its tests skip. It starts no unit of this machine's: a
handful of targets and the journal are all that it knows.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.conftest import require_program, tested_haproxy

ROOT = Path(__file__).parents[2]
_DEADLINE = 30.0
_POLL = 0.05
_UNITS = "/etc/systemd/system:/run/systemd/system:/units"

# Arguments: a directory for all of this, then paths that the user `rumor` must reach.
_ENTER = r"""
set -eu
here=$1; shift
mkdir "$here/root"
mount -t tmpfs tmpfs "$here/root"
mkdir "$here/root/upper" "$here/root/work" "$here/root/new"
mount -t overlay overlay -o "lowerdir=/,upperdir=$here/root/upper,workdir=$here/root/work" "$here/root/new"
cd "$here/root/new"
for path; do
    while [ "$path" != / ]; do chmod o+x ".$path"; path=$(dirname "$path"); done
done
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for place in run var/log etc/systemd/system dev; do mkdir -p $place; mount -t tmpfs -o mode=0755 tmpfs $place; done
for node in null zero full random urandom tty; do : > dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/shm dev/pts units run/old
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mkdir -p ".$here/shared"
mount --bind "$here/shared" ".$here/shared"
for target in sysinit basic shutdown network-online multi-user; do
    printf '[Unit]\nDefaultDependencies=no\n' > units/$target.target
done
printf 'Wants=systemd-journald.socket systemd-journald-dev-log.socket\n' >> units/sysinit.target
printf 'Requires=sysinit.target\nAfter=sysinit.target\n' >> units/basic.target
printf 'Requires=basic.target\nAfter=basic.target\n' >> units/multi-user.target
cp lib/systemd/system/systemd-journald.service lib/systemd/system/systemd-journald.socket \
    lib/systemd/system/systemd-journald-dev-log.socket units
ip link set lo up
pivot_root . run/old
umount -l /run/old
exec env -i container=lxc PATH="$PATH" SYSTEMD_UNIT_PATH="$UNITS" SYSTEMD_GENERATOR_PATH=/nowhere \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=journal --show-status=no
"""


class Machine:
    """One systemd that runs, seen from outside."""

    def __init__(self, pid: int, shared: Path) -> None:
        self.shared = shared
        """A directory that is the same inside and outside."""
        self.root = Path(f"/proc/{pid}/root")
        self.enter = ("nsenter", "--target", str(pid), "--all")
        """What comes before a command that is to run inside."""

    def run(self, *command: str | Path, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.enter, *command], capture_output=True, text=True, timeout=timeout, check=False,
            stdin=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def is_alive(self, pid: int) -> bool:
        """Say whether a process of the inside lives, by its number there."""
        try:
            return (self.root / "proc" / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        self.run("kill", f"-{int(number)}", str(pid))

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "--lines=60", check=False).stdout


@contextmanager
def systemd_here() -> Iterator[Machine]:
    """Boot a systemd, and leave nothing of it behind."""
    require_program("systemctl", "systemd")
    require_program("ip", "iproute2")
    if os.geteuid() != 0:
        pytest.skip("only root can boot a systemd in namespaces of its own")
    here = Path(tempfile.mkdtemp(prefix="rumor-systemd-", dir="/run"))
    here.chmod(0o755)
    (here / "shared").mkdir()
    cgroup = _make_cgroup(here.name)
    log = here / "console"
    try:
        with log.open("wb") as console:
            process = _start(here, cgroup, console.fileno())
        try:
            yield Machine(_wait_booted(process, log), here / "shared")
        finally:
            _end(process)
    finally:
        _remove_cgroup(cgroup)
        shutil.rmtree(here, ignore_errors=True)


def _make_cgroup(name: str) -> Path:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if found is None:
        pytest.skip("there is no cgroup2 here, which systemd needs")
    try:
        (found / name).mkdir()
    except OSError as error:
        pytest.skip(f"{found} cannot be written, and systemd needs a cgroup: {error.strerror}")
    return found / name


def _start(here: Path, cgroup: Path, console: int) -> subprocess.Popen[bytes]:
    reach = [ROOT, Path(sys.executable), Path(sys.executable).resolve(), tested_haproxy().path]
    # Whatever becomes of the tests, it does not outlive them.
    unshare = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--net", "--fork", "--kill-child"]
    return subprocess.Popen(
        [
            "sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec setpriv --pdeathsig KILL "$@"', cgroup,
            *unshare, "sh", "-c", _ENTER, "enter", here, *reach,
        ],
        stdin=subprocess.DEVNULL, stdout=console, stderr=console, cwd="/", env={**os.environ, "UNITS": _UNITS},
    )  # fmt: skip


def _wait_booted(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.skip(f"no systemd can be booted here: {log.read_text(errors='replace').strip()[-300:]}")
        for pid in _children(process.pid):
            machine = Machine(pid, log)
            words = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
            if words in ("running", "degraded"):
                return pid
        time.sleep(_POLL)
    pytest.fail(f"systemd was not up within {_DEADLINE:g} s: {log.read_text(errors='replace')[-2000:]}")


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    # The kernel ends all that lives in a namespace of processes with its first one.
    for pid in _children(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    try:
        process.wait(_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove_cgroup(cgroup: Path) -> None:
    deadline = time.monotonic() + _DEADLINE
    while cgroup.exists():
        for path in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                path.rmdir()
        try:
            cgroup.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{cgroup} has processes that do not end"
            time.sleep(_POLL)
