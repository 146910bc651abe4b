"""The health checker: one greenlet per node asks it for a URL and says whether it is alive.

Alive means an answer below 500 within ``timeout`` whose first 64 KiB match the pattern, if there is one. ``fall``
failures in a row make a node down and ``rise`` successes bring it back; a refused connection is down at once, since
nobody is there. The verdict is told to the listener after every check, which is idempotent by the state table.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import gevent
import re2
from gevent.event import Event

from spawn.config.schema import HealthCheckConfig
from spawn.errors import AnswerCut, NotSent, UpstreamError
from spawn.http11.client import Answer, Client
from spawn.http11.forwarding import replace_headers
from spawn.http11.message import OutgoingRequest
from spawn.nodes.node import Node, NodeEvent, NodeState

log = logging.getLogger("spawn.health")

SAMPLE_BYTES = 65_536
JITTER = 0.1  # of the period, so that many nodes are not asked in one burst


class Pattern(Protocol):
    def search(self, text: bytes) -> object: ...


def compile_pattern(regexp: str) -> Pattern | None:
    """RE2: linear time on whatever a node answers. The configuration has checked that it compiles."""
    if not regexp:
        return None
    options = re2.Options()
    options.log_errors = False
    pattern: Pattern = re2.compile(regexp.encode(), options)
    return pattern


def _key(node: Node) -> str:
    """Of its connections: they are not those of reads and updates."""
    return f"health:{node.id}"


class _Check:
    """The checker's memory of one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.poked = Event()
        self.decided = Event()
        self.failures = 0
        self.successes = 0
        self.asked = ""  # the address that these are about
        self.due_s = 0.0  # when the next check is due, whatever suggests another one before
        self.greenlet: gevent.Greenlet[..., None] | None = None


class HealthChecker:
    """``listener(node, UP | FAIL)`` is called on the hub after each check.

    ``set_headers`` are those of ``delivery.set-headers``: per node (``host:port``) what it is sent instead.
    """

    def __init__(
        self,
        client: Client,
        config: HealthCheckConfig,
        set_headers: Mapping[str, Mapping[str, str]],
        listener: Callable[[Node, NodeEvent], None],
        user_agent: str,
    ) -> None:
        self._client = client
        self._listener = listener
        self._user_agent = user_agent.encode()
        self._checks: dict[str, _Check] = {}
        self.configure(config, set_headers)

    def configure(self, config: HealthCheckConfig, set_headers: Mapping[str, Mapping[str, str]]) -> None:
        """Take new settings; every node is asked again at once."""
        self._config = config
        self._set_headers = set_headers
        self._pattern = compile_pattern(config.regexp)
        for check in self._checks.values():
            check.due_s = 0.0
            check.poked.set()

    def add(self, node: Node) -> None:
        check = self._checks[node.id] = _Check(node)
        check.greenlet = gevent.spawn(self._run, check)

    def remove(self, node: Node) -> None:
        check = self._checks.pop(node.id, None)
        if check is not None and check.greenlet is not None:
            check.greenlet.kill(block=False)
            self._client.forget(_key(node))

    def poke(self, node: Node) -> None:
        """Check this node now: something suggests that its health has changed."""
        check = self._checks.get(node.id)
        if check is not None:
            check.poked.set()

    def wait_first_round(self) -> None:
        """Return when every node has been judged once; bounded by the check's own time-out."""
        events = [check.decided for check in self._checks.values()]
        gevent.wait(events, timeout=self._config.timeout + 1.0)

    def stop(self) -> None:
        greenlets = [check.greenlet for check in self._checks.values() if check.greenlet is not None]
        self._checks.clear()
        gevent.killall(greenlets, block=True, timeout=1.0)

    def _run(self, check: _Check) -> None:
        while True:
            check.poked.clear()
            began_s, asked = time.monotonic(), check.node.name
            error, certain = self._ask(check.node)
            if check.node.name != asked:
                continue  # it was moved meanwhile: this was about its old address
            if asked != check.asked:
                check.asked, check.failures, check.successes = asked, 0, 0
            self._judge(check, error, certain)
            check.decided.set()
            if check.poked.wait(self._pause_s(check, began_s)):
                gevent.sleep(0.05)  # a storm of pokes is one check

    def _pause_s(self, check: _Check, began_s: float) -> float:
        """Until the next check, where nothing suggests one before.

        A check that was suggested does not put off the one that is due: a node that crashes at an update, and is looked
        at just then each time, would never be seen when it is up.
        """
        spread = random.uniform(1 - JITTER, 1 + JITTER)
        now_s = time.monotonic()
        if began_s >= check.due_s:
            check.due_s = now_s + self._config.seconds * spread
        pause_s = check.due_s - now_s
        if check.failures and check.node.healthy:
            pause_s = min(pause_s, max(1.0, self._config.timeout) * spread)  # confirm a doubt soon
        return max(0.0, pause_s)

    def _judge(self, check: _Check, error: str, certain: bool) -> None:
        node = check.node
        first = not check.decided.is_set()
        if error:
            check.failures += 1
            check.successes = 0
            if certain or first or check.failures >= self._config.fall:
                self._set(node, False, error, first)
        else:
            check.successes += 1
            check.failures = 0
            if first or check.successes >= self._config.rise:
                self._set(node, True, "", first)
        self._listener(node, NodeEvent.UP if node.healthy else NodeEvent.FAIL)

    def _set(self, node: Node, healthy: bool, error: str, first: bool) -> None:
        if node.healthy is not healthy or (first and not healthy):
            if healthy:
                log.info("node %s passes its health check", node.name)
            else:
                kept = "it is out of sync besides" if node.out_of_sync else "it gets no reads, its updates are kept"
                log.warning("node %s is down: %s; %s", node.name, error, kept)
        node.healthy = healthy
        idle = node.out_of_sync or node.state is NodeState.MAINTENANCE  # no delivery will succeed, or tell otherwise
        if not healthy or idle or not node.attempts:
            node.last_error = error

    def _ask(self, node: Node) -> tuple[str, bool]:
        """("", …) when alive, else why not, and whether that is certain without further checks."""
        config = self._config
        headers = b"Host: %b\r\nUser-Agent: %b\r\nAccept: */*\r\nConnection: close\r\n" % (
            node.name.encode(),
            self._user_agent,
        )
        headers = replace_headers(headers, self._set_headers.get(node.name, {}))
        request = OutgoingRequest(method=b"GET", target=config.url.encode(), headers=headers, body=None)
        try:
            with gevent.Timeout(config.timeout):
                answer = self._client.send(
                    _key(node),
                    node.record.host,
                    node.record.port,
                    request,
                    progress_timeout_s=config.timeout,
                    max_idle_s=0,
                )
                with answer:
                    return self._examine(answer), False
        except gevent.Timeout:
            return f"no answer to GET {config.url} within {config.timeout:g} s", False
        except NotSent as error:
            return str(error), error.refused
        except UpstreamError as error:
            return str(error), False
        except Exception as error:  # a node without a checker would keep its state for ever
            log.exception("an error in Spawn: checking node %s failed", node.name)
            return f"the health check failed: {error!r}", False

    def _examine(self, answer: Answer) -> str:
        status = answer.head.status
        if status >= 500:
            return f"GET {self._config.url} is answered with {status}"
        if self._pattern is None:
            return ""
        sample = bytearray()
        try:
            while len(sample) < SAMPLE_BYTES and (data := answer.read(SAMPLE_BYTES - len(sample))):
                sample += data
        except AnswerCut as error:
            return str(error)
        # RE2's $ is the very end, and nobody means to tell an answer that ends its line from one that does not.
        if self._pattern.search(bytes(sample)) is None and self._pattern.search(bytes(sample.rstrip(b"\r\n"))) is None:
            return f"the answer to GET {self._config.url} does not match {self._config.regexp}"
        return ""
