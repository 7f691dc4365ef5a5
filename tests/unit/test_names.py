"""Text from the network becomes a strict type or is refused."""

import pytest

from rumor.errors import PeerError
from rumor.names import (
    Endpoint,
    HostPort,
    parse_endpoint,
    parse_host,
    parse_host_port,
    parse_ip,
    parse_member_name,
    parse_port,
    parse_service_name,
)


@pytest.mark.parametrize("name", ["web-3", "a", "Web_1.example", "0", "x" * 63])
def test_names_haproxy_can_print_are_accepted(name: str) -> None:
    assert parse_member_name(name) == name
    assert parse_service_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "x" * 64, "-web", ".web", "we b", "web\n", "web;x", "wéb", "web:1", "web/1", "web#", "FRONTEND", "BACKEND"],
)
def test_names_that_could_become_configuration_are_refused(name: str) -> None:
    with pytest.raises(PeerError):
        parse_member_name(name)


@pytest.mark.parametrize(("text", "port"), [("1", 1), ("65535", 65535), ("00080", 80)])
def test_ports_within_range_are_accepted(text: str, port: int) -> None:
    assert parse_port(text) == port


@pytest.mark.parametrize("text", ["0", "65536", "70000", "-1", "80 ", "8o", "", "000080", "٣٠"])
def test_ports_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(PeerError):
        parse_port(text)


@pytest.mark.parametrize(
    "text", ["127.1", "0x7f000001", "2130706433", "*", "", "$HOST", "fe80::1%eth0", "unix@/x", "host"]
)
def test_addresses_only_haproxy_would_understand_are_refused(text: str) -> None:
    with pytest.raises(PeerError):
        parse_ip(text)


def test_ipv6_is_printed_so_that_its_port_can_be_read_back() -> None:
    address = parse_host_port("[2001:db8:0::1]:80")
    assert address == HostPort("2001:db8::1", 80)
    assert str(address) == "[2001:db8::1]:80"
    assert parse_host_port(str(address)) == address


@pytest.mark.parametrize("text", ["127.0.0.1", "127.0.0.1:", "[::1]", "[::1", "::1:80x", "name:80"])
def test_a_server_address_needs_an_ip_and_a_port(text: str) -> None:
    with pytest.raises(PeerError):
        parse_host_port(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (":8080", Endpoint("", 8080)),
        ("balancer", Endpoint("balancer", 7946)),
        ("lb.example.org:1", Endpoint("lb.example.org", 1)),
        ("10.0.0.7", Endpoint("10.0.0.7", 7946)),
        ("::1", Endpoint("::1", 7946)),
        ("[::]:80", Endpoint("::", 80)),
    ],
)
def test_endpoints_may_be_names_addresses_or_any_address(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text, default_port=7946) == endpoint


@pytest.mark.parametrize("text", ["127.1:80", "a b:80", "a..b:80", "-a:80", "x" * 254 + ":80", "$HOST:80", "a\n:80"])
def test_endpoints_that_are_neither_address_nor_name_are_refused(text: str) -> None:
    with pytest.raises(PeerError):
        parse_endpoint(text)


def test_an_endpoint_without_a_port_is_refused_where_there_is_no_default() -> None:
    with pytest.raises(PeerError, match="port is missing"):
        parse_endpoint("balancer")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("255.255.255.255", "255.255.255.255"),
        ("0.0.0.0", "0.0.0.0"),
        ("2001:DB8::0", "2001:db8::"),
    ],
)
def test_hosts_are_printed_in_their_one_form(text: str, canonical: str) -> None:
    assert parse_host(text) == canonical == str(parse_ip(text))


@pytest.mark.parametrize(
    "text", ["256.0.0.1", "10.0.0.07", "10.0.0", "10.0.0.7\n", "10.0.0.1.2", "١.0.0.1", "", "web-1"]
)
def test_hosts_that_are_no_address_are_refused(text: str) -> None:
    with pytest.raises(PeerError):
        parse_host(text)
