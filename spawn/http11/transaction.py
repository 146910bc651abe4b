"""One request written to a node and one final answer head read, on one connection: what can be known of its fate.

The request is written, and between the pieces of a large body an answer is looked for, because a node may refuse it
(413) before it has read it. When writing fails, an answer that has arrived already still counts. A head that has begun,
or that is all that is missing, has one deadline for the whole of it: progress byte by byte would keep a node's queue
waiting. A small request, as nearly all are, is one send, one wait and one receive.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from contextlib import closing

from spawn.errors import NotSent, ProtocolError, Unknown
from spawn.http11.connection import Connection
from spawn.http11.message import OutgoingRequest, ResponseHead
from spawn.http11.outgoing import BodyUnreadable, body_bytes, in_one_piece, pieces
from spawn.http11.progress import FLOOR_BYTES_PER_S, Progress
from spawn.http11.readiness import Unsent
from spawn.http11.wire import BadAnswer, HeadLimits, find_head_end, parse_response_head

ANSWER_HEAD = HeadLimits(head_bytes=65_536, headers=200, line_bytes=65_536)
MAX_REMEMBERED = 256
MAX_REMEMBERED_BYTES = 512  # of one head
MAX_INTERIM = 20  # 1xx heads before the final one; HTTP sets no limit, patience does

_BARE_LF = re.compile(rb"(?<!\r)\n")
_remembered: dict[bytes, ResponseHead] = {}


class Transaction:
    """Made for one request. Raises ``NotSent`` or ``Unknown``, as ``client`` tells."""

    # What most transactions never change is not set for each of them.
    sent_all = False
    surplus = b""  # what came behind the final head
    _written = 0  # bytes that the kernel has taken
    _progress: Progress | None = None
    _received = b""  # of a head that is not complete
    _received_any = False
    _searched = 0  # how much of it holds no end of a head
    _interim = 0
    _head_deadline_s = math.inf  # for the final head: runs while it is all that is waited for, or has begun
    _waiting = False  # for the final head only
    _renewed = False
    _head: ResponseHead | None = None

    def __init__(
        self,
        connection: Connection,
        request: OutgoingRequest,
        host: str,
        port: int,
        progress_timeout_s: float,
        careful: bool,
        on_slow: Callable[[str], None] | None,
    ) -> None:
        self._connection = connection
        self._request = request
        self._node = (host, port)
        self._timeout_s = progress_timeout_s
        self._careful = careful
        self._on_slow = on_slow

    def run(self, on_sent: Callable[[], None] | None) -> ResponseHead:
        data = in_one_piece(self._request, self._node)
        lost = self._write_all(data) if data is None or on_sent is not None else self._ask(data)
        if self.sent_all and on_sent is not None:
            on_sent()
        self._waiting = True
        left_s = self._start_head_clock()
        while (head := self._head) is None:
            try:
                data = self._connection.receive(left_s, first_wait=True)
            except OSError as error:
                raise self._unknown(lost or text_of(error)) from None
            if not data:
                raise self._unknown(lost or self._why_ended())
            self._take_in(data)
            left_s = self._head_time_left_s()
        if head.status == 408 and not (head.keep_alive or self._careful) and self._connection.reused:
            # Said of the idle connection, before the request reached the node (RFC 9110 §15.5.9).
            raise Unknown("the node ended an idle connection with 408", reused_and_silent=True)
        return head

    def _ask(self, data: bytes) -> str:
        """Send a small request and take in the first bytes of its answer; the result is that of ``_write_all``.

        The time for the answer includes the wait for the turn to send.
        """
        self._start_head_clock()
        try:
            answer = self._connection.ask(data, self._timeout_s, self._careful and self._connection.reused)
        except Unsent:
            rest = self._connection.take_unsent()
            self._written = len(data) - len(rest)
            self._connection.in_order = not self._written  # of what has not begun nothing has to be reset
            self._head_deadline_s = math.inf
            self._careful = True  # something came before the turn, maybe an end or an answer to nothing
            return self._write_all(rest)
        except OSError as error:
            raise self._unknown(text_of(error)) from None
        self.sent_all = self._waiting = True
        if not answer:
            raise self._unknown(self._why_ended())
        self._take_in(answer)
        return ""

    def _write_all(self, data: bytes | None) -> str:
        """Write until all is written, the final head is there, or writing fails: then the reason is returned.

        ``data`` is what is left of a small request, None for a large one of which nothing was written.
        """
        try:
            if data is not None:
                self._connection.wait_turn()
            if not (self._write_pieces() if data is None else self._write(data)):
                return ""
            self.sent_all = True
            if self._progress is not None:
                self._progress.written = self._written
        except BodyUnreadable as unreadable:
            if self._written and not unreadable.lost:
                raise Unknown(str(unreadable)) from None
            raise
        except OSError as error:
            reason = self._why_ended() if self._connection.cut_short else f"while sending: {text_of(error)}"
            if not self._written:
                raise NotSent(reason) from None
            return reason
        return ""

    def _write_pieces(self) -> bool:
        """Write a large request. False when the final head came before it was all written."""
        with closing(pieces(self._request, self._node)) as steps:
            for piece in steps:
                if self._written and self._answered_already():
                    return False
                if not self._write(piece):
                    return False
        return True

    def _write(self, piece: bytes | memoryview) -> bool:
        """Write one piece. False when the final head came before it was all written."""
        if self._progress is not None:
            self._progress.resume()
        if not self._written and self._careful and self._connection.reused and not self._connection.is_quiet():
            raise NotSent("the node has closed the connection")  # asked last of all: turns and disks take their time
        count = self._connection.send_now(piece)
        self._written += count
        if count < len(piece) and not self._write_rest(memoryview(piece)[count:]):
            return False
        if self._progress is not None:
            self._progress.pause()
        return True

    def _write_rest(self, piece: memoryview) -> bool:
        while piece:
            if not self._await_room():
                return False
            count = self._connection.send_now(piece)
            self._written += count
            piece = piece[count:]
        return True

    def _await_room(self) -> bool:
        """Wait until the kernel takes more. False when the final head has come."""
        progress = self._progress
        if progress is None:
            total_bytes = body_bytes(self._request)
            progress = self._progress = Progress(self._written, total_bytes, self._timeout_s, self._on_slow)
        progress.written = self._written
        self._connection.wait_either(min(self._timeout_s, self._head_time_left_s()), progress)
        if self._answered_already():
            return False
        if progress.too_slow:
            raise Unknown(self._why_late(), timed_out=True)
        return True

    def _answered_already(self) -> bool:
        """Look, without waiting, whether the final head has come. Raises ``OSError`` when the node has hung up."""
        data = self._connection.receive_now()
        if data == b"":
            raise ConnectionAbortedError(103, "the node closed the connection")
        if data:
            self._take_in(data)
            if self._received:
                self._start_head_clock()
        if self._head is None:
            self._head_time_left_s()
        return self._head is not None

    def _start_head_clock(self) -> float:
        """Seconds left for the final head, counted from now unless they are already."""
        if self._head is not None:
            return 0.0
        if self._head_deadline_s == math.inf:
            self._head_deadline_s = time.monotonic() + self._timeout_s
            return self._timeout_s
        return self._head_time_left_s()

    def _head_time_left_s(self) -> float:
        left_s = self._head_deadline_s - time.monotonic()
        if left_s <= 0 and self._head is None:
            raise Unknown(self._why_late(), timed_out=True)
        return left_s

    def _take_in(self, data: bytes) -> None:
        if self._progress is not None and not self._received_any and self._head_deadline_s < time.monotonic():
            # The wait went on because the kernel still got bytes of the request across: sending ended only now.
            self._head_deadline_s = time.monotonic() + self._timeout_s
        self._received_any = True
        data = self._received + data
        while self._head is None:
            end = find_head_end(data, self._searched)
            if end < 0:
                self._received = data
                self._check_start()
                self._searched = max(0, len(data) - 3)
                return
            head = self._parse(data[:end])
            data = data[end:]
            self._searched = 0
            if head.status >= 200:
                self._head = head
            else:
                self._received = data
                self._interim += 1
                self._after_interim()
                if head.status == 101 or self._interim > MAX_INTERIM:
                    raise self._malformed("an upgrade nobody asked for" if head.status == 101 else "1xx without end")
        self._received, self.surplus = b"", data

    def _after_interim(self) -> None:
        """While sending, nothing has to come after a 1xx; later it is a sign of life that counts once."""
        if not self._waiting:
            self._head_deadline_s = math.inf
        elif not self._renewed:
            self._renewed = True
            self._head_deadline_s = time.monotonic() + self._timeout_s

    def _parse(self, data: bytes) -> ResponseHead:
        """Nodes answer the same update with the same head, and much else too, but for the second in Date."""
        method = self._request.method
        head = _remembered.get(data)
        if head is not None and method != b"HEAD":
            return head
        try:
            head = parse_response_head(data, method, ANSWER_HEAD)
        except (BadAnswer, ProtocolError) as error:
            raise self._malformed(str(error)) from None
        if len(data) <= MAX_REMEMBERED_BYTES and method != b"HEAD" and b"cookie" not in data.lower():
            if len(_remembered) >= MAX_REMEMBERED:
                _remembered.clear()
            _remembered[data] = head
        return head

    def _check_start(self) -> None:
        """Do not wait for the end of a head that is none (another protocol's greeting) or has none."""
        if self._received[:5] != b"HTTP/"[: len(self._received)]:
            raise self._malformed("it does not begin with HTTP/")
        if _BARE_LF.search(self._received, self._searched):  # looks behind for the CR
            raise self._malformed("a line ends without CR")
        if len(self._received) > ANSWER_HEAD.head_bytes:
            raise self._malformed(f"a head of more than {ANSWER_HEAD.head_bytes} bytes")

    def _malformed(self, reason: str) -> Unknown:
        return Unknown(f"node answered with something that is not HTTP: {reason}", malformed=True)

    def _why_ended(self) -> str:
        if self._connection.woken:
            return "stopped while waiting for the node's answer"
        if self._connection.expired:
            return self._why_late()
        return "the node closed the connection " + (
            "amid the answer's head" if self._received_any else "without answer"
        )

    def _why_late(self) -> str:
        if self._progress is not None and self._progress.too_slow:
            return f"too slow: it took {self._progress.too_slow}, less than {FLOOR_BYTES_PER_S / 1024:g} KiB/s"
        if not (self._written or self.sent_all):
            return f"the request could not be sent within {self._timeout_s:g} s"
        if self._received:
            return f"the head of the node's answer was not complete after {self._timeout_s:g} s"
        return f"no progress for {self._timeout_s:g} s while waiting for the node's answer"

    def _unknown(self, reason: str) -> Unknown:
        silent = self._connection.reused and not self._received_any and not self._connection.cut_short
        timed_out = self._connection.expired and not self._connection.woken
        return Unknown(reason, reused_and_silent=silent, timed_out=timed_out)


def text_of(error: OSError) -> str:
    """What went wrong, in the words of the operating system."""
    return error.strerror or str(error) or type(error).__name__
