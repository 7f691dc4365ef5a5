"""A rendered configuration is read as far as the differ must, and no further."""

import pytest

from rumor.errors import Refused
from rumor.haproxy.config_text import ConfigText, carried_revision, read_config, words_of
from rumor.model import Rotation
from rumor.names import HostPort, MemberName, ServiceName

WEB, ONE, TWO = ServiceName("web"), MemberName("one"), MemberName("two")
ID = "ab" * 32


def backend(*lines: str, head: str = "backend web", before: str = "") -> ConfigText:
    return read_config("\n".join((before, head, *(f"    {line}" for line in lines))) + "\n")


def test_server_lines_are_values() -> None:
    config = backend(
        "server one 10.0.0.1:80 weight 100 check inter 1s",
        "server two [fd00::2]:81 weight 0 disabled check",
    )
    one, two = config.servers[WEB, ONE], config.servers[WEB, TWO]
    assert (one.address, one.weight, one.rotation) == (HostPort("10.0.0.1", 80), 100, Rotation.READY)
    assert one.keywords == "check inter 1s"
    assert (two.address, two.rotation) == (HostPort("fd00::2", 81), Rotation.MAINT)


def test_weight_0_is_drained() -> None:
    assert backend("server one 10.0.0.1:80 weight 0").servers[WEB, ONE].rotation is Rotation.DRAIN


def test_the_base_is_all_but_servers_and_the_revision() -> None:
    first = backend(
        "balance leastconn", "server one 10.0.0.1:80 weight 1", before=f"    set-var proc.rumor_revision str({ID})"
    )
    second = backend(
        "balance leastconn", "server two 10.0.0.2:80 weight 2", before="    set-var proc.rumor_revision str(0)"
    )
    other = backend("balance roundrobin", "server one 10.0.0.1:80 weight 1")
    assert first.base == second.base
    assert first.base != other.base


@pytest.mark.parametrize(
    "line",
    [
        "server one name.example:80 weight 1",  # a name: HAProxy resolves it
        "server one 10.0.0.1:80 weight 1 id seven\\ up",
        "server one 10.0.0.1:80 weight",
        "server one unix@/run/app.sock weight 1",
        'server one 10.0.0.1:80 weight 1 id "7"',
        "server one 10.0.0.1:80 weight 1 source $OUT",
        "server one 10.0.0.1:80 weight 300",
    ],
)
def test_a_line_of_another_form_is_left_alone(line: str) -> None:
    config = backend(line, "server two 10.0.0.2:80 weight 1")
    assert set(config.servers) == {(WEB, TWO)}
    assert config.is_fixed((WEB, ONE))
    assert not config.is_fixed((WEB, TWO))
    assert line in config.base


def test_words_stand_in_any_order_and_comments_and_spacing_are_nothing() -> None:
    config = backend("server one 10.0.0.1:80 check disabled  inter 1s\tweight 7 rise 3 # said by hand")
    line = config.servers[WEB, ONE]
    assert (line.weight, line.rotation, line.keywords) == (7, Rotation.MAINT, "check inter 1s rise 3")
    said = backend("balance   leastconn # as ever", "", "# more", "http-request set-header X 'a  # b'")
    assert said.base == backend("balance leastconn", "http-request set-header X 'a  # b'").base
    assert said.base != backend("balance leastconn", "http-request set-header X 'a # b'").base


def test_a_line_without_a_weight_leaves_it_to_haproxy() -> None:
    line = backend("server one 10.0.0.1:80 check").servers[WEB, ONE]
    assert (line.weight, line.says_weight) == (1, False)


@pytest.mark.parametrize(("text", "words"), [
    ("", []), ("   # nothing", []), ("a b  c", ["a", "b", "c"]), ("a#b", ["a"]), (r"a\ b c", [r"a\ b", "c"]),
    ("a 'b  #c' d", ["a", "'b  #c'", "d"]), ('a "b \\" c" d', ["a", '"b \\" c"', "d"]), ("a 'b c", ["a", "'b c"]),
    ("x'y z'w", ["x'y z'w"]), ("a b\\", ["a", "b", "\\"]),
])  # fmt: skip
def test_words_are_parted_as_haproxy_parts_them(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_a_server_template_makes_a_whole_backend_its_own() -> None:
    config = backend("server-template srv 3 _web._tcp.example:80 check")
    assert config.is_fixed((WEB, ONE))


def test_server_lines_count_in_backends_alone() -> None:
    config = backend("server one 10.0.0.1:80 weight 1", head="peers web")
    assert not config.servers
    assert set(backend("server one 10.0.0.1:80 weight 1", head="listen web").servers) == {(WEB, ONE)}


def test_a_server_that_stands_twice_is_refused_with_its_line() -> None:
    with pytest.raises(Refused, match=r"haproxy\.cfg line 4: server one stands twice in backend web"):
        backend("server one 10.0.0.1:80 weight 1", "server one 10.0.0.2:80 weight 1")


def test_default_server_words_are_inherited_as_haproxy_does() -> None:
    text = (
        "defaults\n default-server inter 5s\n"
        "backend web\n default-server fall 2\n server one 10.0.0.1:80 weight 1\n"
        "defaults\n mode http\n"
        "backend api\n default-server rise 9\n server one 10.0.0.1:80 weight 1\n"
        "backend plain\n server one 10.0.0.1:80 weight 1\n"
    )
    assert read_config(text).default_keywords == {"web": "inter 5s fall 2", "api": "rise 9"}


def test_the_carried_revision_is_found_and_only_whole() -> None:
    assert carried_revision(f"global\n    set-var proc.rumor_revision str({ID})\n") == ID
    assert carried_revision("global\n    set-var proc.rumor_revision str(abcd)\n") == ""
    assert carried_revision("") == ""
