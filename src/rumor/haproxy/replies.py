"""HAProxy's replies as values: processes, the outcome of a reload, servers and their statistics.

Tables are read by header, since columns differ between versions. Facts: reference/haproxy.md, sections 1 to 6.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter, itemgetter

from rumor.errors import PeerError, Refused
from rumor.model import Rotation, ServerObservation
from rumor.names import HostPort, parse_host, parse_member_name, parse_port, parse_service_name

# 4 is left out: it says only that the file once said `disabled`, and stays when the server is long ready.
_ADMIN_MAINT = 1 | 2 | 32 | 64
_ADMIN_DRAIN = 8 | 16
ROWS_LIMIT = 100_000
_WORDS_LIMIT = 4096
_STATE_COLUMNS = ("be_name", "srv_name", "srv_addr", "srv_port", "srv_admin_state", "srv_uweight")
_STAT_COLUMNS = ("pxname", "svname", "qcur", "scur", "slim", "stot", "econ", "eresp", "status", "check_status")
_NO_STATISTICS = ("",) * (len(_STAT_COLUMNS) - 2)
_NOT_UP = re.compile(r"L[467](TOUT|CON|RSP|STS)|SOCKERR|PROCERR|PROCTOUT")
_PROMPT = "\n> "
CONVERSATION_BEGINS = ("experimental-mode off", "show version")
"""The first line of a conversation: only its second command says anything, so that its first prompt tells the form."""
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


def split_conversation(reply: str, commands: Sequence[int]) -> list[str] | None:
    """Return what was replied to each line of a conversation, stripped; None if it broke off.

    HAProxy 2.8 and 3.0 end the reply to each command with a prompt of its own, 3.2 and 3.4 that to a whole line.

    Args:
        reply: all that came back to `prompt`, `CONVERSATION_BEGINS`, the lines, and `quit`.
        commands: how many commands each line has.
    """
    pieces = [piece.strip() for piece in reply.split(_PROMPT)[1:-1]]
    is_by_command = pieces[:1] == [""]
    prompts = [count if is_by_command else 1 for count in commands]
    taken = pieces[len(CONVERSATION_BEGINS) if is_by_command else 1 :]
    if len(taken) != sum(prompts):
        return None
    taking = iter(taken)
    return ["\n".join(itertools.islice(taking, count)).strip() for count in prompts]


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


Readings = dict[tuple[str, ...], tuple[tuple[str, ...], int, ServerObservation | None]]
"""What was read of each server last, and what it came to."""


def parse_servers(
    state: str, stat: str, old_stats: Iterable[str] = (), *, last: Readings | None = None
) -> tuple[ServerObservation, ...]:
    """Join `show servers state` (address, administration, weight) with `show stat` (check, sessions).

    Servers whose names are not ours to give are left out: somebody else's business.

    Args:
        state: the servers' states.
        stat: their statistics.
        old_stats: the statistics of workers that a reload replaced. Their sessions still run on the same servers, so
            they are counted; nothing else of them is.
        last: what the call before left here; changed by this one. Thousands of servers are read again each second, and
            most of them are found as they were.

    Raises:
        Refused: a reply is not of the form HAProxy 2.8 and newer give.
    """
    statistics = {(row[0], row[1]): row[2:] for row in _stat_rows(stat)}
    old_sessions = _sum_sessions(old_stats)
    columns, rows = _state_rows(state)
    pick = itemgetter(*map(columns.index, _STATE_COLUMNS))
    before = {} if last is None else last.copy()
    now: Readings = {} if last is None else last
    now.clear()
    found = []
    for row in rows:
        picked = pick(row)
        key = picked[:2]
        words, old = picked + statistics.get(key, _NO_STATISTICS), old_sessions.get(key, 0)
        reading = before.get(key)
        if reading is None or reading[0] != words or reading[1] != old:
            reading = words, old, _observation(words, old)
        now[key] = reading
        if reading[2] is not None:
            found.append(reading[2])
    return tuple(sorted(found, key=attrgetter("service", "server")))


def _observation(words: tuple[str, ...], old_sessions: int) -> ServerObservation | None:
    """Return one server's rows as a value; None if its name or address is not ours to give."""
    backend, name, host, port, admin, weight, qcur, scur, slim, stot, econ, eresp, status, check_status = words
    try:
        service, server, address = parse_service_name(backend), parse_member_name(name), _address(host, port)
    except PeerError:
        return None
    rotation, check = _rotation(_number(admin)), check_status.removeprefix("* ")
    return ServerObservation(
        service=service,
        server=server,
        address=address,
        rotation=rotation,
        is_up=_is_up(rotation, check, status),
        check=check,
        status=status,
        weight=_number(weight),
        sessions=_number(scur) + _number(qcur) + old_sessions,
        sessions_total=_number(stot),
        connect_errors=_number(econ),
        response_errors=_number(eresp),
        limit=_number(slim),
    )


def _rotation(admin: int) -> Rotation:
    return Rotation.MAINT if admin & _ADMIN_MAINT else Rotation.DRAIN if admin & _ADMIN_DRAIN else Rotation.READY


@dataclass(frozen=True, slots=True)
class Frontend:
    """A section that listens, as HAProxy has it now."""

    status: str
    """OPEN, FULL, PAUSED, STOP, …"""
    limit: int
    """The connections it may have at once."""


def parse_frontends(stat: str) -> dict[str, Frontend]:
    """Return each frontend in `show stat`; one that the file disables has no status.

    Raises:
        Refused: the reply is not of the form HAProxy 2.8 and newer give.
    """
    head, *lines = stat.strip().split("\n")
    rows = "\n".join([head, *(line for line in lines if ",FRONTEND," in line)])
    status, limit = _STAT_COLUMNS.index("status"), _STAT_COLUMNS.index("slim")
    return {row[0]: Frontend(row[status], _number(row[limit])) for row in _stat_rows(rows) if row[1] == "FRONTEND"}


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
    columns, rows = _state_rows(state)
    for words_of_row in rows:
        line, row = " ".join(words_of_row), dict(zip(columns, words_of_row, strict=True))
        key = row["be_name"], row["srv_name"]
        address = wanted.get(key)
        if address is not None and _is_at(row, address):
            is_in = not _number(row["srv_admin_state"]) & (_ADMIN_MAINT | _ADMIN_DRAIN)
            kept.append((key[0], is_in, line))
            known.add(key)
            if is_in and row["srv_op_state"] == "2":
                carried_on[key[0]] = row
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
    # A server that serves is read again with other counters each second, at the address it had.
    return HostPort(parse_host(host), parse_port(port))


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


def _sum_sessions(stats: Iterable[str]) -> dict[tuple[str, ...], int]:
    sums: dict[tuple[str, ...], int] = {}
    for stat in stats:
        for row in _stat_rows(stat):
            key, (qcur, scur) = row[:2], row[2:4]
            sums[key] = sums.get(key, 0) + _number(scur) + _number(qcur)
    return sums


def _state_rows(reply: str) -> tuple[list[str], list[list[str]]]:
    """Return the columns' names, and each row's words in that order."""
    lines = _lines(reply)
    if len(lines) < 2 or lines[0].strip() != "1" or not lines[1].startswith("# "):
        raise Refused(f"HAProxy's `show servers state` has an unknown form: {reply[:200]!a}")
    columns = lines[1][2:].split()
    if len(lines) > ROWS_LIMIT:
        raise Refused(f"HAProxy has more than {ROWS_LIMIT} servers")
    missing = [name for name in _STATE_COLUMNS if name not in columns]
    if missing:
        raise Refused(f"HAProxy's `show servers state` has no column {missing[0]}: {reply[:200]!a}")
    rows = [line.split(" ") for line in lines[2:]]
    for words in rows:
        if len(words) != len(columns):
            raise Refused(f"HAProxy's `show servers state` has a line of unknown form: {' '.join(words)[:200]!a}")
    return columns, rows


def _stat_rows(reply: str) -> Iterator[tuple[str, ...]]:
    """Yield the columns that matter of each row, in the order of `_STAT_COLUMNS`."""
    lines = _lines(reply)
    if not lines[0].startswith("# pxname,"):
        raise Refused(f"HAProxy's `show stat` has an unknown form: {reply[:200]!a}")
    columns = lines[0][2:].split(",")
    missing = [name for name in _STAT_COLUMNS if name not in columns]
    if missing:
        raise Refused(f"HAProxy's `show stat` has no column {missing[0]}: {reply[:200]!a}")
    if len(lines) > ROWS_LIMIT:
        raise Refused(f"HAProxy has more than {ROWS_LIMIT} servers")
    places = [columns.index(name) for name in _STAT_COLUMNS]
    # A hundred columns in a row, of which nine matter, and those stand before all that is free text and may be quoted:
    # with thousands of servers the rest would be most of the work.
    width, pick = max(places) + 1, itemgetter(*places)
    for line in lines[1:]:
        row = line.split(",", width)
        if len(row) >= width:
            yield pick(row)


def _lines(reply: str) -> list[str]:
    """Return a table's lines as HAProxy ends them: no other character in an app's own words ends one."""
    return reply.strip().split("\n")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
