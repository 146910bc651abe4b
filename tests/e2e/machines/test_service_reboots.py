"""A machine that reboots, or loses its power, has its service again, and the service has everything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.load import Load
from tests.support.machines import needs_programs
from tests.support.rootfs import Kind
from tests.support.services import Service, running_pid, succeeds

pytestmark = [needs_programs, pytest.mark.timeout(900)]
MakeService = Callable[[Kind], Service]
kinds = pytest.mark.parametrize("kind", Kind, ids=str)


@kinds
def test_it_is_up_again_after_a_reboot(service: MakeService, kind: Kind) -> None:
    here = service(kind).install().start()
    with Load(here.url, total=50) as load:
        load.join()
    here.machine.reboot()
    assert here.wait_serving()
    assert "INFO  stopped; " in here.log(), "it was stopped in order"
    assert here.put("after", "x").headers["Spawn-Sequence"] == "51"
    # When it was stopped by hand, then a reboot starts it all the same: that is what "installed" means
    succeeds(here.machine, "stop")
    here.machine.reboot()
    assert here.wait_serving()
    # When it was removed, then it stays away
    succeeds(here.machine, "remove")
    here.machine.reboot()
    assert running_pid(here.machine) is None


@kinds
def test_a_power_failure_costs_nothing_that_was_acknowledged(service: MakeService, kind: Kind) -> None:
    here = service(kind).install().start()
    with Load(here.url, total=300, stubborn=True) as load:
        load.wait_acknowledged(100)
        here.machine.power_off(hard=True)
        here.machine.boot()
        here.wait_serving()
        load.join()
    assert load.failures, "the power failed too late to be a test"
    here.check_history(load, kills=1)
