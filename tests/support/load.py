"""Many clients that send updates at once and remember what they were told."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, replace

import requests

from tests.support.api import session
from tests.support.history import name_of
from tests.support.waiting import eventually

TIMEOUT_S = 40.0
BIG_BYTES = 300_000  # above what the journal keeps inline


@dataclass(frozen=True, slots=True)
class Update:
    method: str
    target: str
    body: bytes
    key: str | None = None  # the client's own Idempotency-Key

    @property
    def name(self) -> str:
        return name_of(self.method, self.target, self.body[:40].decode(), hashlib.sha256(self.body).hexdigest())


def make_update(number: int, items: int = 40) -> Update:
    """Updates of three kinds that meet on the same items, so that their order matters.

    Every 50th is a large one, every 7th comes with an ``Idempotency-Key`` of its client's.
    """
    body = json.dumps({"update": f"{number:06d}", "pad": "x" * (BIG_BYTES if number % 50 == 49 else number % 200)})
    name = f"/items/k{number * 7 % items}"
    method, target = (("POST", "/items"), ("PUT", name), ("PATCH", name))[number % 3]
    return Update(method, target, body.encode(), f"own-{number:06d}" if number % 7 == 3 else None)


class Load:
    """``clients`` threads send updates until ``total`` are acknowledged (or, if ``stubborn`` is off, attempted).

    An update is *acknowledged* by an answer below 500. One without an answer, or with a 5xx, is only *attempted*: its
    client goes on with a new update, never with the same again. Each client waits for its answer, and ``pause_s`` more,
    before it sends the next.

    With ``deletes`` about every fourth is a DELETE, which nodes answer with 204 at first and with 404 when it is
    repeated. It deletes what an acknowledged PUT has made and nobody else touches: a node that carries out something
    late, as one may that was paused, answers it like the others nevertheless.
    """

    def __init__(
        self,
        url: str,
        *,
        total: int,
        clients: int = 16,
        stubborn: bool = False,
        pause_s: float = 0.0,
        deletes: bool = False,
    ) -> None:
        self._url = url
        self._deletes = deletes
        self._deletable: deque[str] = deque()
        self._total = total
        self._stubborn = stubborn
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True, name=f"client{n}") for n in range(clients)]
        self.attempted: list[str] = []
        self.keys: dict[str, str] = {}  # updates that were sent with a key of their own
        self.by_client: dict[str, list[str]] = {}  # what each client sent, in its order
        self.acknowledged: dict[str, int | None] = {}
        self.statuses: dict[int, int] = {}
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the clients end after the update at hand."""
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5)

    def _next(self) -> Update | None:
        with self._lock:
            enough = self.acknowledged if self._stubborn else self.attempted
            if len(enough) >= self._total or self._stop.is_set():
                return None
            update = self._make(len(self.attempted))
            self.attempted.append(update.name)
            self.by_client.setdefault(threading.current_thread().name, []).append(update.name)
            if update.key is not None:
                self.keys[update.name] = update.key
            return update

    def _make(self, number: int) -> Update:
        update = make_update(number)
        if self._deletes and number % 4 == 1:
            return replace(update, method="PUT", target=f"/items/d{number}")
        if number % 4 == 3 and self._deletable:
            return replace(update, method="DELETE", target=self._deletable.popleft(), body=b"")
        return update

    def _client(self) -> None:
        with session() as client:
            while update := self._next():
                headers = {} if update.key is None else {"Idempotency-Key": update.key}
                try:
                    answer = client.request(
                        update.method, self._url + update.target, data=update.body, headers=headers, timeout=TIMEOUT_S
                    )
                except requests.RequestException as error:
                    self._failed(f"{update.name}: {type(error).__name__}: {error}")
                else:
                    self._answered(update, answer)
                if self._pause_s:
                    self._stop.wait(self._pause_s)

    def _failed(self, why: str) -> None:
        with self._lock:
            self.failures.append(why)
        time.sleep(0.1)  # nobody listens: do not spin, and do not make thousands of updates meanwhile

    def _answered(self, update: Update, answer: requests.Response) -> None:
        if answer.status_code >= 500:
            self._failed(f"{update.name}: {answer.status_code} {answer.text[:200]}")
            return
        sequence = answer.headers.get("Spawn-Sequence")
        with self._lock:
            self.acknowledged[update.name] = None if sequence is None else int(sequence)
            if self._deletes and update.method == "PUT" and update.target.startswith("/items/d"):
                self._deletable.append(update.target)
            self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1

    @property
    def done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def wait_acknowledged(self, count: int, timeout_s: float = 60.0) -> None:
        def reached() -> bool:
            return len(self.acknowledged) >= count

        eventually(lambda: reached() or self.done, timeout_s=timeout_s, what=f"{count} acknowledged updates")
        assert reached(), f"only {len(self.acknowledged)} acknowledged; {self.failures[:5]}"

    def join(self, timeout_s: float = 90.0) -> None:
        """Until all clients have ended by themselves."""
        try:
            eventually(lambda: self.done, timeout_s=timeout_s, what="all clients have ended")
        except AssertionError as error:
            raise AssertionError(f"{error}; {len(self.acknowledged)} acknowledged; {self.failures[-5:]}") from None
