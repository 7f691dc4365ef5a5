"""HAProxy's lines about checks, as HAProxy 2.8 sends them, and lines that only look like them."""

import pytest

from rumor.haproxy.log_lines import LINE_LIMIT_BYTES, parse_log_line
from rumor.model import CheckResult
from rumor.names import MemberName, ServiceName

WEB, ONE = ServiceName("web"), MemberName("s1")
BEGIN = b"<133>Nov 23 17:38:49 haproxy[18583]: "


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b'Health check for server web/s1 failed, reason: Layer4 connection problem, info: "Connection refused", '
         b"check duration: 0ms, status: 0/2 DOWN.\n",
         CheckResult(WEB, ONE, False, False, 'Layer4 connection problem, info: "Connection refused"')),
        (b"Health check for server web/s1 failed, reason: Layer7 timeout, check duration: 1001ms, status: 2/3 UP.\n",
         CheckResult(WEB, ONE, False, True, "Layer7 timeout")),
        (b'Health check for server web/s1 failed, reason: Health analyze, info: "Detected 1 consecutive errors, last '
         b'one was: L4 unsuccessful connection", status: 0/2 DOWN.\n',
         CheckResult(WEB, ONE, False, False, 'Health analyze, info: "Detected 1 consecutive errors, last one was: '
                     'L4 unsuccessful connection"')),
        (b"Health check for backup server web/s1 succeeded, reason: Layer7 check passed, code: 200, check duration: "
         b"1ms, status: 3/3 UP.\n", CheckResult(WEB, ONE, True, True, "Layer7 check passed, code: 200")),
        (b'Health check for server web/s1 failed, reason: Layer7 wrong status, code: 500, info: "\x1b[2J\xff", check '
         b"duration: 1ms, status: 0/2 DOWN.",
         CheckResult(WEB, ONE, False, False, 'Layer7 wrong status, code: 500, info: "\\x1b[2J\\ufffd"')),
    ],
)  # fmt: skip
def test_results_of_checks_are_read(line: bytes, wanted: CheckResult) -> None:
    assert parse_log_line(BEGIN + line) == wanted


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"Server web/s1 is DOWN. 1 active and 0 backup servers left. 1 sessions active, 0 requeued.\n",
        b"Health check for server we b/s1 failed, reason: Layer7 timeout, status: 0/2 DOWN.\n",
        b"Health check for server web/$(reboot) failed, reason: Layer7 timeout, status: 0/2 DOWN.\n",
        b"Health check for server web/s1 failed, reason: " + b"a" * LINE_LIMIT_BYTES + b", status: 0/2 DOWN.\n",
    ],
)
def test_anything_else_is_nothing(line: bytes) -> None:
    assert parse_log_line(BEGIN + line) is None
