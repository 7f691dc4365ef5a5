"""HAProxy's replies become values, whatever version said them; what has an unknown form is refused with its text."""

import pytest

from rumor.errors import Refused
from rumor.haproxy import replies
from rumor.haproxy.replies import (
    Readings,
    filter_state,
    parse_processes,
    parse_reload,
    parse_servers,
    parse_variable,
    split_conversation,
    split_picture,
)
from rumor.model import Rotation, ServerObservation
from rumor.names import HostPort, parse_ip

COLUMNS = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port"
)
HEAD = f"1\n# {COLUMNS}\n"
STAT_HEAD = "# pxname,svname,qcur,scur,slim,stot,econ,eresp,status,weight,check_status\n"


def state_row(name: str = "one", *, address: str = "10.0.0.1", port: int = 80, admin: int = 0, op: int = 2) -> str:
    return f"3 web 1 {name} {address} {op} {admin} 100 100 7 6 3 4 6 0 0 0 - {port} - 0 0 - - 0\n"


def stat_row(name: str = "one", *, status: str = "UP", check: str = "L7OK", scur: str = "0", qcur: str = "0") -> str:
    return f"web,{name},{qcur},{scur},,12,1,2,{status},100,{check}\n"


def one(state: str, stat: str) -> ServerObservation:
    (found,) = parse_servers(HEAD + state, STAT_HEAD + stat)
    return found


# --- conversations


# What 2.8.25 and 3.2.26 say to the same three lines: an `add server` of three commands, and two of one command each.
BY_COMMAND = (
    "\n> \n> 2.8.25-5cf5d0683\n\n> New server registered.\n\n> \n> \n> No such server.\n\n> \n> "
)  # fmt: skip
BY_LINE = "\n> \n3.2.26-1\n\n> New server registered.\n\n\n\n> No such server.\n\n> \n> "


@pytest.mark.parametrize("reply", [BY_COMMAND, BY_LINE], ids=["2.8", "3.2"])
def test_a_conversation_is_taken_apart_by_lines_wherever_the_prompts_stand(reply: str) -> None:
    assert split_conversation(reply, [3, 1, 1]) == ["New server registered.", "No such server.", ""]


@pytest.mark.parametrize("reply", [BY_COMMAND, BY_LINE], ids=["2.8", "3.2"])
def test_a_conversation_that_broke_off_has_no_replies(reply: str) -> None:
    for end in range(len(reply)):
        assert split_conversation(reply[:end], [3, 1, 1]) is None, reply[:end]


# --- processes and reloads


PROC = (
    "#<PID>          <type>          <reloads>       <uptime>        <version>\n"
    "1162            master          3 [failed: 1]   0d00h02m07s     2.8.25-1\n"
    "# workers\n"
    "1271            worker          1               0d00h00m00s     2.8.25-1\n"
    "# old workers\n"
    "1233            worker          3               0d00h00m43s     2.8.25-1\n"
    "1240            worker          2               0d00h00m40s     2.8.25-1\n"
    "# programs\n\n"
)


def test_processes_are_told_apart() -> None:
    found = parse_processes(PROC)
    assert (found.master_pid, found.worker_pid, found.old_worker_pids) == (1162, 1271, (1233, 1240))
    assert (found.reloads, found.version) == (3, "2.8.25-1")


def test_a_master_without_a_worker_is_seen() -> None:
    assert parse_processes(PROC.split("# workers", maxsplit=1)[0]).worker_pid is None


def test_no_master_is_refused() -> None:
    with pytest.raises(Refused, match="names no master"):
        parse_processes("Permission denied\n")


def test_a_reload_says_success_or_why_not() -> None:
    assert parse_reload("Success=1\n--\n") == ""
    assert parse_reload("Success=0\n--\n[ALERT] (12) : cannot bind\n") == "[ALERT] (12) : cannot bind"
    assert "the reload failed" in parse_reload("")


def test_the_words_against_a_reload_begin_with_what_stands_against_it() -> None:
    alerts = (
        "[ALERT]    (7) : Binding [/run/haproxy.cfg:32] for frontend rumor: cannot bind UNIX socket [abns@x]\n"
        "[ALERT]    (7) : [/bin/haproxy.main()] Some protocols failed to start their listeners! Exiting."
    )
    notices = "[NOTICE]   (7) : haproxy version is 2.8.25\n[NOTICE]   (7) : path to executable is /bin/haproxy"
    warning = "[WARNING]  (7) : Loading failure!"
    assert parse_reload(f"Success=0\n--\n{notices}\n{alerts}\n{warning}\n") == f"{alerts}\n{warning}\n{notices}"


def test_a_variable_that_is_not_set_is_empty() -> None:
    assert parse_variable("proc.rumor_revision: type=str value=<abc>\n") == "abc"
    assert parse_variable("Variable not found.\n") == ""


# --- pictures of servers


def test_a_picture_is_taken_apart_by_its_headings() -> None:
    picture = split_picture("proc.x: type=str value=<abc>\n\n" + HEAD + state_row() + "\n" + STAT_HEAD + stat_row())
    assert parse_variable(picture.variable) == "abc"
    assert len(parse_servers(picture.state, picture.stat)) == 1


@pytest.mark.parametrize("text", ["", HEAD, STAT_HEAD, STAT_HEAD + HEAD, "Unknown command\n"])
def test_a_picture_without_both_tables_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="unknown form"):
        split_picture(text)


def test_a_server_is_read_whole() -> None:
    found = one(state_row(address="fd00::1", port=8080), stat_row(scur="3", qcur="2"))
    assert (found.service, found.server, found.address) == ("web", "one", HostPort("fd00::1", 8080))
    assert (found.rotation, found.is_up, found.sessions) == (Rotation.READY, True, 5)
    assert (found.sessions_total, found.connect_errors, found.response_errors, found.weight) == (12, 1, 2, 100)


@pytest.mark.parametrize(
    ("admin", "rotation"),
    [
        (0, Rotation.READY), (4, Rotation.READY), (8, Rotation.DRAIN), (12, Rotation.DRAIN), (16, Rotation.DRAIN),
        (1, Rotation.MAINT), (2, Rotation.MAINT), (32, Rotation.MAINT), (64, Rotation.MAINT), (9, Rotation.MAINT),
    ],
)  # fmt: skip
def test_administrative_bits_are_a_place_in_the_rotation(admin: int, rotation: Rotation) -> None:
    assert one(state_row(admin=admin), stat_row()).rotation is rotation


@pytest.mark.parametrize(
    ("status", "check", "admin", "is_up"),
    [
        ("UP", "L7OK", 0, True),
        ("UP", "* L7OK", 0, True),
        ("UP", "L4OK", 0, True),
        ("DOWN", "L4CON", 0, False),
        ("DOWN 1/2", "L7OK", 0, False),
        ("UP", "L7STS", 0, False),  # on its way down
        ("DRAIN", "L4TOUT", 8, False),
        ("UP 1/3", "INI", 0, None),
        ("DRAIN 1/3", "L7OK", 8, None),  # words of a check from before maintenance
        ("no check", "", 0, None),
        ("MAINT", "L7OK", 1, None),
    ],
)
def test_a_check_is_passed_failed_or_still_unknown(status: str, check: str, admin: int, is_up: bool | None) -> None:
    assert one(state_row(admin=admin), stat_row(status=status, check=check)).is_up is is_up


def test_the_sessions_of_replaced_workers_count_too() -> None:
    old = STAT_HEAD + stat_row(scur="4")
    (found,) = parse_servers(HEAD + state_row(), STAT_HEAD + stat_row(scur="1"), [old, old])
    assert found.sessions == 9


def test_servers_that_were_read_before_are_the_same_values_and_others_are_read_anew() -> None:
    last: Readings = {}
    state = HEAD + state_row("one") + state_row("two")
    first = parse_servers(state, STAT_HEAD + stat_row("one") + stat_row("two"), last=last)
    assert first == parse_servers(state, STAT_HEAD + stat_row("one") + stat_row("two"))
    second = parse_servers(state, STAT_HEAD + stat_row("one") + stat_row("two", scur="3"), last=last)
    assert second[0] is first[0]
    assert (first[1].sessions, second[1].sessions) == (0, 3)
    third = parse_servers(
        state,
        STAT_HEAD + stat_row("one") + stat_row("two", scur="3"),
        [STAT_HEAD + stat_row("one", scur="1")],
        last=last,
    )
    assert [entry.sessions for entry in third] == [1, 3]
    parse_servers(HEAD + state_row("two"), STAT_HEAD + stat_row("two"), last=last)
    assert list(last) == [("web", "two")]


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_no_word_of_an_app_makes_a_row(character: str) -> None:
    """The reason of an app's answer stands at the end of its server's row."""
    forged = stat_row("one", status="DOWN", check="L4CON").strip()
    stat = STAT_HEAD.replace("\n", ",last_chk\n") + stat_row().replace("\n", f",hm{character}{forged}\n")
    (found,) = parse_servers(HEAD + state_row(), stat)
    assert found.is_up is True


def test_tables_without_a_column_that_matters_are_refused() -> None:
    with pytest.raises(Refused, match="no column check_status"):
        parse_servers(HEAD + state_row(), STAT_HEAD.replace("check_status", "other") + stat_row())
    with pytest.raises(Refused, match="no column srv_uweight"):
        parse_servers(HEAD.replace("srv_uweight", "other") + state_row(), STAT_HEAD + stat_row())


@pytest.mark.parametrize("row", [state_row(address="-"), state_row(name="not_ours!"), state_row(port=0)])
def test_servers_that_are_not_ours_are_left_out(row: str) -> None:
    assert [entry.server for entry in parse_servers(HEAD + row + state_row("two"), STAT_HEAD)] == ["two"]


@pytest.mark.parametrize(
    ("state", "stat"),
    [
        ("", STAT_HEAD),
        ("2\n# new\n", STAT_HEAD),
        (HEAD + "3 web 1 one\n", STAT_HEAD),
        (HEAD + state_row(), "Permission denied\n"),
    ],
)
def test_tables_of_another_form_are_refused(state: str, stat: str) -> None:
    with pytest.raises(Refused, match="unknown form"):
        parse_servers(state, stat)


def test_there_is_a_limit_to_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "ROWS_LIMIT", 3)
    with pytest.raises(Refused, match="more than 3 servers"):
        parse_servers(HEAD + state_row() * 4, STAT_HEAD)
    with pytest.raises(Refused, match="more than 3 servers"):
        parse_servers(HEAD + state_row(), STAT_HEAD + stat_row() * 4)


# --- the state file for a reload


def filtered(state: str, wanted: dict[str, HostPort]) -> dict[str, dict[str, str]]:
    text = filter_state(HEAD + state, {("web", name): address for name, address in wanted.items()})
    assert text.startswith(HEAD)
    rows = [dict(zip(COLUMNS.split(), line.split(), strict=True)) for line in text.splitlines()[2:]]
    return {row["srv_name"]: row for row in rows}


def test_states_of_servers_that_stay_where_they_are_go_on() -> None:
    stay = {"one": HostPort("10.0.0.1", 80), "two": HostPort("10.0.0.1", 80)}
    rows = filtered(state_row(admin=8) + state_row("two"), stay)
    assert (rows["one"]["srv_admin_state"], rows["two"]["srv_admin_state"]) == ("8", "0")


def test_an_address_is_the_same_however_haproxy_writes_it() -> None:
    stay = {"one": HostPort.of(parse_ip("::ffff:10.0.0.1"), 80), "two": HostPort.of(parse_ip("::10.0.0.2"), 80)}
    rows = filtered(state_row(address="::ffff:10.0.0.1", admin=8) + state_row("two", address="::10.0.0.2"), stay)
    assert (rows["one"]["srv_admin_state"], rows["two"]["srv_admin_state"]) == ("8", "0")
    assert filtered(state_row(address="-"), stay) == {}


@pytest.mark.parametrize("admin", [1, 8])
def test_nobody_stays_drained_where_nobody_carries_on(admin: int) -> None:
    stay = {"one": HostPort("10.0.0.1", 80), "two": HostPort("10.0.0.1", 80)}
    assert set(filtered(state_row(admin=admin) + state_row("two", op=0), stay)) == {"two"}
    assert filtered(state_row(admin=admin) + state_row("gone"), {"one": stay["one"]}) == {}


def test_a_stale_address_never_wins_over_the_new_file() -> None:
    assert "one" not in filtered(state_row(admin=1), {"one": HostPort("10.0.0.9", 80)})
    assert filtered(state_row("gone"), {}) == {}


def test_a_new_server_comes_in_drained_where_another_carries_on() -> None:
    rows = filtered(state_row(), {"one": HostPort("10.0.0.1", 80), "new": HostPort("10.0.0.2", 81)})
    assert (rows["new"]["srv_admin_state"], rows["new"]["srv_addr"], rows["new"]["srv_port"]) == ("8", "10.0.0.2", "81")


@pytest.mark.parametrize("row", [state_row(admin=1), state_row(admin=8), state_row(op=0)])
def test_a_new_server_serves_at_once_where_no_other_does(row: str) -> None:
    assert "new" not in filtered(row, {"one": HostPort("10.0.0.1", 80), "new": HostPort("10.0.0.2", 81)})
