"""A check's request as bytes, and an answer that can be judged at a glance.

Most apps answer a check in one piece, with a length and nothing strange: such an answer is read here, by one strict
pattern. All that is not such an answer is h11's to read (`http.py`); what both read they read alike.
"""

import re

from rumor.checks.outcome import CheckSettings
from rumor.names import HostPort

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(
    rb"HTTP/1\.[01] ([2-9][0-9]{2})(?: [\x20-\x7e\x80-\xff]*)?\r\n((?:%b:[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n" % _TOKEN
)
_FRAMING = re.compile(rb"^(content-length|transfer-encoding):[ \t]*([^\r]*?)[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"[0-9]{1,9}")
_WITHOUT_BODY = (204, 304)


def request(settings: CheckSettings, address: HostPort) -> bytes:
    """Return a check's request. What the settings say of it was looked at when they were made."""
    headers = {
        "host": settings.host_header or str(address),
        "user-agent": "rumor-check",
        "accept": "*/*",
        "connection": "close",
    }
    headers |= {name.lower(): value.strip() for name, value in settings.headers}
    lines = (f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {settings.path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("ascii")


def whole_answer(content: bytes) -> int | None:
    """Return the status of an answer that is there to its last byte; None where it takes more care to say."""
    head = _HEAD.match(content)
    if head is None:
        return None
    status = int(head[1])
    framing = _FRAMING.findall(head[2])
    if not framing:
        return status if status in _WITHOUT_BODY else None
    if len(framing) > 1 or framing[0][0].lower() != b"content-length" or not _LENGTH.fullmatch(framing[0][1]):
        return None
    length = 0 if status in _WITHOUT_BODY else int(framing[0][1])
    return status if len(content) - head.end() >= length else None
