"""Who is to blame for a refusal, and old parts with today's servers."""

from rumor.haproxy.config_text import read_config
from rumor.haproxy.parts import blamed, served, with_old_parts, with_servers, without_lines
from rumor.model import Rotation, Server, Service, Table
from rumor.names import HostPort, MemberName, ServiceName

WEB, API, DB = ServiceName("web"), ServiceName("api"), ServiceName("db")
TEXT = """global
    set-var proc.rumor_revision str(00)

frontend rumor
    bind :8080
    default_backend web

frontend rumor_tcp_db
    mode tcp
    bind 127.0.0.1:5432
    default_backend db

backend api
    balance leastconn
    server api-1 10.0.0.1:3000 weight 100 check inter 1s
    server api-2 10.0.0.2:3000 weight 0 check inter 1s backup

backend db
    mode tcp

backend web
    errorfile 503 /gone
    balance roundrobin

backend rumor_no_route
    http-request return status 404
"""


def line_of(text: str) -> int:
    return TEXT[: TEXT.index(text)].count("\n") + 1


def table(*servers: Server, service: ServiceName = API) -> Table:
    return Table((Service(service, servers),))


def server(name: str, last: int, rotation: Rotation = Rotation.READY, *, is_backup: bool = False) -> Server:
    return Server(MemberName(name), HostPort(f"10.0.0.{last}", 3000), 50, rotation, is_backup=is_backup)


def test_a_line_is_blamed_on_the_service_in_whose_part_it_stands() -> None:
    words = f"[ALERT] config : parsing [haproxy.cfg:{line_of('errorfile')}] : cannot open /gone\n"
    words += (
        "[ALERT] config : Error(s) found in configuration file : haproxy.cfg\n[ALERT] config : Fatal errors found in"
    )
    assert blamed(words, TEXT) == {WEB: f"config : parsing [haproxy.cfg:{line_of('errorfile')}] : cannot open /gone"}


def test_words_that_outlive_their_text_blame_by_names_alone() -> None:
    words = without_lines(
        f"[ALERT]    (7) : Binding [/run/haproxy.cfg:{line_of('errorfile')}] for frontend rumor_tcp_db: cannot bind\n"
        "[ALERT]    (7) : [/bin/haproxy.main()] Some protocols failed to start their listeners! Exiting.\n"
        "[WARNING]  (7) : Loading failure!"
    )
    assert list(blamed(words, TEXT)) == [DB]
    assert blamed(without_lines(f"[ALERT] config : [haproxy.cfg:{line_of('errorfile')}] : unknown"), TEXT) == {}


def test_a_service_without_a_server_takes_its_words_from_another_configuration() -> None:
    one = table(server("n1", 1))
    none = with_servers(TEXT, Table())
    assert "server n1 10.0.0.1:3000 weight 50 check inter 1s\n" in with_servers(none, one, like=TEXT)
    other = TEXT.replace("check inter 1s", "no-such-word")
    assert "no-such-word" not in with_servers(TEXT, table(server("api-9", 9)), like=other)
    assert served(TEXT) == {API}
    assert served(none) == set()


def test_an_address_is_blamed_however_it_is_written() -> None:
    for written in ("ipv4@127.0.0.1:5432", '"127.0.0.1:5432"', "127.0.0.1:5430-5440"):
        text = TEXT.replace("bind 127.0.0.1:5432", f"bind {written} name db")
        assert list(blamed("cannot bind 127.0.0.1:5432: Address already in use", text)) == [DB], written


def test_a_name_or_an_address_is_blamed_where_it_belongs() -> None:
    assert list(blamed("[ALERT] config : Proxy 'api': unable to find something", TEXT)) == [API]
    assert list(blamed("[ALERT] config : 'server api/api-1' : unable to load a file", TEXT)) == []
    assert list(blamed("[ALERT] config : parsing [haproxy.cfg:15] : 'server api/api-1' : unable to load", TEXT)) == [
        API
    ]
    assert list(blamed("cannot bind 127.0.0.1:5432: Address already in use", TEXT)) == [DB]


def test_what_belongs_to_all_is_blamed_on_nobody() -> None:
    both = f"[ALERT] [haproxy.cfg:{line_of('errorfile')}] : x\n[ALERT] [haproxy.cfg:{line_of('bind :8080')}] : y"
    assert blamed(both, TEXT) == {}
    assert blamed("[ALERT] [haproxy.cfg:2] : bad", TEXT) == {}
    assert blamed("[ALERT] something else", TEXT) == {}
    assert blamed("cannot bind :8080: Address already in use", TEXT) == {}
    assert blamed("[ALERT] Proxy 'rumor_no_route': x", TEXT) == {}


def test_todays_servers_stand_in_an_older_configuration_with_its_keywords() -> None:
    today = table(server("api-1", 9), server("api-3", 3, Rotation.MAINT), server("api-4", 4, is_backup=True))
    text = with_servers(TEXT, today)
    config = read_config(text)
    assert [line for line in text.splitlines() if "server api" in line] == [
        "    server api-1 10.0.0.9:3000 weight 50 check inter 1s",
        "    server api-3 10.0.0.3:3000 weight 50 disabled check inter 1s",
        "    server api-4 10.0.0.4:3000 weight 50 check inter 1s backup",
    ]
    assert config.base == read_config(TEXT).base
    assert with_servers(text, today) == text


def test_a_bad_part_gives_way_to_the_good_one_and_the_others_stay() -> None:
    good = TEXT.replace("errorfile 503 /gone", "errorfile 503 /there").replace("leastconn", "random")
    text = with_old_parts(TEXT, good, {WEB}, table(server("web-1", 7), service=WEB))
    assert "errorfile 503 /there" in text
    assert "/gone" not in text
    assert "balance leastconn" in text
    assert "    server web-1 10.0.0.7:3000 weight 50" in text


def test_a_bad_part_of_a_service_that_is_new_is_left_empty_and_not_served() -> None:
    text = with_old_parts(TEXT, "", {DB}, Table())
    assert "backend db\n\nbackend web" in text
    assert "rumor_tcp_db" not in text
