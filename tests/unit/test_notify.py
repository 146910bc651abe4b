"""The protocol of sd_notify(3): what goes over the socket, and what becomes of it when nobody reads."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawn.service.notify import KEPT, ServiceManager
from tests.support.manager import Manager, fill


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path / "notify") as made:
        yield made


def messages(manager: Manager) -> list[dict[str, str]]:
    return [each.message for each in manager.heard() if "OTHER" not in each.message]


def test_several_things_are_one_message(manager: Manager) -> None:
    ServiceManager(str(manager.path)).tell(READY=1, STATUS="serving")
    assert messages(manager) == [{"READY": "1", "STATUS": "serving"}]


@pytest.mark.parametrize("text", ["a\nSTOPPING=1", "a\rb", "a\u2028b", "a\x00b", "a\udcffb"])
def test_no_value_can_be_a_second_line(manager: Manager, text: str) -> None:
    ServiceManager(str(manager.path)).tell(STATUS=text)
    (message,) = messages(manager)
    assert list(message) == ["STATUS"]
    assert message["STATUS"].isprintable()


def test_a_value_is_cut_before_the_manager_would_drop_the_message(manager: Manager) -> None:
    ServiceManager(str(manager.path)).insist(STATUS="ü" * 9_000)
    (message,) = messages(manager)
    assert len(message["STATUS"].encode()) < 4_000


def test_an_abstract_address() -> None:
    name = f"spawn-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        ServiceManager(f"@{name}").tell(READY=1)
        assert manager.recv(100) == b"READY=1"


def test_without_a_manager_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    nobody = ServiceManager.of({"WATCHDOG_USEC": "1000"}, 1)
    nobody.tell(STATUS="x")
    nobody.insist(READY=1)
    assert (nobody.watchdog_s, caplog.text) == (0.0, "")


def test_what_it_must_hear_waits_for_room_and_the_rest_does_not(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a manager that does not read
    fill(manager)
    ours = ServiceManager(str(manager.path))
    for number in range(KEPT):
        ours.tell(WATCHDOG=1)
        ours.insist(PHASE=number)
    assert caplog.text.count("does not hear") == 1
    # When it does, then it hears in their order what it must
    assert messages(manager) == []
    ours.tell(STATUS="now")
    assert messages(manager) == [*({"PHASE": str(number)} for number in range(KEPT)), {"STATUS": "now"}]
    # And the next spell is news again
    fill(manager)
    ours.tell(WATCHDOG=1)
    assert caplog.text.count("does not hear") == 2


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 0),
        ({"WATCHDOG_USEC": "0"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "-5"}, 0),
    ],
)
def test_what_the_environment_says_of_the_watchdog(environ: dict[str, str], watchdog_s: float) -> None:
    assert ServiceManager.of({"NOTIFY_SOCKET": "/x", **environ}, 7).watchdog_s == watchdog_s
