"""What counts against rumor, and what no balancer can save."""

import json

from rumor.demo.load import Result
from rumor.demo.verdict import LoggedRequest, judge, parse_log
from rumor.model import Seconds

STRUCK = frozenset({71})


def result(id: str, method: str = "POST", *, status: int = 0, sent_at: float = 1.0) -> Result:
    error = "" if status else "closed without an answer"
    return Result(id, method, True, sent_at, Seconds(0.1), status, "web-1" if status == 200 else "", error)


def logged(id: str, pid: int = 71) -> LoggedRequest:
    return LoggedRequest(id, pid, "POST", "/", 0.0)


def test_a_post_that_had_reached_the_struck_process_is_unsaveable() -> None:
    count = judge([result("a")], [logged("a")], STRUCK, 0.0, 2.0)
    assert (count.failed, [bad.id for bad in count.unsaveable]) == ((), ["a"])


def test_a_get_is_never_unsaveable() -> None:
    count = judge([result("a", "GET")], [logged("a")], STRUCK, 0.0, 2.0)
    assert [bad.id for bad in count.failed] == ["a"]


def test_a_post_that_no_log_proves_has_failed() -> None:
    count = judge([result("a")], [logged("b")], STRUCK, 0.0, 2.0)
    assert [bad.id for bad in count.failed] == ["a"]


def test_a_post_in_the_log_of_a_process_that_nobody_struck_has_failed() -> None:
    count = judge([result("a")], [logged("a", pid=72)], STRUCK, 0.0, 2.0)
    assert [bad.id for bad in count.failed] == ["a"]


def test_any_other_answer_than_a_good_one_is_a_failure() -> None:
    results = [result("a", "GET", status=503), result("b", "GET", status=404), result("c", "GET", status=200)]
    assert [bad.id for bad in judge(results, [], STRUCK, 0.0, 2.0).failed] == ["a", "b"]


def test_a_request_belongs_to_the_step_in_which_it_was_sent() -> None:
    results = [result("a", sent_at=0.9), result("b", sent_at=1.0), result("c", sent_at=2.0)]
    count = judge(results, [], STRUCK, 1.0, 2.0)
    assert (count.sent, [bad.id for bad in count.failed]) == (1, ["b"])


def test_a_line_torn_by_a_kill_is_skipped() -> None:
    line = json.dumps({"t": 1.0, "pid": 71, "id": "a", "method": "POST", "path": "/"})
    assert parse_log(f'{line}\n{{"t": 2.0, "pi') == [LoggedRequest("a", 71, "POST", "/", 1.0)]
