"""Where one node keeps its files under the data directory, and where its sockets are.

A UNIX socket's path may have 107 bytes, and HAProxy needs some twenty of them for a temporary name; a data directory
that lies deeper gets a short run directory of its own in the system's temporary directory, found by everybody who
knows the data directory.
"""

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rumor.errors import ConfigError

_SOCKET_PATH_LIMIT = 84
AGENT_SOCKET = "agent.sock"


@dataclass(frozen=True, slots=True)
class Places:
    """The files and sockets of one node; all paths are absolute."""

    directory: Path
    run_directory: Path

    @property
    def agent_socket(self) -> Path:
        return self.run_directory / AGENT_SOCKET

    @property
    def rpc_socket(self) -> Path:
        """Serf's RPC, for the commands of this machine."""
        return self.run_directory / "rpc.sock"

    @property
    def haproxy_config(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def good_template(self) -> Path:
        """The last template that passed its check."""
        return self.directory / "haproxy.cfg.j2"

    @property
    def operator_words(self) -> Path:
        """What people have said of servers."""
        return self.directory / "operator.json"

    @property
    def pin(self) -> Path:
        """The configuration that an operator went back to, as long as it holds."""
        return self.directory / "pin.json"

    @property
    def owed_reloads(self) -> Path:
        """The templates whose file has been replaced, and whose reload has not succeeded yet."""
        return self.directory / "owed_reloads"

    @property
    def exits(self) -> Path:
        """How this node's programs ended last, a file for each."""
        return self.directory / "exits"

    @property
    def master_socket(self) -> Path:
        return self.run_directory / "master.sock"

    @property
    def journal(self) -> Path:
        return self.directory / "journal.db"

    @property
    def snapshot(self) -> Path:
        return self.directory / "snapshot"

    @property
    def logs(self) -> Path:
        return self.directory / "log"

    def make(self) -> None:
        """Create the directories, for this user alone.

        Raises:
            ConfigError: they cannot be created, or somebody else owns the run directory.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in (self.run_directory.parent, self.run_directory):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot create {error.filename}: {error.strerror}; choose another --data") from error
        owner = self.run_directory.lstat()
        if owner.st_uid != os.getuid() or not stat.S_ISDIR(owner.st_mode):
            raise ConfigError(f"{self.run_directory} belongs to somebody else: choose another --data")


def places(data: Path, node: str) -> Places:
    """Return where a node of this data directory keeps its things; nothing is created."""
    directory = data.absolute() / node
    return Places(directory, run_directory(data) / node)


def run_directory(data: Path) -> Path:
    """Return where the sockets of a data directory lie: in it, or in a short directory of its own."""
    data = data.absolute()
    if len(os.fsencode(data)) <= _SOCKET_PATH_LIMIT - 40:
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"rumor-{os.getuid()}-{digest}"
