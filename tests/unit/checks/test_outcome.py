"""Rise and fall: when does a result change an app's state?"""

from dataclasses import replace

import pytest

from rumor.checks.outcome import STARTING_LIMIT, CheckSettings, Health, Outcome, next_delay, observe
from rumor.errors import ConfigError
from rumor.model import AppState, Seconds

SETTINGS = CheckSettings(rise=2, fall=3)
GOOD = Outcome(True, "L7OK 200", Seconds(0.01))
BAD = Outcome(False, "L4CON connection refused", Seconds(0.01))


def after(*outcomes: Outcome, start: AppState = AppState.STARTING) -> AppState:
    health = Health(start)
    for outcome in outcomes:
        health = observe(health, outcome, SETTINGS)
    return health.state


def test_starting_app_is_ready_after_one_good_answer() -> None:
    assert after(BAD, BAD, GOOD) is AppState.READY


def test_starting_app_stays_starting_however_often_it_fails() -> None:
    assert after(*[BAD] * 1000) is AppState.STARTING


def test_ready_app_is_down_after_fall_failures_in_a_row() -> None:
    assert after(BAD, BAD, start=AppState.READY) is AppState.READY
    assert after(BAD, BAD, BAD, start=AppState.READY) is AppState.DOWN


def test_good_answer_between_failures_begins_the_count_anew() -> None:
    assert after(BAD, BAD, GOOD, BAD, BAD, start=AppState.READY) is AppState.READY


def test_down_app_is_ready_after_rise_good_answers_in_a_row() -> None:
    assert after(GOOD, start=AppState.DOWN) is AppState.DOWN
    assert after(GOOD, BAD, GOOD, start=AppState.DOWN) is AppState.DOWN
    assert after(GOOD, GOOD, start=AppState.DOWN) is AppState.READY


def test_failure_that_outlives_its_timeout_is_no_evidence_since_this_process_stood_still() -> None:
    held_up = replace(BAD, detail="L7TOUT", took=Seconds(SETTINGS.timeout + 1.5))
    late = replace(BAD, detail="L7TOUT", took=Seconds(SETTINGS.timeout + 0.5))
    assert after(*[held_up] * 10, start=AppState.READY) is AppState.READY
    assert after(*[late] * 3, start=AppState.READY) is AppState.DOWN


def test_starting_app_is_asked_ten_times_a_second_for_half_a_minute() -> None:
    assert next_delay(Health(), SETTINGS) == 0.1
    assert next_delay(Health(against=STARTING_LIMIT - 1), SETTINGS) == 0.1
    assert next_delay(Health(against=STARTING_LIMIT), SETTINGS) == SETTINGS.interval


def test_running_app_is_asked_at_its_interval() -> None:
    assert next_delay(Health(AppState.READY), SETTINGS) == 1.0
    assert next_delay(Health(AppState.DOWN), SETTINGS) == 1.0
    assert next_delay(Health(), replace(SETTINGS, interval=Seconds(0.02))) == 0.02


@pytest.mark.parametrize("path", ["", "health", "/a b", "/a\r\nx: y", "/é", "/" + "a" * 2001])
def test_path_that_does_not_fit_into_a_request_line_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="check path"):
        CheckSettings(path=path)


def test_longest_path_and_a_query_are_taken() -> None:
    assert CheckSettings(path="/" + "a" * 2000).path
    assert CheckSettings(path="/up?deep=1&x=%20").path


def test_host_that_would_end_its_header_is_refused() -> None:
    with pytest.raises(ConfigError, match="check host"):
        CheckSettings(host_header="shop.example\r\nx: y")


@pytest.mark.parametrize("wrong", [{"interval": 0}, {"timeout": -1}, {"rise": 0}, {"fall": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        CheckSettings(**wrong)  # type: ignore[arg-type] # one of them is a number of seconds
