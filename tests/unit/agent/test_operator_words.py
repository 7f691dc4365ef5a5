"""What people said of servers outlives the agent; a damaged file is named, not guessed at."""

from pathlib import Path

import pytest

from rumor.agent.operator_words import OperatorWords, find_servers
from rumor.errors import ConfigError, Refused
from rumor.model import Rotation, Server, Service, Table
from rumor.names import HostPort, MemberName, ServiceName

WEB, API = ServiceName("web"), ServiceName("api")
ONE, TWO = MemberName("one"), MemberName("two")


def table() -> Table:
    def server(name: MemberName) -> Server:
        return Server(name, HostPort("10.0.0.1", 1), 100, Rotation.READY)

    return Table((Service(API, (server(ONE),)), Service(WEB, (server(ONE), server(TWO)))))


def test_words_are_read_back_as_they_were_said(tmp_path: Path) -> None:
    words = OperatorWords(tmp_path / "operator.json")
    words.drain([(WEB, ONE)], "ann")
    words.weigh([(WEB, ONE), (WEB, TWO)], 7, "bob")
    again = OperatorWords(tmp_path / "operator.json")
    assert again.words == words.words
    assert {key: (word.drains, word.by, word.weight, word.weight_by) for key, word in again.words.items()} == {
        (WEB, ONE): (True, "ann", 7, "bob"), (WEB, TWO): (False, "", 7, "bob"),
    }  # fmt: skip


def test_a_later_drain_leaves_the_weights_stamp_alone(tmp_path: Path) -> None:
    words = OperatorWords(tmp_path / "operator.json")
    words.weigh([(WEB, ONE)], 7, "bob")
    weighed = words.words[WEB, ONE]
    words.drain([(WEB, ONE)], "ann")
    drained = words.words[WEB, ONE]
    assert (drained.weight_by, drained.weight_at, drained.by) == ("bob", weighed.weight_at, "ann")
    assert drained.at >= drained.weight_at > 0
    words.ready([(WEB, ONE)], "cid")
    assert words.words == {(WEB, ONE): weighed}


def test_a_file_of_an_older_agent_has_one_stamp_for_both(tmp_path: Path) -> None:
    path = tmp_path / "operator.json"
    path.write_text('{"web": {"one": {"drains": true, "weight": 7, "by": "ann", "at": 5.0}}}')
    word = OperatorWords(path).words[WEB, ONE]
    assert (word.by, word.at, word.weight_by, word.weight_at) == ("ann", 5.0, "ann", 5.0)


def test_a_word_taken_back_leaves_nothing(tmp_path: Path) -> None:
    words = OperatorWords(tmp_path / "operator.json")
    words.drain([(WEB, ONE)], "ann")
    words.weigh([(WEB, ONE)], 7, "ann")
    words.ready([(WEB, ONE)], "ann")
    words.weigh([(WEB, ONE)], None, "ann")
    assert words.words == {}
    assert OperatorWords(tmp_path / "operator.json").words == {}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"web": []}', '{"web": {"one": {}}}', '{"w b": {}, "web": {"a b": 1}}',
             '{"web": {"one": {"drains": true, "weight": 300, "by": "", "at": 0}}}'],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "operator.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"operator\.json is damaged"):
        OperatorWords(path)


def test_a_nodes_name_means_all_its_servers() -> None:
    assert find_servers(table(), {}, "one") == [(API, ONE), (WEB, ONE)]
    assert find_servers(table(), {}, "web/one") == [(WEB, ONE)]


def test_a_service_is_no_server_and_an_unknown_name_says_who_is_there() -> None:
    with pytest.raises(Refused, match="web is a service: name one of its servers, as web/SERVER"):
        find_servers(table(), {}, "web")
    with pytest.raises(Refused, match="no server three; there are api/one, web/one, web/two"):
        find_servers(table(), {}, "three")
