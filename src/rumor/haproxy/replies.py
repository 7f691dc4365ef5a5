"""HAProxy's replies as values: processes, the outcome of a reload, servers and their statistics.

Read by header, since columns differ between versions. Facts: reference/haproxy.md, sections 1 to 5.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rumor.errors import PeerError, Refused
from rumor.model import Rotation, ServerObservation
from rumor.names import HostPort, parse_ip, parse_member_name, parse_port, parse_service_name

_ADMIN_MAINT = 1 | 2 | 4 | 32
_ADMIN_DRAIN = 8 | 16
_ROWS_LIMIT = 100_000
_NOT_UP = re.compile(r"L[467](TOUT|CON|RSP|STS)|SOCKERR|PROCERR|PROCTOUT")


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes behind one master socket."""

    master_pid: int
    worker_pid: int | None
    old_workers: int
    reloads: int


def parse_processes(reply: str) -> Processes:
    """Parse `show proc`.

    Raises:
        Refused: no master is named in it.
    """
    master = worker = None
    old_workers = reloads = 0
    part = ""
    for line in reply.splitlines():
        if line.startswith("#"):
            part = line
            continue
        words = line.split()
        if len(words) < 3 or not words[0].isdigit():
            continue
        if words[1] == "master":
            master, reloads = int(words[0]), int(words[2])
        elif words[1] == "worker" and "old workers" not in part:
            worker = int(words[0])
        elif words[1] == "worker":
            old_workers += 1
    if master is None:
        raise Refused(f"HAProxy's `show proc` names no master: {reply[:200]!a}")
    return Processes(master, worker, old_workers, reloads)


def parse_reload(reply: str) -> str:
    """Return HAProxy's words against a reload, empty if it succeeded (2.8 and newer say so)."""
    success, _, words = reply.strip().partition("\n")
    if success.strip() == "Success=1":
        return ""
    return words.removeprefix("--").strip()[:4096] or f"the reload failed: {success[:200]!a}"


def parse_variable(reply: str) -> str:
    """Return the text of a variable from `get var`, empty if it is not set."""
    match = re.search(r"type=str value=<([^>]*)>", reply)
    return match[1] if match else ""


def parse_info(reply: str) -> dict[str, str]:
    """Return `show info` as names and values."""
    return dict(line.split(": ", 1) for line in reply.splitlines() if ": " in line)


def parse_servers(state: str, stat: str) -> tuple[ServerObservation, ...]:
    """Join `show servers state` (address, administration, weight) with `show stat` (check, sessions).

    Servers whose names are not ours to give are left out: somebody else's business.

    Raises:
        Refused: a reply is not of the form HAProxy 2.8 and newer give.
    """
    statistics = {(row["pxname"], row["svname"]): row for row in _stat_rows(stat)}
    found = []
    for row in _state_rows(state):
        key = row["be_name"], row["srv_name"]
        try:
            service, server = parse_service_name(key[0]), parse_member_name(key[1])
            address = HostPort.of(parse_ip(row["srv_addr"]), parse_port(row["srv_port"]))
        except PeerError:
            continue
        admin, numbers = _number(row["srv_admin_state"]), statistics.get(key, {})
        is_maint, is_drain = bool(admin & _ADMIN_MAINT), bool(admin & _ADMIN_DRAIN)
        rotation = Rotation.MAINT if is_maint else Rotation.DRAIN if is_drain else Rotation.READY
        check, status = numbers.get("check_status", "").removeprefix("* "), numbers.get("status", "")
        found.append(
            ServerObservation(
                service=service,
                server=server,
                address=address,
                rotation=rotation,
                is_up=_is_up(rotation, check, status),
                check=check,
                status=status,
                weight=_number(row["srv_uweight"]),
                sessions=_number(numbers.get("scur", "")) + _number(numbers.get("qcur", "")),
                sessions_total=_number(numbers.get("stot", "")),
                connect_errors=_number(numbers.get("econ", "")),
                response_errors=_number(numbers.get("eresp", "")),
            )
        )
    return tuple(sorted(found, key=lambda entry: (entry.service, entry.server)))


def filter_state(state: str, wanted: dict[tuple[str, str], HostPort]) -> str:
    """Return the server state file for a reload: only servers that keep the address the new revision gives them.

    HAProxy lets address and port in this file win over haproxy.cfg, so a stale line would send requests astray.
    """
    lines = state.strip().splitlines()
    kept = lines[:2]
    for line, row in zip(lines[2:], _state_rows(state), strict=False):
        address = wanted.get((row["be_name"], row["srv_name"]))
        if address is not None and (row["srv_addr"], row["srv_port"]) == (address.host, str(address.port)):
            kept.append(line)
    return "\n".join(kept) + "\n"


def _is_up(rotation: Rotation, check: str, status: str) -> bool | None:
    """Say what HAProxy's own check found; nothing is checked in maintenance."""
    if rotation is Rotation.MAINT:
        return None
    if status.startswith("DOWN") or _NOT_UP.fullmatch(check):
        return False
    if check.endswith("OK") or (status.startswith(("UP", "DRAIN")) and check not in ("", "INI", "UNK")):
        return True
    return None


def _state_rows(reply: str) -> Iterator[dict[str, str]]:
    lines = reply.strip().splitlines()
    if len(lines) < 2 or lines[0].strip() != "1" or not lines[1].startswith("# "):
        raise Refused(f"HAProxy's `show servers state` has an unknown form: {reply[:200]!a}")
    columns = lines[1][2:].split()
    for line in lines[2 : 2 + _ROWS_LIMIT]:
        words = line.split(" ")
        if len(words) >= len(columns):
            yield dict(zip(columns, words, strict=False))


def _stat_rows(reply: str) -> Iterator[dict[str, str]]:
    text = reply.strip()
    if not text.startswith("# pxname,"):
        raise Refused(f"HAProxy's `show stat` has an unknown form: {reply[:200]!a}")
    for number, row in enumerate(csv.DictReader(text[2:].splitlines())):
        if number >= _ROWS_LIMIT:
            return
        yield {key: value or "" for key, value in row.items() if key is not None}


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
