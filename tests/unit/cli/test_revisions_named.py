"""Which revisions `rumor config show` and `diff` mean by a word, by an id, and by nothing."""

from typing import Any

import pytest
from click.testing import CliRunner

from rumor.cli import main
from rumor.errors import Refused, RumorError


class Agent:
    """Answers as an agent's API does; revisions are named by one letter, oldest first."""

    def __init__(self, history: str, *, running: str, wanted: str, refused: str = "") -> None:
        self._history = [self._revision(one, "refused" if one in refused else "applied") for one in reversed(history)]
        self._running, self._wanted = running * 64, wanted * 64

    def _revision(self, letter: str, outcome: str) -> dict[str, Any]:
        return {"id": letter * 64, "text": f"text {letter}\n", "cause": f"cause {letter}", "outcome": outcome}

    def get(self, path: str) -> dict[str, Any]:
        if path == "/v1/table":
            return {"revision": self._wanted}
        if path == "/v1/status":
            return {"haproxy": {"revision": self._running}}
        if path.startswith("/v1/config/history"):
            return {"revisions": self._history}
        prefix = path.rpartition("/")[2]
        for entry in self._history:
            if entry["id"].startswith(prefix):
                return entry
        raise Refused(f"no revision begins with {prefix}")


@pytest.fixture
def rumor(monkeypatch: pytest.MonkeyPatch) -> Any:
    def ask(agent: Agent, *words: str) -> str:
        monkeypatch.setattr(main, "agent_api", lambda *_: agent)
        done = CliRunner().invoke(main.cli, ["config", *words], standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return done.output

    return ask


def test_show_prints_what_runs_and_not_what_is_wanted(rumor: Any) -> None:
    agent = Agent("abc", running="b", wanted="c")
    assert rumor(agent, "show") == rumor(agent, "show", "running") == "text b\n"
    assert rumor(agent, "show", "wanted") == "text c\n"
    assert rumor(agent, "show", "aaa") == "text a\n"


def test_show_says_what_to_do_where_the_journal_does_not_know_what_runs(rumor: Any) -> None:
    with pytest.raises(RumorError, match=r"runs revision ffffffffffff, which the journal does not know.*show wanted"):
        rumor(Agent("a", running="f", wanted="a"), "show")
    with pytest.raises(RumorError, match=r"HAProxy does not say what it runs.*show wanted"):
        rumor(Agent("a", running="", wanted="a"), "show")
    with pytest.raises(RumorError, match="no revision has passed its check yet"):
        rumor(Agent("a", running="a", wanted=""), "show", "wanted")
    assert rumor(Agent("a", running="a", wanted=""), "show") == "text a\n"


@pytest.mark.parametrize(
    ("history", "running", "wanted", "refused", "words", "old", "new"),
    [
        ("abc", "c", "c", "", (), "b", "c"),
        ("abc", "b", "c", "", (), "b", "c"),  # an apply is under way
        ("abxc", "c", "c", "x", (), "b", "c"),  # what never ran is nothing that ran before
        ("abab", "b", "b", "", (), "a", "b"),
        ("abcb", "b", "b", "", (), "c", "b"),
        ("abc", "b", "b", "", (), "a", "b"),  # what came after is nothing that ran before
        ("abc", "c", "c", "", ("aa",), "a", "c"),
        ("abc", "c", "c", "", ("aa", "bb"), "a", "b"),
        ("abc", "b", "c", "", ("running", "wanted"), "b", "c"),
    ],
)  # fmt: skip
def test_diff_compares_what_is_named_or_meant(
    rumor: Any, history: str, running: str, wanted: str, refused: str, words: tuple[str, ...], old: str, new: str
) -> None:
    said = rumor(Agent(history, running=running, wanted=wanted, refused=refused), "diff", *words)
    assert f"-text {old}\n+text {new}\n" in said


def test_diff_with_nothing_before_says_so(rumor: Any) -> None:
    with pytest.raises(RumorError, match="no revision before the one that runs"):
        rumor(Agent("a", running="a", wanted="a"), "diff")
