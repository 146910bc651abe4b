"""The service manager's end of sd_notify(3): one socket, and what may be asked of the environment about it.

Nothing here waits: a manager that does not read is not waited for, and that is said once until it reads again. What it
has to hear in any case (``insist``) is kept, in order, and tried again before anything else is told. No value
can be more than one line, whatever is in it. Without a manager everything here does nothing.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Mapping

from spawn.log import escape

log = logging.getLogger("spawn.service")

KEPT = 8  # more changes of phase than a manager can miss; then the oldest go
VALUE_CHARS = 800  # systemd takes 4096 bytes in all


class ServiceManager:
    """Whoever listens at ``address`` (a path, or an abstract one with a leading @), or nobody where that is empty.

    ``watchdog_s``: it wants to hear ``WATCHDOG=1`` within each such time; 0: never.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self.address = address
        self.watchdog_s = watchdog_s if address else 0.0
        self._unsent: deque[bytes] = deque(maxlen=KEPT)
        self._deaf = False

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> ServiceManager:
        """The one that the environment of the process ``pid`` names."""
        return cls(environ.get("NOTIFY_SOCKET", ""), _watchdog_s(environ, pid))

    def tell(self, **said: str | int) -> None:
        """Say ``NAME=value`` and the like, in one message, now or never."""
        if self.catch_up():
            self._send(_message(said))

    def insist(self, **said: str | int) -> None:
        """Say what it must hear: at the next opportunity, if not now."""
        if self.address:
            self._unsent.append(_message(said))
            self.catch_up()

    def catch_up(self) -> bool:
        """Try again what it must hear; whether there is somebody, and nothing is left of that."""
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()
        return bool(self.address) and not self._unsent

    def _send(self, message: bytes) -> bool:
        """With a socket of its own each time: the manager may have been started anew, and bound another."""
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                channel.connect(address)
                channel.send(message)
        except OSError as error:
            if not self._deaf:
                log.warning("the service manager does not hear how Spawn is: %s", error.strerror or error)
            self._deaf = True
            return False
        self._deaf = False
        return True


def _message(said: Mapping[str, str | int]) -> bytes:
    lines = (f"{name}={escape(str(value))[:VALUE_CHARS]}" for name, value in said.items())
    return "\n".join(lines).encode()


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float:
    """As sd_watchdog_enabled(3): what is meant for another process is not for us."""
    interval, meant = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not interval or meant not in ("", str(pid)):
        return 0.0
    if not (interval.isascii() and interval.isdigit()):
        log.warning("WATCHDOG_USEC is %s, which is no number of microseconds: the watchdog is not served", interval)
        return 0.0
    return int(interval) / 1e6
