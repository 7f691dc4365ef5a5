"""Which balancers share their stick tables."""

from rumor.agent.peers import PEERS_TAG, peers_of
from rumor.model import Member, MemberStatus
from rumor.names import HostPort, MemberName

OWN = HostPort("10.0.0.1", 10000)
ME = MemberName("lb-1")


def balancer(name: str, last: int, port: str = "10000", status: MemberStatus = MemberStatus.ALIVE) -> Member:
    return Member(MemberName(name), HostPort(f"10.0.0.{last}", 7946), {PEERS_TAG: port}, status)


def test_a_balancer_that_shares_nothing_has_no_peers() -> None:
    assert peers_of([balancer("lb-2", 2)], ME, None) == ()


def test_all_balancers_see_the_same_list() -> None:
    members = [
        balancer("lb-2", 2, "10001"),
        balancer("lb-1", 1),
        Member(MemberName("web"), OWN, {}, MemberStatus.ALIVE),
    ]
    assert peers_of(members, ME, OWN) == (("lb-1", OWN), ("lb-2", HostPort("10.0.0.2", 10001)))
    assert peers_of(members, MemberName("lb-2"), HostPort("10.0.0.2", 10001)) == peers_of(members, ME, OWN)


def test_one_that_failed_stays_and_one_that_left_goes() -> None:
    members = [balancer("lb-2", 2, status=MemberStatus.FAILED), balancer("lb-3", 3, status=MemberStatus.LEFT)]
    assert [name for name, _ in peers_of(members, ME, OWN)] == ["lb-1", "lb-2"]


def test_a_port_that_is_none_is_no_peer() -> None:
    assert [name for name, _ in peers_of([balancer("lb-2", 2, "1;x"), balancer("lb-3", 3, "70000")], ME, OWN)] == [
        "lb-1"
    ]
