"""A read: choose a node that is fresh enough, forward, stream the answer back.

It moves on to the next node only while no byte of an answer has reached the client, and only for a request that may be
repeated. When no node is fresh enough it waits a moment, then takes the freshest healthy one and says so.
"""

from __future__ import annotations

import logging
import time

from msgspec import structs

from spawn.delivery.policy import IDEMPOTENT
from spawn.errors import NotSent, Unknown, UpstreamError
from spawn.http11.client import Answer
from spawn.http11.forwarding import forward_request_headers, forward_response_headers, replace_headers
from spawn.http11.message import OutgoingRequest, Request, ResponseWriter
from spawn.nodes.node import Node, NodeState
from spawn.proxy.bodies import Upload, announced_length, pass_on_body, receive_body
from spawn.proxy.context import Cluster, ProxySettings
from spawn.proxy.rules import READS, Kind
from spawn.proxy.turnedaway import TurnedAway

log = logging.getLogger("spawn.proxy")

WHOLE_BYTES = 1 << 30  # of a body that is here already: all of it
REUSE_IDLE_S = 30.0  # a kept connection that was idle for longer is not used for a read
RETRY_AFTER = [(b"Retry-After", b"1")]
ISOLATED = (
    "the nodes that serve are diverged, and on-divergence is isolate; mend one of them and "
    "POST /queues/HOST/PORT/clear-diverged (GET /queues names them)"
)
_SERVING = (NodeState.SERVING,)
_HEALTHY = (NodeState.SERVING, NodeState.CATCHING_UP)
REPEATABLE = IDEMPOTENT | READS  # all of READS are safe, hence idempotent


_Choice = tuple[Node, int]  # and how many updates it still lacks to be fresh


class Reads:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._turned_away = TurnedAway("reads")

    def serve(self, request: Request, response: ResponseWriter, settings: ProxySettings) -> None:
        """Answer a read. Raises ``ProtocolError`` and ``ClientGone`` as the request's body does."""
        floor = self._cluster.freshness.floor if settings.consistency != "any" else 0  # as it stands on arrival
        lines = forward_request_headers(request, settings.trusted, self._cluster.via)
        upload = receive_body(request, Kind.READ, self._cluster.make_spool, self._cluster.room, self._turned_away)
        try:
            _Read(self._cluster, settings, floor, request, lines, upload, self._turned_away).run(response)
        finally:
            if upload is not None:
                upload.discard()


class _Read:
    """One read on its way from node to node."""

    # What most reads never change is not set for each of them.
    _tried: frozenset[str] = frozenset()  # ids of nodes
    _failure = (503, "no node can serve reads now")
    _may_go_on = True

    def __init__(
        self,
        cluster: Cluster,
        settings: ProxySettings,
        floor: int,
        request: Request,
        lines: bytes,
        upload: Upload | None,
        turned_away: TurnedAway,
    ) -> None:
        self._cluster = cluster
        self._turned_away = turned_away
        self._settings = settings
        self._floor = floor
        self._method = request.head.method
        self._request = OutgoingRequest(
            self._method, request.head.target, lines, None if upload is None else upload.lend()
        )
        self._patience_s = settings.timeouts.fresh  # what is left of it, over all choices

    def run(self, response: ResponseWriter) -> None:
        while (choice := self._choose()) is not None:
            if self._tried:
                self._cluster.counters.add("reads.failed-over")
            node, behind = choice
            answer = self._send(node)
            if answer is not None:
                self._turned_away.served()
                self._pass_on(answer, behind, response)
                return
            if not self._may_go_on:
                break
        if not self._tried and self._is_isolation():
            self._turned_away.one(503, ISOLATED)
        self._cluster.counters.add("reads.failed")
        status, message = self._failure
        response.reply(status, message, RETRY_AFTER if status == 503 else ())

    # -- choosing

    def _choose(self) -> _Choice | None:
        choice = self._fresh()
        if choice is None and self._candidates():
            choice = self._wait()
        if choice is not None or self._settings.consistency != "strict":
            return choice or self._freshest()
        if self._candidates():
            self._failure = (503, "no node is fresh enough for a read now")
        return None

    def _wait(self) -> _Choice | None:
        """A fresh node within what is left of ``timeouts.fresh``."""
        began_s = time.monotonic()
        choice = self._cluster.freshness.wait_for(self._floor, self._fresh, self._patience_s)
        self._patience_s = max(0.0, self._patience_s - (time.monotonic() - began_s))
        return choice

    def _fresh(self) -> _Choice | None:
        floor = self._floor
        eligible = [node for node in self._candidates(states=_SERVING) if node.position >= floor]
        return (self._cluster.balancer.choose(eligible), 0) if eligible else None

    def _freshest(self) -> _Choice | None:
        candidates = self._candidates() or self._candidates(held=True)  # an old answer is better than none
        if not candidates:
            return None
        node = max(candidates, key=lambda node: (node.state is NodeState.SERVING, node.position))
        return node, max(0, self._floor - node.position)

    def _candidates(self, held: bool = False, states: tuple[NodeState, ...] = _HEALTHY) -> list[Node]:
        """Nodes that reads are not barred from and that this one has not tried."""
        candidates = [
            node
            for node in self._cluster.registry.nodes
            if node.state in states and not ((node.held and not held) or node.out_of_sync)
        ]
        if self._settings.isolate_diverged:
            candidates = [node for node in candidates if not node.diverged]
        if self._tried:
            candidates = [node for node in candidates if node.id not in self._tried]
        return candidates

    def _is_isolation(self) -> bool:
        """Whether there are nodes that serve, all of them kept from reads because they are diverged."""
        serving = [node for node in self._cluster.registry.nodes if node.state is NodeState.SERVING]
        return self._settings.isolate_diverged and bool(serving) and all(node.diverged for node in serving)

    # -- forwarding

    def _send(self, node: Node) -> Answer | None:
        """The node's answer; None when another node is to be asked, or nobody."""
        try:
            return self._send_once(node, REUSE_IDLE_S)
        except NotSent as unsent:
            self._failed(node, unsent, 503, "no node can be reached")
        except Unknown as error:
            # One node's time-out is answered as such: asking the others would only add their time-outs to it.
            self._may_go_on = self._method in REPEATABLE and not error.timed_out
            if error.timed_out:
                self._failed(node, error, 504, "a node gave no answer in time")
            else:
                self._failed(node, error, 502, "a node gave no answer that can be passed on")
        return None

    def _send_once(self, node: Node, max_idle_s: float) -> Answer:
        try:
            return self._cluster.client.send(
                node.id,
                node.record.host,
                node.record.port,
                self._request_for(node),
                progress_timeout_s=self._settings.timeouts.read,
                max_idle_s=max_idle_s,
                careful=self._method not in REPEATABLE,
            )
        except Unknown as error:
            if error.reused_and_silent and max_idle_s and self._method in REPEATABLE:
                return self._send_once(node, 0.0)  # the node closed an idle connection: that says nothing about it
            raise

    def _request_for(self, node: Node) -> OutgoingRequest:
        set_headers = self._settings.set_headers
        replaced = set_headers.get(node.name) if set_headers else None
        if not replaced:
            return self._request
        return structs.replace(self._request, headers=replace_headers(self._request.headers, replaced))

    def _failed(self, node: Node, error: UpstreamError, status: int, message: str) -> None:
        """``message`` is for the client, who need not know what the nodes' addresses are."""
        log.debug("a read failed on node %s: %s", node.name, error)
        self._tried |= {node.id}
        self._failure = (status, message)
        self._cluster.fleet.checker.poke(node)

    def _pass_on(self, answer: Answer, behind: int, response: ResponseWriter) -> None:
        lines = forward_response_headers(answer.head, self._cluster.via)
        if behind:
            self._cluster.counters.add("reads.behind")
            lines += b"Spawn-Behind: %d\r\n" % behind
        self._cluster.counters.add("reads.served")
        self._cluster.board.heard(answer.head.status)
        with answer:
            stream(answer, lines, response, self._method)


def stream(answer: Answer, lines: bytes, response: ResponseWriter, method: bytes) -> None:
    """Pass an answer on as it comes; cut the client's connection when the node cuts its own."""
    head = answer.head
    response.pass_on(head.status, head.reason, lines, announced_length(head, method))
    if answer.complete:
        response.finish(answer.read(WHOLE_BYTES))
        return
    if head.framing.until_close or head.framing.chunked:
        response.flush()  # an endless answer may begin with a long silence
    pass_on_body(answer, response)
