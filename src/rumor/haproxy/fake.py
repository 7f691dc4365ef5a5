"""A small HAProxy in memory, for tests: the replies and the habits that a controller must know.

It keeps servers, their administrative states, checks and sessions, and answers on the two sockets as 2.8 does. It
serves nothing: whoever uses it says which addresses are well, which sessions run, and when time has passed. It also
watches: `faults` tells of every moment in which requests would have been lost.
Facts: reference/haproxy.md, sections 2, 3, 5 and 6.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rumor.errors import Unreachable
from rumor.haproxy.config_text import REVISION_VARIABLE, carried_revision, read_config
from rumor.model import Rotation, Seconds
from rumor.names import HostPort, parse_host_port, parse_ip

_COLUMNS = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)
_MAINT, _FROM_FILE, _DRAIN = 1, 4, 8


@dataclass(slots=True)
class FakeServer:
    """One server of the fake."""

    address: HostPort
    weight: int
    admin: int = _MAINT
    has_check: bool = False
    is_checked: bool = False
    check: str = "INI"
    is_down: bool = False
    is_proved: bool = False
    """A check has passed since the server came, came back, or moved."""
    sessions: int = 0
    limit: int = 0

    @property
    def takes_requests(self) -> bool:
        return not self.admin & (_MAINT | _DRAIN) and not self.is_down and self.weight > 0

    @property
    def status(self) -> str:
        if self.admin & _MAINT:
            return "MAINT"
        if not self.is_checked:
            return "no check"
        if self.is_down:
            return "DOWN"
        word = "DRAIN" if self.admin & _DRAIN else "UP"
        return word if self.is_proved else f"{word} 1/3"


@dataclass(slots=True)
class FakeHaproxy:
    """A master and its worker, run by one configuration file."""

    config: Path
    is_well: Callable[[HostPort], bool]
    """Says whether the app at an address answers its check now."""
    check_load: Callable[[str], str] = field(default=lambda text: "")
    """Returns HAProxy's words against a configuration at a reload; empty if it loads."""
    refuses: Callable[[str], str] = field(default=lambda command: "")
    """Returns HAProxy's words against a command on the worker's socket; empty if it takes it."""
    revision: str = ""
    servers: dict[tuple[str, str], FakeServer] = field(default_factory=dict)
    frontends: dict[str, str] = field(default_factory=dict)
    """Each one's status."""
    limits: dict[str, int] = field(default_factory=dict)
    """How many connections each frontend may have."""
    is_running: bool = True
    reloads: int = 0
    restarts: int = 0
    commands: int = 0
    """Lines that came by either socket."""
    faults: list[str] = field(default_factory=list)
    before: Callable[[str], None] = field(default=lambda line: None)
    """Called with each line before it is carried out; may raise."""

    def __post_init__(self) -> None:
        self._load(self.config.read_text(encoding="utf-8"), {})

    def connect(self, path: Path) -> "FakeSocket":
        """Return the socket of that path: the master's or the worker's by its name."""
        return FakeSocket(self, is_master=path.name.startswith("master"))

    def run_checks(self) -> None:
        """Let every check that is on come to its end, once."""
        for server in self.servers.values():
            if server.is_checked and not server.admin & _MAINT:
                server.is_proved = self.is_well(server.address)
                server.is_down = not server.is_proved
                server.check = "L7OK" if server.is_proved else "L4CON"

    def restart(self) -> None:
        """Start anew from the file on disk, as a supervisor would."""
        self.restarts, self.reloads = self.restarts + 1, 0
        self._load(self.config.read_text(encoding="utf-8"), {})

    # --- replies

    def answer_master(self, command: str) -> str:
        if command == "show proc":
            master = 100 + 1000 * self.restarts
            return (
                "#<PID>          <type>          <reloads>       <uptime>        <version>\n"
                f"{master}             master          {self.reloads} [failed: 0]   0d00h00m01s     2.8.0-fake\n"
                f"# workers\n{master + 1 + self.reloads}             worker   0     0d00h00m01s     2.8.0\n"
                "# programs\n"
            )
        if command == "reload":
            text = self.config.read_text(encoding="utf-8")
            if words := self.check_load(text):
                return f"Success=0\n--\n{words}\n"
            self.reloads += 1
            self._load(text, self._read_state_file())
            self._watch_unchecked()
            return "Success=1\n--\n"
        return f"Unknown command: '{command}', but maybe one of the following\n"

    def answer_worker(self, command: str) -> str:
        if words := self.refuses(command):
            return f"{words}\n"
        match command.split():
            case ["get", "var", name] if name == REVISION_VARIABLE:
                return f"{name}: type=str value=<{self.revision}>\n" if self.revision else f"{name}: undefined\n"
            case ["set", "var", name, value] if name == REVISION_VARIABLE:
                self.revision = value.removeprefix("str(").removesuffix(")")
                return "\n"
            case ["experimental-mode", "on"]:
                return "\n"
            case ["show", "servers", "state"]:
                return "".join(f"{line}\n" for line in ("1", f"# {_COLUMNS}", *map(self._state, self.servers)))
            case ["show", "stat", "-1", "5", "-1"]:
                head = "# pxname,svname,qcur,scur,slim,stot,econ,eresp,status,check_status,\n"
                rows = [
                    f"{name},FRONTEND,,0,{self.limits[name]},0,0,0,{status},,\n"
                    for name, status in self.frontends.items()
                ]
                return head + "".join([*rows, *(self._stat(key) for key in self.servers)])
            case [("enable" | "disable" | "shutdown") as verb, "frontend", name]:
                return self._turn_frontend(name, verb)
            case ["set", "maxconn", "frontend", name, limit] if name in self.limits:
                self.limits[name] = int(limit)
                return "\n"
            case ["set", "maxconn", "server", name, limit]:
                return self._with(name, lambda key: setattr(self.servers[key], "limit", int(limit)))
            case ["add", "server", name, address, *keywords]:
                return self._add(_key(name), address, keywords)
            case ["del", "server", name]:
                return self._delete(_key(name))
            case ["shutdown", "sessions", "server", name]:
                return self._with(name, self._cut)
            case ["enable", "health", name]:
                return self._with(name, self._enable_check)
            case ["disable", "health", name]:
                return self._with(name, lambda key: setattr(self.servers[key], "is_checked", False))
            case ["set", "server", name, "state", state]:
                return self._with(name, lambda key: self._turn(key, Rotation(state)))
            case ["set", "server", name, "weight", weight]:
                return self._with(name, lambda key: setattr(self.servers[key], "weight", int(weight)))
            case ["set", "server", name, "addr", host, "port", port]:
                return self._with(name, lambda key: self._move(key, HostPort.of(parse_ip(host), int(port))))
        return f"Unknown command: '{command}', but maybe one of the following\n"

    # --- what the commands do

    def _with(self, name: str, act: Callable[[tuple[str, str]], str | None]) -> str:
        key = _key(name)
        return "No such server.\n" if key not in self.servers else act(key) or "\n"

    def _turn_frontend(self, name: str, verb: str) -> str:
        status = self.frontends.get(name)
        if status is None:
            return "No such frontend.\n"
        if verb == "enable" and status != "PAUSED":
            shut = "Frontend was previously shut down, cannot enable.\n"
            return shut if status == "STOP" else "All sockets are already enabled.\n"
        self.frontends[name] = {"enable": "OPEN", "disable": "PAUSED", "shutdown": "STOP"}[verb]
        return "\n"

    def _add(self, key: tuple[str, str], address: str, keywords: list[str]) -> str:
        if key in self.servers:
            return "Already exists a server with the same name in backend.\n"
        weight = int(keywords[keywords.index("weight") + 1])
        self.servers[key] = FakeServer(
            parse_host_port(address), weight, has_check="check" in keywords, limit=_limit(keywords)
        )
        return "New server registered.\n"

    def _delete(self, key: tuple[str, str]) -> str:
        if key not in self.servers:
            return "No such server.\n"
        if not self.servers[key].admin & _MAINT:
            return "Only servers in maintenance mode can be deleted.\n"
        if self.servers[key].sessions:
            return "Server still has connections attached to it, cannot remove it.\n"
        del self.servers[key]
        return "Server deleted.\n"

    def _cut(self, key: tuple[str, str]) -> None:
        if self.servers[key].sessions:
            self.faults.append(f"cut {key}")
        self.servers[key].sessions = 0

    def _enable_check(self, key: tuple[str, str]) -> str | None:
        if not self.servers[key].has_check:
            return "Health check was not configured on this server, cannot enable.\n"
        self.servers[key].is_checked = True
        return None

    def _turn(self, key: tuple[str, str], rotation: Rotation) -> None:
        server = self.servers[key]
        came_back = server.admin & _MAINT and rotation is not Rotation.MAINT
        server.admin &= _FROM_FILE
        server.admin |= {Rotation.READY: 0, Rotation.DRAIN: _DRAIN, Rotation.MAINT: _MAINT}[rotation]
        if came_back:
            # What the last check said stays to be read; whether it is still true, nobody knows.
            server.is_proved = server.is_down = False
        if server.takes_requests and not server.is_proved and not self.is_well(server.address):
            self.faults.append(f"requests go to {key} at {server.address}, where nobody is well")

    def _move(self, key: tuple[str, str], address: HostPort) -> str:
        server = self.servers[key]
        if address == server.address:
            return "no need to change the addr, no need to change the port by 'stats socket command'\n"
        was, server.address, server.is_proved = server.address, address, False
        if server.takes_requests and not self.is_well(address):
            self.faults.append(f"requests go to {key} at {address}, where nobody is well")
        return f"IP changed from '{was.host}' to '{address.host}' by 'stats socket command'\n"

    def _state(self, key: tuple[str, str]) -> str:
        server = self.servers[key]
        words = dict.fromkeys(_COLUMNS.split(), "0") | {
            "be_id": "3", "be_name": key[0], "srv_id": "1", "srv_name": key[1],
            "srv_addr": server.address.host, "srv_port": str(server.address.port),
            "srv_op_state": "0" if server.is_down or server.admin & _MAINT else "2",
            "srv_admin_state": str(server.admin), "srv_uweight": str(server.weight), "srv_fqdn": "-",
        }  # fmt: skip
        return " ".join(words.values())

    def _stat(self, key: tuple[str, str]) -> str:
        server = self.servers[key]
        limit = server.limit or ""
        return f"{key[0]},{key[1]},0,{server.sessions},{limit},0,0,0,{server.status},{server.check},\n"

    def _watch_unchecked(self) -> None:
        """After a reload, a server may be unchecked and unwell in rotation only if its backend had no other."""
        for key, server in self.servers.items():
            others = any(
                other[0] == key[0] and entry.takes_requests and entry.is_proved for other, entry in self.servers.items()
            )
            if others and server.takes_requests and not server.is_proved and not self.is_well(server.address):
                self.faults.append(f"a reload sends requests to {key} at {server.address}, where nobody is well")

    def _read_state_file(self) -> dict[tuple[str, str], dict[str, str]]:
        path = self.config.parent / "haproxy.state"
        if not path.exists():
            return {}
        rows = (line.split(" ") for line in path.read_text(encoding="utf-8").splitlines()[2:])
        return {(row[1], row[3]): dict(zip(_COLUMNS.split(), row, strict=True)) for row in rows}

    def _load(self, text: str, states: dict[tuple[str, str], dict[str, str]]) -> None:
        self.revision = carried_revision(text)
        before, self.servers = self.servers, {}
        config = read_config(text)
        self.frontends = dict.fromkeys(sorted(config.frontends), "OPEN")
        self.limits = {name: 100 if limit is None else limit for name, limit in config.frontends.items()}
        for key, line in config.servers.items():
            name = str(key[0]), str(key[1])
            has_check = "check" in line.keywords.split()
            limit = _limit(line.keywords.split())
            server = FakeServer(line.address, line.weight, 0, has_check, has_check, limit=limit)
            if line.rotation is Rotation.MAINT:
                server.admin = _MAINT | _FROM_FILE
            elif state := states.get(name):
                # The state file wins over the configuration, in everything but `disabled` and a new weight.
                server.address = HostPort(state["srv_addr"], int(state["srv_port"]))
                server.admin |= int(state["srv_admin_state"])
                server.is_down = state["srv_op_state"] == "0" and not server.admin & _MAINT
                server.is_proved = name in before and before[name].is_proved
            self.servers[name] = server


@dataclass(slots=True)
class FakeSocket:
    """Either socket of a fake HAProxy."""

    haproxy: FakeHaproxy
    is_master: bool

    async def ask(self, *commands: str, deadline: Seconds = Seconds(5.0)) -> str:
        """Answer as `CommandSocket.ask` does.

        Raises:
            Unreachable: the fake is not running.
        """
        if not self.haproxy.is_running:
            raise Unreachable("the fake HAProxy does not run")
        self.haproxy.commands += 1
        self.haproxy.before(";".join(commands))
        answer = self.haproxy.answer_master if self.is_master else self.haproxy.answer_worker
        return "".join(map(answer, commands)).strip()

    async def ask_with(self, command: str, payload: str) -> str:
        """Answer as `CommandSocket.ask_with` does; the fake knows no command that takes a payload."""
        return await self.ask(command)

    async def ask_each(self, lines: Sequence[Sequence[str]]) -> list[str]:
        """Answer as `CommandSocket.ask_each` does; each line is a step that may be interrupted.

        Raises:
            Unreachable: the fake is not running.
        """
        return [await self.ask(*line) for line in lines]


def _key(name: str) -> tuple[str, str]:
    backend, _, server = name.partition("/")
    return backend, server


def _limit(keywords: Sequence[str]) -> int:
    return int(keywords[keywords.index("maxconn") + 1]) if "maxconn" in keywords else 0
