"""At which address a node can be reached, where nobody has said."""

import pytest

from rumor.agent.addresses import advertised_address, interface_addresses
from rumor.config import ClusterConfig
from rumor.errors import ConfigError
from rumor.names import Endpoint, HostPort

ANYWHERE = ClusterConfig()


def nowhere() -> str:
    raise OSError("Network is unreachable")


def test_it_is_the_one_from_which_packets_leave() -> None:
    found = advertised_address(ANYWHERE, routed=lambda: "10.0.0.7", addresses=lambda: ("10.9.9.9",))
    assert found == HostPort("10.0.0.7", 7946)


def test_in_a_network_without_a_way_out_it_is_the_first_that_is_not_loopback() -> None:
    found = advertised_address(ANYWHERE, routed=nowhere, addresses=lambda: ("127.0.0.1", "172.20.0.3", "172.21.0.3"))
    assert found == HostPort("172.20.0.3", 7946)


def test_a_host_with_loopback_alone_must_be_told() -> None:
    with pytest.raises(ConfigError, match="--advertise"):
        advertised_address(ANYWHERE, routed=nowhere, addresses=lambda: ("127.0.0.1",))


def test_what_was_said_holds() -> None:
    said = ClusterConfig(advertise=Endpoint("10.0.0.9", 7000))
    assert advertised_address(said, routed=nowhere, addresses=lambda: ()) == HostPort("10.0.0.9", 7000)
    assert advertised_address(ClusterConfig(bind=Endpoint("10.0.0.8", 7946)), routed=nowhere) == HostPort(
        "10.0.0.8", 7946
    )


def test_loopback_is_among_the_addresses_of_this_host() -> None:
    assert "127.0.0.1" in interface_addresses()
