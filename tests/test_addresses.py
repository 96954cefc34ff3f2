"""Whose address a request comes from: ``addresses``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.addresses import NO_ADDRESS, TrustedProxies, group_of

PROXY, CLIENT, OTHER = "10.0.0.1", "192.0.2.7", "198.51.100.9"
PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:1::/48", "127.0.0.1"])


@pytest.mark.parametrize("forwarded", ["", CLIENT, f"{CLIENT}, {PROXY}"])
@pytest.mark.parametrize("peer", [PROXY, OTHER, "::1", NO_ADDRESS])
def test_without_trusted_proxies_the_header_is_ignored(peer: str, forwarded: str) -> None:
    assert TrustedProxies([]).client(peer, forwarded) == peer


def test_the_header_of_a_peer_that_is_not_trusted_is_ignored() -> None:
    assert PROXIES.client(OTHER, CLIENT) == OTHER


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("", PROXY),
        (CLIENT, CLIENT),
        (f"{OTHER}, {CLIENT}", CLIENT),
        (f"{OTHER},{CLIENT},10.1.1.1 , 10.2.2.2", CLIENT),
        (f"{CLIENT}, 2001:db8:1::5", CLIENT),
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
        (f"{CLIENT}:4711", CLIENT),
        ("[2001:db8:9::1]:4711", "2001:db8:9::1"),
        ("[2001:db8:9::1]", "2001:db8:9::1"),
        ("2001:DB8:9:0::1", "2001:db8:9::1"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"{CLIENT}, ::ffff:10.3.3.3", CLIENT),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy_of_ours(
    forwarded: str, client: str
) -> None:
    assert PROXIES.client(PROXY, forwarded) == client


@pytest.mark.parametrize(
    "malformed",
    ["unknown", "", " ", "_hidden", "192.0.2", "192.0.2.256", "1.2.3.4:x", "é", "1"],
)
def test_an_entry_that_is_no_address_ends_the_walk(malformed: str) -> None:
    assert PROXIES.client(PROXY, f"{CLIENT}, {malformed}") == PROXY
    assert PROXIES.client(PROXY, f"{CLIENT}, {malformed}, 10.1.1.1") == "10.1.1.1"


def test_whoever_asks_over_a_unix_socket_is_a_proxy_where_any_is_trusted() -> None:
    assert PROXIES.client(NO_ADDRESS, CLIENT) == CLIENT
    assert PROXIES.client(NO_ADDRESS, f"{OTHER}, {CLIENT}, {PROXY}") == CLIENT
    assert PROXIES.client(NO_ADDRESS, "unknown") == NO_ADDRESS


def test_a_peer_of_a_socket_for_both_families_is_trusted_by_its_ipv4_address() -> None:
    assert PROXIES.client(f"::ffff:{PROXY}", CLIENT) == CLIENT


@given(written=st.text(max_size=60), peer=st.sampled_from([PROXY, "2001:db8:1::1", NO_ADDRESS]))
def test_nothing_a_client_writes_changes_whom_a_proxy_says_it_is(written: str, peer: str) -> None:
    assert PROXIES.client(peer, f"{written}, {CLIENT}") == CLIENT


@given(st.text(max_size=60))
def test_whatever_stands_in_the_header_an_address_comes_of_it(forwarded: str) -> None:
    assert group_of(PROXIES.client(PROXY, forwarded))


def test_ipv4_counts_by_address_and_ipv6_by_64_bits() -> None:
    assert group_of(CLIENT) == group_of(f"::ffff:{CLIENT}") != group_of("192.0.2.8")
    assert group_of("2001:db8:0:1::1") == group_of("2001:db8:0:1:ffff::")
    assert group_of("2001:db8:0:1::1") != group_of("2001:db8:0:2::1")
    assert group_of("::c000:207") != group_of(CLIENT)


@pytest.mark.parametrize("none", ["", NO_ADDRESS, "nonsense", "/run/socket"])
def test_what_is_no_address_is_not_counted(none: str) -> None:
    assert group_of(none) == ""
