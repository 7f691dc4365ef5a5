"""serf's command line is read as serf reads it, and refused in its words."""

import json
from pathlib import Path

import pytest

from rumor.cli.serf_flags import SerfCommand, banner, is_serf_style, read_command
from rumor.errors import ConfigError
from rumor.names import Endpoint
from rumor.swim.sealing import format_key

KEY = format_key(bytes(32))


def read(*words: str) -> SerfCommand:
    return read_command(words, {})


def test_without_a_flag_it_is_serfs_default() -> None:
    command = read()
    config = command.config
    assert (command.profile, command.log_level) == ("lan", "info")
    assert config.cluster.bind == Endpoint("0.0.0.0", 7946)
    assert config.serf.rpc == Endpoint("127.0.0.1", 7373)
    assert config.cluster.compression
    assert config.cluster.key is None


@pytest.mark.parametrize("dash", ["-", "--"])
@pytest.mark.parametrize("joint", ["=", None])
def test_one_dash_or_two_and_a_value_joined_or_apart(dash: str, joint: str | None) -> None:
    def flag(name: str, value: str) -> list[str]:
        return [f"{dash}{name}={value}"] if joint else [f"{dash}{name}", value]

    command = read(
        *flag("node", "a"), *flag("bind", "10.0.0.7"), *flag("tag", "role=web"), *flag("tag", "x=1=2"),
        *flag("join", "b"), *flag("join", "c:1"), *flag("event-handler", "user=run"), *flag("encrypt", KEY),
        *flag("profile", "wan"), *flag("protocol", "4"), *flag("rpc-auth", "secret"),
    )  # fmt: skip
    config = command.config
    assert (command.node, command.profile) == ("a", "wan")
    assert config.cluster.bind == Endpoint("10.0.0.7", 7946)
    assert config.serf.tags == {"role": "web", "x": "1=2"}
    assert config.serf.start_join == ("b", "c:1")
    assert (config.serf.handlers, config.serf.protocol) == (("user=run",), 4)
    assert config.cluster.key == bytes(32)
    assert "secret" not in repr(config)


@pytest.mark.parametrize(("word", "is_on"), [("-replay", True), ("-replay=false", False), ("--replay=t", True)])
def test_a_switch_needs_no_value_and_takes_none(word: str, is_on: bool) -> None:
    assert read(word, "-node", "a").config.serf.replay is is_on


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["-bogus"], "flag provided but not defined: -bogus"),
        (["-node"], "flag needs an argument: -node"),
        (["-profile=x"], "Unknown profile: x"),
        (["-tag=bad"], "Error: Invalid tag: 'bad'"),
        (["-log-level=FOO"], "Invalid log level: FOO. Valid log levels are: [TRACE DEBUG INFO WARN ERR]"),
        (["-protocol=9"], "Protocol version '9' too high. Must be in range: [2, 5]"),
        (["-protocol=1"], "Protocol version '1' too low. Must be in range: [2, 5]"),
        (["-event-handler=nope=x"], "Invalid event script: Event 'nope' invoking 'x'"),
        (["-encrypt=bad!"], "Invalid encryption key: "),
        (["-replay=maybe"], 'invalid boolean value "maybe" for -replay: parse error'),
        (["-retry-interval=10ms"], "-retry-interval is at least 1s"),
        (["-config-file=/no/such.json"], "Error reading '/no/such.json': No such file or directory"),
        (["-keyring-file=/no/ring"], "cannot read the keyring file /no/ring"),
        (["-iface=nosuch0"], "Failed to get interface addresses: nosuch0"),
    ],
)
def test_what_is_wrong_is_said_in_serfs_words(words: list[str], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*words)
    assert str(caught.value).startswith(error)


def test_json_files_come_first_in_order_and_flags_win(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.json").write_text(json.dumps({"node_name": "b", "event_handlers": ["user=b"]}))
    (tmp_path / "d" / "a.json").write_text(json.dumps({"node_name": "a", "tags": {"role": "web"}, "rpc_auth": "s"}))
    (tmp_path / "one.json").write_text(
        json.dumps({"bind": "10.0.0.9", "start_join": ["x"], "leave_on_terminate": False, "replay_on_join": True})
    )
    command = read(f"-config-dir={tmp_path / 'd'}", f"-config-file={tmp_path / 'one.json'}", "-join=y", "-tag=dc=east")
    serf = command.config.serf
    assert command.node == "b"
    assert serf.start_join == ("x", "y")
    assert serf.tags == {"role": "web", "dc": "east"}
    assert (serf.handlers, serf.rpc_token, serf.leave_on_terminate, serf.replay) == (("user=b",), "s", False, True)
    assert read(f"-config-dir={tmp_path / 'd'}", "-node=flag").node == "flag"


@pytest.mark.parametrize("text", ["{", "[]", '{"node_nmae": "a"}', '{"start_join": "x"}', '{"leave_on_terminate": 1}'])
def test_a_wrong_json_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.json"):
        read(f"-config-file={path}")


def test_a_tags_file_and_tags_exclude_one_another(tmp_path: Path) -> None:
    path = tmp_path / "tags.json"
    assert read(f"-tags-file={path}").config.serf.tags == {}
    path.write_text('{"role": "db"}')
    assert read(f"-tags-file={path}").config.serf.tags == {"role": "db"}
    with pytest.raises(ConfigError, match="Tags config not allowed"):
        read(f"-tags-file={path}", "-tag=a=b")


def test_a_keyring_file_and_a_key_exclude_one_another(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    path.write_text(json.dumps([KEY]))
    assert read(f"-keyring-file={path}").config.serf.keyring_file == path
    with pytest.raises(ConfigError, match="not allowed while using a keyring"):
        read(f"-keyring-file={path}", f"-encrypt={KEY}")


@pytest.mark.parametrize(
    ("words", "is_serfs"),
    [
        ([], True),
        (["-node=a"], True),
        (["--rpc-addr", "127.0.0.1:1"], True),
        (["-tag", "a=b", "-bogus"], True),
        (["web"], False),
        (["balancer", "--node", "x"], False),
        (["--help"], False),
        (["--node", "x", "web"], False),
    ],
)
def test_serfs_command_lines_are_told_from_ours(words: list[str], is_serfs: bool) -> None:
    assert is_serf_style(words) is is_serfs


def test_the_banner_is_serfs_and_tells_no_key() -> None:
    text = banner(
        read("-node=q", "-bind=127.0.0.1:27949", f"-encrypt={KEY}", "-disable-compression"), "127.0.0.1:27949"
    )
    assert "                      Node name: 'q'\n                      Bind addr: '127.0.0.1:27949'\n" in text
    assert "                      Encrypted: true\n" in text
    assert "    Message Compression Enabled: false\n" in text
    assert KEY not in text
