"""What a process does with signals, in one of its own: they stay without effect in it afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import clean_environment

# A service that only waits, and work that waits for ``goes_on``. It sends the signal to itself, one in each turn of
# the hub (of those that come in one turn the hub sees one), and says how often the work was done and what was left.
PROGRAM = """
import gc, json, os, signal, sys
import gevent
from gevent.event import Event
import spawn.log
from spawn.service import signals

class Service:
    def __init__(self): self.ended = Event()
    def stop(self): self.ended.set()
    def wait(self): storming.join()
    def unsettled(self): return {}

number, fails = getattr(signal, sys.argv[1]), sys.argv[2] == "fails"
goes_on, done = Event(), 0

def work():
    global done
    done += 1
    goes_on.wait()
    if fails: raise LookupError("a bug")

def alive():
    return sum(isinstance(each, gevent.Greenlet) and not each.dead for each in gc.get_objects())

def send(count):
    for _ in range(count):
        os.kill(os.getpid(), number)
        gevent.sleep(0.001)

def storm():
    send(1)
    before = alive()
    send(200)
    said = {"piled up": alive() - before, "meanwhile": done}
    goes_on.set()
    gevent.sleep(0.2)
    said["after"] = done
    send(1)
    gevent.sleep(0.1)
    said["another"] = done
    goes_on.clear()
    send(2)  # it is at work, and asked once more, when it is told to stop
    os.kill(os.getpid(), signal.SIGTERM)
    gevent.sleep(0.1)
    said["stopped"] = done
    print(json.dumps(said))

spawn.log.reopen = work
storming = gevent.spawn(storm)
code = signals.run(Service(), work)
os.kill(os.getpid(), number)
sys.exit(code)
"""


@pytest.mark.parametrize("how", ["ends well", "fails"])
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_any_number_of_signals_are_one_more_time(tmp_path: Path, name: str, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, how],
        capture_output=True,
        text=True,
        env=clean_environment(tmp_path),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == {"piled up": 0, "meanwhile": 1, "after": 2, "another": 3, "stopped": 4}
