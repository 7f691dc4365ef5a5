"""The text of a revision: stable, complete, and refused rather than bent."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from rumor.errors import Refused
from rumor.haproxy.config_text import read_config
from rumor.model import Cause, Evidence, Revision, Rotation, Seconds, Server, Service, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName
from rumor.render.publish import read_template
from rumor.render.settings import BackendSettings, BalancerTimeouts, CheckRule, RenderSettings, Route
from rumor.render.template import render, revision_id

WEB, API = ServiceName("web"), ServiceName("api")
START = Cause("start", "the agent started")
MINIMAL = "global\n    set-var proc.rumor_revision str({{ revision }})\n"


def backend(
    service: ServiceName = WEB,
    *routes: Route,
    balance: str = "roundrobin",
    retries: int = 3,
    repeat_post: bool = False,
    sticky_key: str = "",
    drain: float = 10.0,
    http_path: str = "/health",
) -> BackendSettings:
    return BackendSettings(
        service=service,
        routes=routes or (Route(),),
        check=CheckRule(http_path, Seconds(0.5), Seconds(0.3), 2, 3),
        balance=balance,
        drain=Seconds(drain),
        retries=retries,
        repeat_post=repeat_post,
        sticky_key=sticky_key,
    )


def settings(*backends: BackendSettings, template: str | None = None) -> RenderSettings:
    return RenderSettings(
        binds=(Endpoint("", 8080), Endpoint("::1", 8080), Endpoint("10.0.0.1", 80)),
        stats=Endpoint("127.0.0.1", 1936),
        run_directory=Path("/run/rumor"),
        maxconn=4000,
        timeouts=BalancerTimeouts(server=Seconds(30.0)),
        backends=backends or (backend(),),
        template_text=read_template(None) if template is None else template,
        template_name="mine.j2",
    )


def server(
    name: str = "web-1", host: str = "10.0.0.7", rotation: Rotation = Rotation.READY, weight: int = 100
) -> Server:
    return Server(MemberName(name), HostPort(host, 3000), weight, rotation)


def table(*servers: Server) -> Table:
    return Table((Service(WEB, servers),))


def revision_of(table: Table, wanted: RenderSettings | None = None) -> Revision:
    return render(table, wanted or settings(), START)


def lines(wanted: RenderSettings, table: Table = Table()) -> list[str]:  # noqa: B008 - frozen
    return [line.strip() for line in render(table, wanted, START).text.splitlines()]


def section(wanted: RenderSettings, heading: str, table: Table = Table()) -> list[str]:  # noqa: B008 - frozen
    text = render(table, wanted, START).text
    _, _, rest = text.partition(f"\n{heading}\n")
    found: list[str] = []
    for line in rest.splitlines():
        if line and not line.startswith((" ", "#")):
            break
        found += [line.strip()] if line.strip() else []
    return found


def test_the_id_is_the_hash_of_the_text_without_the_line_that_carries_it() -> None:
    revision = revision_of(table(server()))
    line = f"    set-var proc.rumor_revision str({revision.id})\n"
    assert revision.text.count(line) == 1
    assert revision.id == hashlib.sha256(revision.text.replace(line, "").encode()).hexdigest()
    assert revision.id == revision_id(revision.text)


def test_equal_tables_give_equal_revisions() -> None:
    plain = server()
    newer = replace(plain, version="1.5", evidence=(Evidence("gossip", "alive"),))
    assert revision_of(table(plain)).text == revision_of(table(newer)).text
    assert render(table(plain), settings(), Cause("other", "another cause")).id == revision_of(table(plain)).id


@pytest.mark.parametrize(
    "other",
    [
        table(),
        table(server("web-2")),
        table(server(host="10.0.0.8")),
        table(server(weight=99)),
        table(server(rotation=Rotation.DRAIN)),
        table(server(rotation=Rotation.MAINT)),
    ],
)
def test_another_table_gives_another_revision(other: Table) -> None:
    assert revision_of(other).id != revision_of(table(server())).id


@pytest.mark.parametrize(
    ("rotation", "host", "start"),
    [
        (Rotation.READY, "10.0.0.7", "server web-1 10.0.0.7:3000 weight 50 check inter 500ms "),
        (Rotation.DRAIN, "10.0.0.7", "server web-1 10.0.0.7:3000 weight 0 check inter 500ms "),
        (Rotation.MAINT, "fd00::7", "server web-1 [fd00::7]:3000 weight 50 disabled check inter 500ms "),
    ],
)
def test_a_server_line_has_the_agreed_form(rotation: Rotation, host: str, start: str) -> None:
    (line,) = [line for line in lines(settings(), table(server("web-1", host, rotation, 50))) if "server web-1" in line]
    assert line.startswith(start)
    assert line.endswith("fall 3 rise 2 observe layer4 error-limit 1 on-error mark-down")


def test_servers_are_all_that_differs_between_two_tables() -> None:
    one = revision_of(table(server()))
    two = revision_of(table(server(rotation=Rotation.MAINT), server("web-2", "fd00::2", weight=3)))
    read = read_config(two.text)
    assert read_config(one.text).base == read.base
    assert [(line.name, str(line.address), line.weight, line.rotation) for line in read.servers.values()] == [
        ("web-1", "10.0.0.7:3000", 100, Rotation.MAINT),
        ("web-2", "[fd00::2]:3000", 3, Rotation.READY),
    ]


def test_every_address_is_bound_as_haproxy_writes_it() -> None:
    assert [line for line in lines(settings()) if line.startswith("bind")] == [
        "bind :8080", "bind [::1]:8080", "bind 10.0.0.1:80", "bind 127.0.0.1:1936",
    ]  # fmt: skip


def test_without_a_stats_address_there_is_no_stats_page() -> None:
    assert "stats enable" in lines(settings())
    assert not any("stats enable" in line or "rumor_stats" in line for line in lines(replace(settings(), stats=None)))


def test_old_processes_outlive_the_longest_drain() -> None:
    assert "hard-stop-after 80000ms" in lines(settings(backend(drain=10), backend(API, drain=60)))


def test_a_particular_route_goes_before_a_general_one() -> None:
    wanted = settings(
        backend(WEB, Route("*", "/")),
        backend(API, Route("*", "/api"), Route("*", "/api/v2/"), Route("api.test", "/"), Route("api.test", "/x")),
    )
    front = section(wanted, "frontend rumor")
    assert [line for line in front if line.startswith(("use", "default"))] == [
        "use_backend api if route_0_host route_0_path",
        "use_backend api if route_1_host",
        "use_backend api if route_2_path",
        "use_backend api if route_3_path",
        "default_backend web",
    ]
    assert [line for line in front if line.startswith("acl")] == [
        "acl route_0_host req.hdr(host),host_only -i api.test",
        "acl route_0_path path /x",
        "acl route_0_path path_beg /x/",
        "acl route_1_host req.hdr(host),host_only -i api.test",
        "acl route_2_path path /api/v2",
        "acl route_2_path path_beg /api/v2/",
        "acl route_3_path path /api",
        "acl route_3_path path_beg /api/",
    ]


def test_without_a_route_for_all_the_rest_gets_404() -> None:
    assert "default_backend rumor_no_route" in lines(settings(backend(WEB, Route("*", "/app"))))


def test_a_service_without_servers_has_its_backend() -> None:
    assert "balance roundrobin" in section(settings(), "backend web")


def test_retries_are_by_the_findings() -> None:
    back = section(settings(), "backend web")
    for line in (
        "retries 3",
        "option redispatch 1",
        "retry-on conn-failure empty-response response-timeout",
        "http-request disable-l7-retry unless { method GET HEAD OPTIONS TRACE PUT DELETE }",
    ):
        assert line in back


def test_a_service_may_say_that_its_posts_can_be_repeated() -> None:
    back = section(settings(backend(repeat_post=True)), "backend web")
    assert "retries 3" in back
    assert not any("disable-l7-retry" in line for line in back)


def test_no_retries_means_no_redispatch_either() -> None:
    back = section(settings(backend(retries=0)), "backend web")
    assert "retries 0" in back
    assert "no option redispatch" in back
    assert not any("retry-on" in line or "option redispatch 1" in line for line in back)


@pytest.mark.parametrize(
    ("balance", "is_hash"),
    [("roundrobin", False), ("leastconn", False), ("first", False), ("random", False), ("source", True), ("uri", True)],
)
def test_a_hash_is_consistent_since_dynamic_servers_want_it(balance: str, is_hash: bool) -> None:
    back = section(settings(backend(balance=balance)), "backend web")
    assert f"balance {balance}" in back
    assert ("hash-type consistent" in back) is is_hash


def test_sticky_clients_get_a_dynamic_cookie() -> None:
    back = section(settings(backend(ServiceName("my.web"), sticky_key="k3y")), "backend my.web")
    assert "cookie RUMOR_my_web insert indirect nocache httponly dynamic" in back
    assert "dynamic-cookie-key k3y" in back
    assert not any("cookie" in line for line in section(settings(), "backend web"))


def test_a_tcp_check_asks_for_no_page() -> None:
    assert "option httpchk" in section(settings(), "backend web")
    assert "option httpchk" not in section(settings(backend(http_path="")), "backend web")


def test_a_run_directory_may_have_a_space_in_its_name() -> None:
    wanted = replace(settings(), run_directory=Path("/home/a b/ü"))
    assert "stats socket '/home/a b/ü/haproxy.sock' mode 600 level admin expose-fd listeners" in lines(wanted)
    assert "server-state-file '/home/a b/ü/haproxy.state'" in lines(wanted)


@pytest.mark.parametrize("name", ["a,b", "a'b", "$HOME", "a\nb", "a\\b"])
def test_a_run_directory_that_haproxy_would_misread_is_refused(name: str) -> None:
    with pytest.raises(Refused, match=r"cannot stand in haproxy\.cfg"):
        render(Table(), replace(settings(), run_directory=Path("/run") / name), START)


@pytest.mark.parametrize(
    "route",
    [Route("*", "api"), Route("-f", "/"), Route("a b", "/"), Route("*", "/a\n/b"), Route("*", "/#"), Route("$H", "/x")],
)
def test_a_route_that_would_mean_something_else_is_refused(route: Route) -> None:
    with pytest.raises(Refused):
        render(Table(), settings(backend(WEB, route)), START)


def test_a_service_by_rumors_own_name_is_refused() -> None:
    with pytest.raises(Refused, match="404"):
        render(Table(), settings(backend(ServiceName("rumor_no_route"))), START)


# --- templates of one's own


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("line\n{% for %}", "line 2"),
        ("line\n\n{{ settings.nothing }}", "line 3"),
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ settings.binds.append(1) }}", "append"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% for x in range(10 ** 9) %}{% endfor %}", "range"),
        ("{{ 'a b' | word }}", "'a b' is no plain word"),
    ],
)
def test_a_broken_template_is_refused_with_its_place(template: str, words: str) -> None:
    with pytest.raises(Refused, match=r"^template mine\.j2") as caught:
        render(Table(), settings(template=MINIMAL + template), START)
    if words.startswith("line"):
        words = f"line {int(words.removeprefix('line ')) + 2}"
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "global\n",
        MINIMAL + MINIMAL,
        "global\n    # {{ revision }}\n",
        "global\n    set-var proc.rumor_revision str(1)\n",
    ],
)
def test_a_template_must_carry_the_revision_once(template: str) -> None:
    with pytest.raises(Refused, match=r"set-var proc\.rumor_revision"):
        render(Table(), settings(template=template), START)


def test_a_template_of_ones_own_sees_table_and_settings() -> None:
    own = MINIMAL + "{% for s in table.services[0].servers %}# {{ s.name }} of {{ settings.maxconn }}\n{% endfor %}"
    assert "# web-1 of 4000\n" in render(table(server()), settings(template=own), START).text


def test_a_template_that_never_ends_in_size_is_refused() -> None:
    with pytest.raises(Refused, match="characters come out"):
        render(Table(), settings(template=MINIMAL + "{{ '#' * 20000000 }}"), START)
