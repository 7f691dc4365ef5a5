"""`rumor simulate`: what it prints, the same for the same seed, and what it refuses."""

import json

import pytest
from click.testing import CliRunner, Result

from rumor.cli.simulating import simulate as command


def simulate(*words: str) -> Result:
    return CliRunner().invoke(command, ["--nodes", "12", "--duration", "40s", *words])


def test_a_crash_is_told_by_median_99th_and_last() -> None:
    result = simulate("--fail", "2", "--loss", "0.1", "--format", "json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["settings"]["nodes"] == 12
    found = value["result"]
    assert found["missed"] == 0
    assert 0 < found["detection"]["median"] <= found["detection"]["last"] <= found["dissemination"]["last"] < 30
    assert found["packets"] > 1
    assert found["bytes"] > 100


def test_the_same_seed_prints_the_same_bytes() -> None:
    once, again, other = simulate("--seed=3"), simulate("--seed=3"), simulate("--seed=4")
    assert once.stdout == again.stdout
    assert once.stdout.splitlines()[1:] != other.stdout.splitlines()[1:]


def test_the_table_names_what_it_measured() -> None:
    text = simulate("--partition", "0.3@12s:20s", "--profile=local").stdout
    for words in ("first to know", "everybody to know", "false failures", "partition healed", "packets"):
        assert words in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--partition", "x"], "SHARE@START:END"),
        (["--partition", "0.2@60s:30s"], "an end after its start"),
        (["--fail", "12"], "somebody to notice"),
        (["--duration", "soon"], "--duration"),
        (["--loss", "2"], "--loss"),
    ],
)
def test_bad_input_is_named(words: list[str], says: str) -> None:
    result = simulate(*words)
    assert result.exit_code == 2
    assert says in result.output
