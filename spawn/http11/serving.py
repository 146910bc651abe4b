"""One client's connection, from its first byte to its close: heads in, one answer each, in order.

pywsgi calls ``Connection(sock, address, acceptor).handle()`` in a greenlet of its own. A head is searched in what has
arrived, checked by ``wire``, and given to the handler; the next one is looked for only when the answer is out and the
body of the request is used up, so pipelined requests are answered in order.

Invariants: a request that breaks HTTP or a limit is answered and the connection closed, and no handler sees it (or, if
its body breaks it, the handler sees the fault when it reads on). Nothing a client does prints a traceback; a fault of a
handler prints one. The socket is closed here and by nobody else.
"""

from __future__ import annotations

import logging
from socket import SHUT_RD
from typing import TYPE_CHECKING, Any

import gevent
from gevent.socket import socket

from spawn.errors import ClientGone, ProtocolError
from spawn.http11.bodies import decoder_for
from spawn.http11.channel import Channel, TimedOut
from spawn.http11.deadlines import wake
from spawn.http11.exchange import EMPTY_BODY, Answer, EmptyBody, RequestBody
from spawn.http11.message import NO_BODY, Request, RequestHead
from spawn.http11.wire import check_partial_head, find_head_end, parse_request_head

if TYPE_CHECKING:
    from spawn.http11.server import Acceptor

log = logging.getLogger("spawn.http")

HEAD_BYTES = 16_384  # of what comes first are received at a time: what is no head lies in memory until it is read
MAX_LINGERING_REFUSALS = 100  # beyond the limit of connections; any more are closed without waiting for the client

# What stands for the head of a request that could not be understood, so that it can be answered.
_UNKNOWN = RequestHead(b"GET", b"/", 1, [], [], frozenset(), b"", NO_BODY, keep_alive=False)


class Connection:
    """What pywsgi calls a handler."""

    __slots__ = ("_idle", "_peer", "_served", "_server", "channel", "greenlet")

    def __init__(self, sock: socket, address: Any, acceptor: Acceptor) -> None:
        self._server = acceptor.http
        self._peer = _peer_ip(address)
        self._idle = True  # no byte of a (further) request is there
        self._served = False
        self.channel = Channel(sock, self._server.deadlines)
        self.greenlet = gevent.getcurrent()

    def handle(self) -> None:
        """Serve the connection to its end. Raises nothing."""
        server = self._server
        counters, name = server.counters, server.name
        counters.add(f"{name}.connections")
        welcome = server.opened(self)
        try:
            if welcome:
                self._serve()
            else:
                self._refuse()
        except ClientGone:
            counters.add(f"{name}.client-gone")
        except Exception:
            log.exception("%s port: a connection failed in a way it must not", name)
        finally:
            self.channel.close()
            if welcome:
                server.closed(self)

    def wind_up(self, head_s: float) -> None:
        """Called when the server stops: end now if idle, or finish the request in hand, which must be whole soon."""
        if self._idle:
            wake(self.channel.sock, SHUT_RD)  # what has arrived already is still read and answered
        elif self.channel.reading_head:
            self.channel.watch.arm(head_s, SHUT_RD)

    def _serve(self) -> None:
        try:
            while True:
                head = self._next_head()
                if head is None or not self._exchange(head):
                    return
                self._served = True
        except ProtocolError as fault:
            self._answer_fault(Answer(self.channel, _UNKNOWN, EMPTY_BODY, self._server, self._send_s), fault)

    @property
    def _send_s(self) -> float:
        return self._server.timeouts.send

    def _next_head(self) -> RequestHead | None:
        """The next request's head, or None when the client has closed or is idle for too long."""
        server, channel = self._server, self.channel
        data = channel.buffer
        if data:
            channel.buffer = b""
            gevent.sleep(0)  # who sends many requests at once does not get all of them served at once
            channel.flush()  # the last answer waits for the client, and not for the next one
        else:
            if server.stopping:
                return None
            channel.watch.arm(server.timeouts.idle if self._served else server.timeouts.head, SHUT_RD)
            self._idle = True
            try:
                data = channel.receive(HEAD_BYTES, first_wait=True)
            except TimedOut:
                return None
            if not data:
                return None
        self._idle = False
        end = find_head_end(data)
        if end < 0:
            data = self._receive_head(data)
            end = find_head_end(data)
        channel.watch.disarm()
        if end < len(data):
            channel.buffer = data[end:]
            data = data[:end]
        return parse_request_head(data, server.head_limits)

    def _receive_head(self, data: bytes) -> bytes:
        """Read on until the head is whole. Raises ProtocolError as soon as it cannot be right any more, or is late."""
        server, channel = self._server, self.channel
        if self._served:  # else the time since the connection was made counts
            channel.watch.arm(server.timeouts.head, SHUT_RD)
        buffer = bytearray(data)
        checked = 0
        channel.reading_head = True
        try:
            while True:
                check_partial_head(buffer, checked, server.head_limits)
                checked = len(buffer)
                data = channel.receive(HEAD_BYTES)
                if not data:
                    raise ClientGone("the head was cut short")
                buffer += data
                if find_head_end(buffer, checked - 3) > 0:
                    return bytes(buffer)
        except TimedOut:
            if buffer == b"\r\n":
                raise ClientGone("nothing but an empty line came") from None
            raise ProtocolError(408, "the request head did not come in time") from None
        finally:
            channel.reading_head = False

    def _exchange(self, head: RequestHead) -> bool:
        """Have one request handled; True when the connection can be used for another one."""
        server, channel = self._server, self.channel
        server.counters.add(f"{server.name}.requests")
        if head.dropped_headers:
            server.counters.add(f"{server.name}.dropped-headers", head.dropped_headers)
        body = EMPTY_BODY if head.framing is NO_BODY else self._body_of(head)
        answer = Answer(channel, head, body, server, server.timeouts.send)
        try:
            if head.framing is not NO_BODY and (head.framing.length or 0) > server.limits.body:
                raise ProtocolError(413, "the body is too large")
            server.handle(Request(head, body, self._peer), answer)
            if not answer.finished:
                raise RuntimeError("the handler returned before its answer was finished")
        except ProtocolError as fault:
            self._answer_fault(answer, fault)
            return False
        except ClientGone:
            raise
        except (Exception, gevent.Timeout):  # noqa: BLE001 (logged there; one request's failure is not the server's)
            self._confess(head, answer)
            return False
        if not answer.close and (body.done or body.drain()):
            return True
        if not answer.aborted and (channel.buffer or not body.done):
            channel.linger()
        return False

    def _body_of(self, head: RequestHead) -> RequestBody | EmptyBody:
        decoder = decoder_for(head.framing)
        if decoder is None:
            return EMPTY_BODY
        server = self._server
        return RequestBody(
            self.channel,
            decoder,
            head,
            limit_bytes=server.limits.body,
            timeout_s=server.timeouts.body,
            send_s=server.timeouts.send,
        )

    def _answer_fault(self, answer: Answer, fault: ProtocolError) -> None:
        """Tell the client what is wrong with its request, if nothing was said yet, and end the connection."""
        counters, name = self._server.counters, self._server.name
        counters.add(f"{name}.timed-out" if fault.status == 408 else f"{name}.refused")
        if answer.started:
            answer.abort()
            return
        answer.close = True
        answer.reply(fault.status, fault.reason)
        self.channel.linger()

    def _confess(self, head: RequestHead, answer: Answer) -> None:
        """A handler failed. Its message is for the log, the query of the request is for nobody."""
        server = self._server
        server.counters.add(f"{server.name}.failures")
        path = head.target.partition(b"?")[0].decode("ascii", "backslashreplace")
        log.exception("%s port: handling %s %s failed", server.name, head.method.decode(), path)
        if answer.started:
            answer.abort()
            return
        answer.close = True
        answer.reply(500, "internal error")
        self.channel.linger()

    def _refuse(self) -> None:
        """Too many connections: say so, and wait for the client to read it unless too many are waited for already."""
        server = self._server
        server.counters.add(f"{server.name}.refused-connections")
        answer = Answer(self.channel, _UNKNOWN, EMPTY_BODY, server, self._send_s)
        why = "the server is stopping" if server.stopping else "too many connections"
        answer.reply(503, why, [(b"Retry-After", b"1")])
        if server.refusing < MAX_LINGERING_REFUSALS:
            server.refusing += 1
            try:
                self.channel.linger()
            finally:
                server.refusing -= 1


def _peer_ip(address: Any) -> str:
    """The IP address of what ``accept`` returned, an IPv4 one in its usual form even on a socket for both."""
    ip = str(address[0]) if isinstance(address, tuple) else ""
    if ":" in ip:
        ip = ip.partition("%")[0]
        if ip.startswith("::ffff:") and "." in ip:
            ip = ip[7:]
    return ip
