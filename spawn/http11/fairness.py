"""One connection's share of the hub, by the work that its bytes make and not by how many they are.

A greenlet whose peer is always ready never waits and so never lets others run. Plain bytes are cheap to pass on: a
share is ``FAIR_BYTES`` of them. A body in small chunks is dozens of times dearer: a share of it is ``DENSE_BYTES``, and
no more than that is received at a time, because what was received is decoded in one go.
"""

from __future__ import annotations

import gevent

FAIR_BYTES = 1_048_576
DENSE_BYTES = 8_192
DENSE_RATIO = 16  # one byte of framing to so many of the body: chunks of about 100 bytes
PAUSE_S = 0.000_1  # not 0: gevent may switch between greenlets that sleep 0 s fifty times before it looks at a socket


class Share:
    """What one connection has used since the last time that others could run."""

    __slots__ = ("dense", "spent")

    def __init__(self) -> None:
        self.spent = 0
        self.dense = False  # whether there was much framing among the last bytes

    def limit(self, limit_bytes: int) -> int:
        """How much to receive next when up to ``limit_bytes`` are wanted."""
        return min(limit_bytes, DENSE_BYTES) if self.dense else limit_bytes

    def decoded(self, received: int, body: int) -> None:
        """So many bytes were received and so many of them were of the body. Lets others run when it is their turn."""
        self.dense = DENSE_RATIO * (received - body) > body
        self.use(received * (FAIR_BYTES // DENSE_BYTES) if self.dense else received)

    def use(self, count: int) -> None:
        """Count bytes that were plain work. Lets others run when it is their turn."""
        self.spent += count
        if self.spent >= FAIR_BYTES:
            self.spent = 0
            gevent.sleep(PAUSE_S if self.dense else 0)
