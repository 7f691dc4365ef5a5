"""The JSON shapes: what an agent knows, as other programs read it."""

import json

from rumor.model import (
    AppState,
    Cause,
    Evidence,
    Member,
    MemberStatus,
    Offer,
    Outcome,
    Record,
    Rotation,
    Seconds,
    Server,
    ServerObservation,
    Service,
    StoredRevision,
    Table,
    WallTime,
)
from rumor.names import HostPort, MemberName, ServiceName
from rumor.web.views import (
    GossipStatus,
    HaproxyStatus,
    Status,
    TableView,
    history_json,
    iso,
    journal_json,
    members_json,
    ready_json,
    revision_json,
    status_json,
    table_json,
)

WEB, WEB_1 = ServiceName("web"), MemberName("web-1")
AT = WallTime(1_795_410_607.1234)
AT_TEXT = "2026-11-23T05:10:07.123Z"
MEMBER = Member(
    WEB_1,
    HostPort("10.0.0.7", 7946),
    {"service:web": "3000", "role": "backend"},
    MemberStatus.SUSPECT,
    incarnation=3,
    status_by="web-2",
    status_since=AT,
    vsn=bytes([1, 5, 2, 2, 5, 4]),
)
STORED = StoredRevision(
    "ab" * 32, "global\n", Cause("server_ready", "web-1 is ready", "web-1", AT), Outcome.APPLIED, "fine", "runtime", AT
)


def test_time_is_utc_with_milliseconds_and_null_where_there_is_none() -> None:
    assert iso(AT) == AT_TEXT
    assert iso(WallTime(1_795_410_607.0)) == "2026-11-23T05:10:07.000Z"
    assert iso(None) is None
    assert iso(WallTime(0.0)) is None


def test_member_has_serfs_shape_and_rumors_additions() -> None:
    assert members_json([MEMBER]) == {
        "members": [
            {
                "name": "web-1",
                "addr": "10.0.0.7:7946",
                "port": 7946,
                "tags": {"role": "backend", "service:web": "3000"},
                "status": "suspect",
                "protocol": {"max": 5, "min": 2, "version": 4},
                "incarnation": 3,
                "status_by": "web-2",
                "since": AT_TEXT,
            }
        ]
    }


def test_member_without_version_bytes_shows_zeros_as_serf_does() -> None:
    shown = members_json([Member(WEB_1, HostPort("::1", 1), {}, MemberStatus.ALIVE)])
    assert json.loads(json.dumps(shown))["members"][0]["protocol"] == {"max": 0, "min": 0, "version": 0}


def test_server_is_shown_with_its_evidence_and_what_haproxy_says_of_the_same_one() -> None:
    address = HostPort("10.0.0.7", 3000)
    server = Server(
        WEB_1,
        address,
        100,
        Rotation.DRAIN,
        "1.4",
        (Evidence("gossip", "suspect", "web-2", AT), Evidence("app", "ready")),
    )
    other = Server(MemberName("web-2"), HostPort("10.0.0.8", 3000), 50, Rotation.READY)
    seen = ServerObservation(WEB, WEB_1, address, Rotation.DRAIN, True, "L7OK", "DRAIN", 0, 2, sessions_total=9)
    elsewhere = ServerObservation(ServiceName("api"), other.name, None, Rotation.READY, None, "", "UP", 1, 0)
    view = TableView(Table((Service(WEB, (server, other)),)), "ab" * 32, (seen, elsewhere), {WEB: ("*/",)})
    assert table_json(view) == {
        "revision": "ab" * 32,
        "pinned": None,
        "services": [
            {
                "name": "web",
                "set_aside": "",
                "routes": ["*/"],
                "servers": [
                    {
                        "name": "web-1",
                        "address": "10.0.0.7:3000",
                        "state": "drain",
                        "weight": 100,
                        "version": "1.4",
                        "evidence": [
                            {"source": "gossip", "says": "suspect", "by": "web-2", "at": AT_TEXT},
                            {"source": "app", "says": "ready", "by": "", "at": None},
                        ],
                        "haproxy": {
                            "status": "DRAIN",
                            "check": "L7OK",
                            "is_up": True,
                            "sessions": 2,
                            "sessions_total": 9,
                        },
                    },
                    {
                        "name": "web-2",
                        "address": "10.0.0.8:3000",
                        "state": "ready",
                        "weight": 50,
                        "version": "",
                        "evidence": [],
                        "haproxy": None,
                    },
                ],
            }
        ],
    }


def test_status_of_a_balancer_says_all_of_it() -> None:
    status = Status(
        MemberName("balancer"),
        ("balancer", "web"),
        "0.1.0",
        4711,
        AT,
        Seconds(12.34567),
        gossip=GossipStatus(1, has_synced=True, counters={"packets_in": 7}),
        haproxy=HaproxyStatus(11, 12, "2.8.25", "ab", is_converged=True, is_in_control=False),
        services=(Offer(WEB, 3000, AppState.DRAINING, 10, "1.4"),),
        journal_write_errors=2,
    )
    assert status_json(status, [MEMBER]) == {
        "node": "balancer",
        "parts": ["balancer", "web"],
        "version": "0.1.0",
        "pid": 4711,
        "started_at": AT_TEXT,
        "uptime": 12.346,
        "ready": True,
        "reason": "",
        "gossip": {
            "members": 1,
            "statuses": {"alive": 0, "suspect": 1, "leaving": 0, "left": 0, "failed": 0},
            "health_score": 1,
            "has_synced": True,
            "counters": {"packets_in": 7},
        },
        "haproxy": {
            "master_pid": 11,
            "worker_pid": 12,
            "version": "2.8.25",
            "revision": "ab",
            "converged": True,
            "is_in_control": False,
        },
        "services": [{"name": "web", "port": 3000, "state": "draining", "weight": 10, "version": "1.4"}],
        "journal": {"write_errors": 2},
    }


def test_node_that_is_not_ready_says_why() -> None:
    status = Status(WEB_1, ("web",), "0.1.0", 1, AT, Seconds(0.0), not_ready="draining: it was asked to stop")
    assert ready_json(status) == {"ready": False, "reason": "draining: it was asked to stop"}
    shown = status_json(status, [])
    assert (shown["gossip"], shown["haproxy"], shown["services"]) == (None, None, [])


def test_history_has_no_text_and_a_revision_has() -> None:
    entry = {
        "id": "ab" * 32,
        "at": AT_TEXT,
        "kind": "server_ready",
        "subject": "web-1",
        "cause": "web-1 is ready",
        "outcome": "applied",
        "words": "fine",
        "how": "runtime",
        "settled_at": AT_TEXT,
    }
    assert history_json([STORED]) == {"pinned": None, "revisions": [entry]}
    assert revision_json(STORED) == {**entry, "text": "global\n"}


def test_record_of_the_journal_keeps_its_facts() -> None:
    assert journal_json([Record(AT, "server_down", "web-1", "went down", "check", {"b": "2", "a": "1"})]) == {
        "records": [
            {
                "at": AT_TEXT,
                "kind": "server_down",
                "subject": "web-1",
                "text": "went down",
                "cause": "check",
                "facts": {"a": "1", "b": "2"},
            }
        ]
    }
