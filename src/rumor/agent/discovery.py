"""Members of one network find one another without an address: Serf's `-discover`, over multicast DNS.

Each node announces itself as `NODE._serf_CLUSTER._tcp.local` with its gossip address, as serf's agent does, and
reports every other. Multicast DNS proves nothing: whoever is found is joined like any address, under the same keys.
"""

import asyncio
import contextlib
from collections.abc import Callable

from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from rumor.errors import ConfigError, PeerError
from rumor.log import get_logger
from rumor.names import HostPort, parse_ip

log = get_logger("discovery")

_QUESTION_MS = 3000
_WAITING_LIMIT = 256


class Discovery:
    """One node's voice and ear on the network."""

    def __init__(self, cluster: str, node: str, own: HostPort, *, on_found: Callable[[HostPort], None]) -> None:
        """Prepare; nothing is sent before `run`.

        Args:
            cluster: the name that all nodes of one cluster share.
            node: this member's name.
            own: its gossip address, announced and never reported.
            on_found: called with every other address, again when it is announced again.
        """
        self._type = f"_serf_{cluster}._tcp.local."
        self._node = node
        self._own = own
        self._on_found = on_found
        self._waiting: asyncio.Queue[str] = asyncio.Queue(maxsize=_WAITING_LIMIT)

    async def run(self) -> None:
        """Announce and listen until cancelled, then say goodbye.

        Raises:
            ConfigError: the network takes no multicast.
        """
        try:
            network = AsyncZeroconf(interfaces=InterfaceChoice.All if ":" in self._own.host else [self._own.host])
        except OSError as error:
            raise ConfigError(
                f"discovery: no multicast on {self._own.host}: {error.strerror}; name members with join instead"
            ) from error
        try:
            await self._announce(network)
            log.info("announced", text=f"announced to the network as {self._node}.{self._type}")
            browser = AsyncServiceBrowser(network.zeroconf, [self._type], handlers=[self._notice])
            try:
                while True:
                    await self._ask(network, await self._waiting.get())
            finally:
                await browser.async_cancel()
        finally:
            await network.async_close()

    async def _announce(self, network: AsyncZeroconf) -> None:
        info = ServiceInfo(
            self._type,
            f"{self._node}.{self._type}",
            port=self._own.port,
            parsed_addresses=[self._own.host],
            # hashicorp/mdns reads no entry without a TXT record.
            properties={f"Serf '{self._type}' cluster": None},
            server=f"{self._node}.local.",
        )
        try:
            # Two nodes of one name are Serf's to settle, by a vote; Serf's cluster names are no registered services.
            await network.async_register_service(info, cooperating_responders=True, strict=False)
        except (ZeroconfError, ValueError) as error:
            raise ConfigError(f"discovery: {self._node} cannot be announced: {error}") from error

    def _notice(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is not ServiceStateChange.Removed:
            with contextlib.suppress(asyncio.QueueFull):
                self._waiting.put_nowait(name)

    async def _ask(self, network: AsyncZeroconf, name: str) -> None:
        """Ask where a name gossips."""
        try:
            info = AsyncServiceInfo(self._type, name)
            if not await info.async_request(network.zeroconf, _QUESTION_MS):
                return
            found = {HostPort.of(parse_ip(text), info.port or 0) for text in info.parsed_addresses()}
        except (ZeroconfError, PeerError, ValueError) as error:
            log.debug("not_understood", name=name, reason=str(error))
            return
        for address in sorted(found - {self._own}):
            log.debug("found", name=name, address=address)
            self._on_found(address)
