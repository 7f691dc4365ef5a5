"""What HAProxy logs of its servers, as values: the results of their checks.

HAProxy says these things the moment it finds them out, between two looks at its statistics; only lines of level
`notice` and graver come here, so that traffic costs nothing. Facts: reference/haproxy.md, section 8.
"""

import re

from rumor.errors import PeerError
from rumor.model import CheckResult
from rumor.names import parse_member_name, parse_service_name

LINE_LIMIT_BYTES = 1024
"""HAProxy cuts its lines there: `len 1024` in the built-in template."""
_CHECK = re.compile(
    r"Health check for (?:backup )?server (?P<service>[^/ ]+)/(?P<server>[^ ]+) (?P<word>succeeded|failed)"
    r"(?:, reason: (?P<reason>.*))?, status: \d+/\d+ (?P<status>UP|DOWN)\."
)
_REASON_ENDS = re.compile(r", check duration: .*$")


def parse_log_line(line: bytes) -> CheckResult | None:
    """Return what a line of HAProxy's log says of a server's check; None for any other line.

    An app's words stand in some reasons, so whatever is not printable ASCII in them comes back escaped.
    """
    text = line[:LINE_LIMIT_BYTES].decode("utf-8", "replace").rstrip("\r\n\0")
    match = _CHECK.search(text)
    if match is None:
        return None
    try:
        service, server = parse_service_name(match["service"]), parse_member_name(match["server"])
    except PeerError:
        return None
    reason = _REASON_ENDS.sub("", match["reason"] or "")
    printable = "".join(char if " " <= char <= "~" else ascii(char)[1:-1] for char in reason)
    return CheckResult(service, server, match["word"] == "succeeded", match["status"] == "UP", printable)
