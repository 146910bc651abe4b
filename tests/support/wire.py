"""A network link as a process: it carries packets between our network namespace and one that it makes, or does not.

There is a TUN device at each end, and every packet passes through here. So the link can lose packets, delay them or
swallow all of them in one direction, without a word to either side and without any module of the kernel besides TUN.
Devices and namespace go away with the processes that use them, however those end.

What it does is in its control file (JSON: ``version``, and for ``there`` and ``back`` a ``loss`` from 0 to 1 and a
``delay_s``); once a version is in force, its number is in the file ``CONTROL.done``.

Run as root: ``python -m tests.support.wire DEVICE OUR-ADDRESS ITS-ADDRESS CONTROL SEED`` (addresses of one /30). Exits
with 77 where a machine does not allow this. The node runs in the namespace with ``nsenter --net=/proc/PID/ns/net``.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

NOT_ALLOWED = 77  # exit code
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
POLL_S = 0.01


def open_tun(name: str) -> int:
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return file


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def new_namespace() -> None:
    """This process leaves the network namespace it is in for a new one (Python 3.11 has no ``os.unshare``)."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


class Way:
    """One direction."""

    def __init__(self, source: int, target: int, chance: random.Random) -> None:
        self.source = source
        self.loss = self.delay_s = 0.0
        self._target = target
        self._chance = chance
        self._under_way: list[tuple[float, int, bytes]] = []
        self._count = 0

    def take(self) -> None:
        with contextlib.suppress(OSError):  # nothing more, or the device is down
            while packet := os.read(self.source, 65_536):
                if self._chance.random() >= self.loss:
                    self._count += 1
                    heapq.heappush(self._under_way, (time.monotonic() + self.delay_s, self._count, packet))

    def deliver(self) -> float:
        """Hand over what is due; returns how many seconds the next packet has left."""
        while self._under_way:
            left_s = self._under_way[0][0] - time.monotonic()
            if left_s > 0:
                return left_s
            with contextlib.suppress(OSError):
                os.write(self._target, heapq.heappop(self._under_way)[2])
        return POLL_S


class Control:
    def __init__(self, path: Path, ways: dict[str, Way]) -> None:
        self._path = path
        self._ways = ways
        self._version = -1

    def look(self) -> None:
        try:
            wanted = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return
        if wanted["version"] != self._version:
            for name, way in self._ways.items():
                way.loss, way.delay_s = wanted[name]["loss"], wanted[name]["delay_s"]
            self._version = wanted["version"]
            self._path.with_name(self._path.name + ".done").write_text(str(self._version), "ascii")


def main() -> None:
    device, here, there, control_path, seed = sys.argv[1:]
    try:
        ours = open_tun(device)
        ip("address", "add", f"{here}/30", "dev", device)
        ip("link", "set", device, "up")
        new_namespace()
        its = open_tun(device)
        ip("address", "add", f"{there}/30", "dev", device)
        ip("link", "set", device, "up")
        ip("link", "set", "lo", "up")
    except OSError as error:
        print(error)
        sys.exit(NOT_ALLOWED)
    chance = random.Random(seed)
    ways = {"there": Way(ours, its, chance), "back": Way(its, ours, chance)}
    control = Control(Path(control_path), ways)
    while True:
        control.look()
        wait_s = min(POLL_S, *(way.deliver() for way in ways.values()))
        select.select([ours, its], [], [], wait_s)
        for way in ways.values():
            way.take()


if __name__ == "__main__":
    main()
