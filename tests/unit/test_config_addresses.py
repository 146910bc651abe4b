"""Hosts compared: what is the same machine by its writing alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawn.config import addresses


@pytest.mark.parametrize(
    ("host", "loopback", "wildcard"),
    [
        ("127.0.0.1", True, False),
        ("127.1.2.3", True, False),
        ("::1", True, False),
        ("[::1]", True, False),
        ("::ffff:127.0.0.1", True, False),
        ("LocalHost.", True, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("10.0.0.1", False, False),
        ("example.com", False, False),
    ],
)
def test_loopback_and_wildcard_hosts(host: str, loopback: bool, wildcard: bool) -> None:
    assert addresses.is_loopback(host) is loopback
    assert addresses.is_wildcard(host) is wildcard


@pytest.mark.parametrize(
    ("host", "listener", "reaches"),
    [
        ("127.0.0.1", "0.0.0.0", True),
        ("example.com", "0.0.0.0", False),
        ("127.0.0.2", "127.0.0.1", False),
        ("localhost", "::1", True),
        ("localhost", "10.0.0.1", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("EXAMPLE.com", "example.com.", True),
    ],
)
def test_which_hosts_come_to_a_listener(host: str, listener: str, reaches: bool) -> None:
    assert addresses.reaches_listener(host, listener) is reaches


@given(st.text(max_size=30))
def test_any_text_is_a_host_or_a_value_error(text: str) -> None:
    try:
        host = addresses.parse_host(text)
    except ValueError:
        return
    assert host.isascii()
    assert addresses.parse_host(host) == host


@given(st.ip_addresses(), st.integers(1, 65_535))
def test_an_authority_reads_back(address: object, port: int) -> None:
    host = addresses.parse_host(str(address))
    name = addresses.authority(host, port)
    try:
        assert addresses.parse_authority(name) == name
    except ValueError:
        with pytest.raises(ValueError):
            addresses.parse_node_host(host)
