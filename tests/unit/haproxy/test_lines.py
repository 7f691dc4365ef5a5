"""Steps become lines in HAProxy's language, and its replies say what became of them."""

import pytest

from rumor.haproxy.lines import Done, NotAtRunTime, NotYet, commands, describe, path, read_reply
from rumor.haproxy.steps import (
    AddServer,
    DrainServer,
    EnableCheck,
    EnableFrontend,
    LimitFrontend,
    LimitServer,
    MaintServer,
    MoveServer,
    ProbeServer,
    ReadyServer,
    RemoveServer,
    RequeueServer,
    Step,
    WeightServer,
)
from rumor.names import HostPort, MemberName, ServiceName

KEY = ServiceName("web"), MemberName("one")
HERE = HostPort("10.0.0.1", 80)
SIX = HostPort("fd00::1", 80)


@pytest.mark.parametrize(
    ("step", "lines"),
    [
        (
            AddServer(KEY, HERE, 50, "check inter 1s", "fall 2"),
            ("add server web/one 10.0.0.1:80 fall 2 weight 50 check inter 1s", "enable health web/one",
             "set server web/one state drain"),
        ),
        (
            AddServer(KEY, SIX, 50, "", has_check=False),
            ("add server web/one [fd00::1]:80 weight 50", "set server web/one state drain"),
        ),
        (ReadyServer(KEY), ("set server web/one state ready",)),
        (MoveServer(KEY, SIX), ("set server web/one addr fd00::1 port 80",)),
        (EnableCheck(KEY), ("enable health web/one",)),
        (WeightServer(KEY, 7), ("set server web/one weight 7",)),
        (RequeueServer(KEY, 7), ("set server web/one weight 6", "set server web/one weight 7")),
        (RequeueServer(KEY, 1), ("set server web/one weight 2", "set server web/one weight 1")),
        (DrainServer(KEY), ("set server web/one state drain",)),
        (DrainServer(KEY, enables_check=True), ("enable health web/one", "set server web/one state drain")),
        (MaintServer(KEY), ("set server web/one state maint",)),
        (
            RemoveServer(KEY, cuts_sessions=False),
            ("set server web/one state drain", "set server web/one state maint", "del server web/one"),
        ),
        (ProbeServer(KEY, HERE, ReadyServer(KEY)), ()),
        (LimitServer(KEY, 30), ("set maxconn server web/one 30",)),
        (EnableFrontend("rumor"), ("enable frontend rumor",)),
        (LimitFrontend("rumor", 9), ("set maxconn frontend rumor 9",)),
    ],
)  # fmt: skip
def test_each_step_has_its_lines(step: Step, lines: tuple[str, ...]) -> None:
    assert commands(step) == lines


def test_sessions_are_cut_before_a_server_goes_and_only_when_its_time_is_up() -> None:
    assert commands(RemoveServer(KEY, cuts_sessions=True))[0] == "shutdown sessions server web/one"


@pytest.mark.parametrize(
    ("step", "reply", "outcome"),
    [
        (AddServer(KEY, HERE, 1, ""), "New server registered.", Done()),
        (AddServer(KEY, HERE, 1, ""), "Already exists a server with the same name in backend.", Done()),
        (
            AddServer(KEY, HERE, 1, ""),
            "\n'resolvers' option is not accepted for dynamic server\n",
            NotAtRunTime("'resolvers' option is not accepted for dynamic server"),
        ),
        (RemoveServer(KEY, False), "Server deleted.", Done()),
        (RemoveServer(KEY, False), "No such server.", Done()),
        (RemoveServer(KEY, False), "Server still has connections attached to it, cannot remove it.", NotYet()),
        (
            RemoveServer(KEY, False),
            "This server cannot be removed at runtime due to other configuration elements pointing to it.",
            NotAtRunTime(
                "This server cannot be removed at runtime due to other configuration elements pointing to it."
            ),
        ),
        (MoveServer(KEY, HERE), "IP changed from 'a' to 'b' by 'stats socket command'", Done()),
        (MoveServer(KEY, HERE), "no need to change the addr, no need to change the port by…", Done()),
        (ReadyServer(KEY), "", Done()),
        (EnableFrontend("rumor"), "", Done()),
        (EnableFrontend("rumor"), "All sockets are already enabled.", Done()),
        (
            EnableFrontend("rumor"),
            "Frontend was previously shut down, cannot enable.",
            NotAtRunTime("Frontend was previously shut down, cannot enable."),
        ),
        (DrainServer(KEY), "No such server.", Done()),
    ],
)
def test_a_reply_says_what_became_of_a_step(step: Step, reply: str, outcome: Done | NotYet | NotAtRunTime) -> None:
    assert read_reply(step, reply) == outcome


@pytest.mark.parametrize(
    "step",
    [
        AddServer(KEY, HERE, 1, ""), ReadyServer(KEY), MoveServer(KEY, HERE), WeightServer(KEY, 1), EnableCheck(KEY),
        DrainServer(KEY), MaintServer(KEY), RemoveServer(KEY, False),
    ],
)  # fmt: skip
def test_a_no_to_any_step_is_kept_in_haproxys_words_and_left_to_a_reload(step: Step) -> None:
    assert read_reply(step, "\nPermission denied\n") == NotAtRunTime("Permission denied")


def test_every_step_has_a_name_of_its_own() -> None:
    steps = (
        AddServer(KEY, HERE, 1, ""), ReadyServer(KEY), MoveServer(KEY, HERE), EnableCheck(KEY), WeightServer(KEY, 1),
        DrainServer(KEY), MaintServer(KEY), RemoveServer(KEY, False), ProbeServer(KEY, HERE, ReadyServer(KEY)),
        LimitServer(KEY, 1),
    )  # fmt: skip
    words = {describe(step) for step in steps}
    assert describe(EnableFrontend("rumor")) == "enable frontend rumor"
    assert describe(LimitFrontend("rumor", 9)) == "maxconn frontend rumor 9"
    assert len(words) == len(steps)
    assert all(path(KEY) in word for word in words)
