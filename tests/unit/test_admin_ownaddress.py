"""Spawn's own listeners are recognised however they are written."""

from __future__ import annotations

import pytest

from spawn.admin.ownaddress import is_own_ip, refuse_own_listener
from spawn.admin.rendering import Failure
from spawn.admin.settings import AdminSettings

LISTENERS = (("0.0.0.0", 7117), ("127.0.0.1", 7118), ("spawn.myapp.com", 7119))
SETTINGS = AdminSettings("1", "2026-01-01", LISTENERS, own_hosts=("gate.myapp.com", "203.0.113.9"))


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("127.0.0.1", 7117),
        ("127.3.2.1", 7117),
        ("localhost", 7117),
        ("LOCALHOST.", 7117),
        ("::ffff:127.0.0.1", 7117),
        ("gate.myapp.com", 7117),
        ("Gate.MyApp.com.", 7117),
        ("203.0.113.9", 7117),
        ("127.0.0.1", 7118),
        ("localhost", 7118),
        ("SPAWN.myapp.com", 7119),
        ("gate.myapp.com", 7118),  # a machine's name may be one for its loopback address
    ],
)
def test_an_own_listener_is_refused(host: str, port: int) -> None:
    with pytest.raises(Failure) as caught:
        refuse_own_listener(host, port, SETTINGS)
    assert caught.value.status == 400
    assert "is Spawn's own listener" in caught.value.info


@pytest.mark.parametrize(
    ("host", "port"),
    [("127.0.0.1", 7017), ("203.0.113.10", 7117), ("node1.myapp.com", 7117), ("203.0.113.9", 7118)],
)
def test_anything_else_is_taken(host: str, port: int) -> None:
    refuse_own_listener(host, port, SETTINGS)


def test_the_kernel_knows_the_addresses_of_this_machine() -> None:
    assert is_own_ip("127.0.0.1")
    assert not is_own_ip("203.0.113.10")  # TEST-NET-3, nobody's
    assert not is_own_ip("2001:db8::1")  # documentation, nobody's
    assert not is_own_ip("node1")
