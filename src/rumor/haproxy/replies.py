"""HAProxy's replies as values: processes, the outcome of a reload, servers and their statistics.

Tables are read by header, since columns differ between versions. Facts: reference/haproxy.md, sections 1 to 6.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from rumor.errors import PeerError, Refused
from rumor.model import Rotation, ServerObservation
from rumor.names import HostPort, parse_ip, parse_member_name, parse_port, parse_service_name

# 4 is left out: it says only that the file once said `disabled`, and stays when the server is long ready.
_ADMIN_MAINT = 1 | 2 | 32 | 64
_ADMIN_DRAIN = 8 | 16
ROWS_LIMIT = 100_000
_WORDS_LIMIT = 4096
_STAT_COLUMNS = frozenset(
    {"pxname", "svname", "qcur", "scur", "slim", "stot", "econ", "eresp", "status", "check_status"}
)
_NOT_UP = re.compile(r"L[467](TOUT|CON|RSP|STS)|SOCKERR|PROCERR|PROCTOUT")
_LEVELS = ("[ALERT]", "[WARNING]")
_STATE_BEGINS = re.compile(r"^1\n# be_id ", re.MULTILINE)
_STAT_BEGINS = re.compile(r"^# pxname,", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes behind one master socket."""

    master_pid: int
    worker_pid: int | None
    old_worker_pids: tuple[int, ...] = ()
    """Workers that a reload replaced and that still finish their sessions."""
    reloads: int = 0
    version: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """The three answers to one line of commands, apart again."""

    variable: str
    state: str
    stat: str


def parse_processes(reply: str) -> Processes:
    """Parse `show proc`.

    Raises:
        Refused: no master is named in it.
    """
    master = worker = None
    old_workers: list[int] = []
    reloads, version, part = 0, "", ""
    for line in reply.splitlines():
        if line.startswith("#"):
            part = line
            continue
        words = line.split()
        if len(words) < 3 or not words[0].isdigit():
            continue
        if words[1] == "master":
            master, reloads, version = int(words[0]), int(words[2]), words[-1]
        elif words[1] == "worker" and "old workers" not in part:
            worker = int(words[0])
        elif words[1] == "worker":
            old_workers.append(int(words[0]))
    if master is None:
        raise Refused(f"HAProxy's `show proc` names no master: {reply[:200]!a}")
    return Processes(master, worker, tuple(old_workers), reloads, version)


def parse_reload(reply: str) -> str:
    """Return HAProxy's words against a reload, empty if it succeeded (2.8 and newer say so)."""
    success, _, words = reply.strip().partition("\n")
    if success.strip() == "Success=1":
        return ""
    # What stands against it first, its version and path last: whoever shows one line shows what matters.
    said = sorted(filter(str.strip, words.strip().removeprefix("--").splitlines()), key=_rank)
    return "\n".join(said)[:_WORDS_LIMIT] or f"the reload failed: {success[:200]!a}"


def _rank(line: str) -> int:
    return next((rank for rank, level in enumerate(_LEVELS) if line.startswith(level)), len(_LEVELS))


def parse_variable(reply: str) -> str:
    """Return the text of a variable from `get var`, empty if it is not set."""
    match = re.search(r"type=str value=<([^>]*)>", reply)
    return match[1] if match else ""


def split_picture(reply: str) -> Picture:
    """Take the answer to `get var …;show servers state;show stat -1 5 -1` apart.

    By how the tables begin, not by empty lines: those do not end every reply.

    Raises:
        Refused: a table is missing.
    """
    state, stat = _STATE_BEGINS.search(reply), _STAT_BEGINS.search(reply)
    if state is None or stat is None or stat.start() < state.start():
        raise Refused(f"HAProxy's tables of servers have an unknown form: {reply[:200]!a}")
    return Picture(reply[: state.start()], reply[state.start() : stat.start()], reply[stat.start() :])


def parse_servers(state: str, stat: str, old_stats: Iterable[str] = ()) -> tuple[ServerObservation, ...]:
    """Join `show servers state` (address, administration, weight) with `show stat` (check, sessions).

    Servers whose names are not ours to give are left out: somebody else's business.

    Args:
        state: the servers' states.
        stat: their statistics.
        old_stats: the statistics of workers that a reload replaced. Their sessions still run on the same servers, so
            they are counted; nothing else of them is.

    Raises:
        Refused: a reply is not of the form HAProxy 2.8 and newer give.
    """
    statistics = {(row["pxname"], row["svname"]): row for row in _stat_rows(stat)}
    old_sessions = _sum_sessions(old_stats)
    found = []
    for row in _state_rows(state):
        key = row["be_name"], row["srv_name"]
        try:
            service, server = parse_service_name(key[0]), parse_member_name(key[1])
            address = _address(row["srv_addr"], row["srv_port"])
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
                sessions=_sessions(numbers) + old_sessions.get(key, 0),
                sessions_total=_number(numbers.get("stot", "")),
                connect_errors=_number(numbers.get("econ", "")),
                response_errors=_number(numbers.get("eresp", "")),
                limit=_number(numbers.get("slim", "")),
            )
        )
    return tuple(sorted(found, key=lambda entry: (entry.service, entry.server)))


def parse_frontends(stat: str) -> dict[str, str]:
    """Return the status of each frontend in `show stat`: OPEN, PAUSED, STOP, …; one that the file disables has none.

    Raises:
        Refused: the reply is not of the form HAProxy 2.8 and newer give.
    """
    head, *lines = stat.strip().splitlines() or [""]
    rows = "\n".join([head, *(line for line in lines if ",FRONTEND," in line)])
    return {row["pxname"]: row["status"] for row in _stat_rows(rows) if row["svname"] == "FRONTEND"}


def filter_state(state: str, wanted: Mapping[tuple[str, str], HostPort]) -> str:
    """Return the server state file for a reload, in which no server gets a request before its check has passed.

    Only servers that keep the address the new revision gives them are taken over: HAProxy lets address and port in
    this file win over haproxy.cfg, so a stale line would send requests astray. Servers that are new come in drained,
    but only where another server of their backend carries on: unchecked is better than none at all. For the same reason
    nobody stays drained where nobody carries on; the weight and `disabled` of haproxy.cfg hold in any case.

    Args:
        state: the running HAProxy's `show servers state`.
        wanted: the new revision's servers, by backend and name.
    """
    lines = state.strip().splitlines()
    kept: list[tuple[str, bool, str]] = []
    known: set[tuple[str, str]] = set()
    carried_on: dict[str, dict[str, str]] = {}
    for line, row in zip(lines[2:], _state_rows(state), strict=True):
        key = row["be_name"], row["srv_name"]
        address = wanted.get(key)
        if address is not None and _is_at(row, address):
            is_in = not _number(row["srv_admin_state"]) & (_ADMIN_MAINT | _ADMIN_DRAIN)
            kept.append((key[0], is_in, line))
            known.add(key)
            if is_in and row["srv_op_state"] == "2":
                carried_on[key[0]] = row
    columns = lines[1][2:].split()
    written = [*lines[:2], *(line for backend, is_in, line in kept if is_in or backend in carried_on)]
    for key, address in wanted.items():
        if key not in known and key[0] in carried_on:
            words = (
                carried_on[key[0]]
                | _DRAINED_ROW
                | {"srv_name": key[1], "srv_addr": address.host, "srv_port": str(address.port)}
            )
            written.append(" ".join(words[column] for column in columns))
    return "\n".join(written) + "\n"


# Running, drained by force, its first check still to come.
_DRAINED_ROW = {
    "srv_id": "0", "srv_op_state": "2", "srv_admin_state": "8", "srv_time_since_last_change": "0",
    "srv_check_status": "1", "srv_check_result": "0", "srv_check_health": "1", "srv_check_state": "6",
    "srv_f_forced_id": "0",
}  # fmt: skip


@lru_cache(maxsize=16_384)
def _address(host: str, port: str) -> HostPort:
    # Thousands of servers are read again each second, at the addresses they had.
    return HostPort.of(parse_ip(host), parse_port(port))


def _is_at(row: Mapping[str, str], address: HostPort) -> bool:
    # As values: HAProxy writes `::ffff:10.0.0.1` what others write `::ffff:a00:1`.
    try:
        return _address(row["srv_addr"], row["srv_port"]) == address
    except PeerError:
        return False


def _is_up(rotation: Rotation, check: str, status: str) -> bool | None:
    """Say what HAProxy's own check found; nothing is checked in maintenance."""
    if rotation is Rotation.MAINT:
        return None
    if status.startswith("DOWN") or _NOT_UP.fullmatch(check):
        return False
    if "/" in status:
        # `DRAIN 1/3 L7OK` just after maintenance: the check's words are older than the server's return.
        return None
    if check.endswith("OK") or (status.startswith(("UP", "DRAIN")) and check not in ("", "INI", "UNK")):
        return True
    return None


def _sum_sessions(stats: Iterable[str]) -> dict[tuple[str, str], int]:
    sums: dict[tuple[str, str], int] = {}
    for stat in stats:
        for row in _stat_rows(stat):
            key = row["pxname"], row["svname"]
            sums[key] = sums.get(key, 0) + _sessions(row)
    return sums


def _sessions(row: Mapping[str, str]) -> int:
    return _number(row.get("scur", "")) + _number(row.get("qcur", ""))


def _state_rows(reply: str) -> Iterator[dict[str, str]]:
    lines = reply.strip().splitlines()
    if len(lines) < 2 or lines[0].strip() != "1" or not lines[1].startswith("# "):
        raise Refused(f"HAProxy's `show servers state` has an unknown form: {reply[:200]!a}")
    columns = lines[1][2:].split()
    if len(lines) > ROWS_LIMIT:
        raise Refused(f"HAProxy has more than {ROWS_LIMIT} servers")
    for line in lines[2:]:
        words = line.split(" ")
        if len(words) != len(columns):
            raise Refused(f"HAProxy's `show servers state` has a line of unknown form: {line[:200]!a}")
        yield dict(zip(columns, words, strict=True))


def _stat_rows(reply: str) -> Iterator[dict[str, str]]:
    text = reply.strip()
    if not text.startswith("# pxname,"):
        raise Refused(f"HAProxy's `show stat` has an unknown form: {reply[:200]!a}")
    rows = csv.reader(text[2:].splitlines())
    # A hundred columns in a row, of which nine matter: with thousands of servers the rest would be most of the work.
    places = [(name, place) for place, name in enumerate(next(rows)) if name in _STAT_COLUMNS]
    width = max(place for _, place in places) + 1
    for number, row in enumerate(rows):
        if number >= ROWS_LIMIT:
            raise Refused(f"HAProxy has more than {ROWS_LIMIT} servers")
        if len(row) >= width:
            yield {name: row[place] for name, place in places}


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
