"""A service under SysV init: its script does what the LSB says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.load import Load
from tests.support.machines import needs_programs
from tests.support.rootfs import Kind
from tests.support.services import Service, running_pid, succeeds
from tests.support.waiting import eventually

pytestmark = [needs_programs, pytest.mark.timeout(900)]
MakeService = Callable[[Kind], Service]


@pytest.fixture
def here(service: MakeService) -> Service:
    """Installed and started, and both nodes serve."""
    return service(Kind.SYSV).install().start()


def verb(here: Service, name: str) -> int:
    done = here.machine.run("service", "spawn", name, check=False, timeout_s=150)
    print(f"service spawn {name}  # {done.returncode}\n{done.stdout}{done.stderr}", end="")
    return done.returncode


def test_the_script_speaks_lsb(here: Service) -> None:
    first = here.wait_serving()
    assert verb(here, "status") == 0
    assert verb(here, "start") == 0, "it runs already: fine"
    assert here.wait_serving() == first
    for again in ("restart", "force-reload", "try-restart"):
        assert verb(here, again) == 0
        assert here.wait_serving(other_than=first)
    assert verb(here, "stop") == 0
    assert verb(here, "status") == 3
    assert running_pid(here.machine) is None
    assert verb(here, "stop") == 0, "it is stopped already: fine"
    assert verb(here, "try-restart") == 0
    assert verb(here, "reload") == 7
    assert verb(here, "status") == 3
    assert verb(here, "nonsense") == 2
    assert verb(here, "start") == 0
    assert here.wait_serving()


def test_reload_takes_up_a_node(here: Service) -> None:
    first = here.wait_serving()
    here.nodes.append(here.new_node())
    here.write_config()
    assert verb(here, "reload") == 0
    eventually(lambda: len(here.api.nodes()) == 3, timeout_s=20, what="three nodes")
    assert here.wait_serving() == first, "the same process"


def test_after_kill_9_it_is_stopped_and_goes_on_where_it_was(here: Service) -> None:
    first = here.wait_serving()
    with Load(here.url, total=300, stubborn=True) as load:
        load.wait_acknowledged(100)
        here.machine.kill(first)
        eventually(lambda: running_pid(here.machine) is None, timeout_s=20, what="status says so")
        succeeds(here.machine, "start")
        load.join()
    assert load.failures, "the kill came too late to be a test"
    assert here.wait_serving(other_than=first)
    here.check_history(load, kills=1)
