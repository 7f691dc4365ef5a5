"""Check an app by connecting to it: a listener that accepts is enough."""

import asyncio
import errno
import time

from rumor.checks.outcome import CheckSettings, Outcome
from rumor.model import Seconds
from rumor.names import HostPort

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ECONNRESET: "connection reset",
    errno.EMFILE: "out of file descriptors",
}
# The answer's head and body are read through this much buffer, whatever the app sends.
_BUFFER_BYTES = 16 * 1024


async def connect(settings: CheckSettings, address: HostPort) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection as the app wants it; the caller sets the deadline and closes the writer.

    Raises:
        OSError: refused or unreachable, or TLS came to nothing.
    """
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=_BUFFER_BYTES)
    try:
        writer.write(settings.preamble)
        if settings.tls:
            # A late import: a node whose apps speak no TLS stays smaller without it.
            from rumor.checks.tls import context

            await writer.start_tls(context(), server_hostname=settings.tls_name or address.host)
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


def describe(error: OSError) -> str:
    """Return a connect error's reason in a few words, the same on every system."""
    return _WORDS.get(error.errno or 0, type(error).__name__)


async def check_tcp(settings: CheckSettings, address: HostPort) -> Outcome:
    """Connect within `settings.timeout`. Never raises but for cancellation."""
    started = time.monotonic()

    def outcome(ok: bool, detail: str) -> Outcome:
        return Outcome(ok, detail, Seconds(time.monotonic() - started))

    try:
        async with asyncio.timeout(settings.timeout):
            _, writer = await connect(settings, address)
    except TimeoutError:
        return outcome(False, "L4TOUT")
    except OSError as error:
        return outcome(False, f"L4CON {describe(error)}")
    # Nothing was said, so there is nothing to flush and nothing to wait for.
    writer.transport.abort()
    return outcome(True, "L4OK")
