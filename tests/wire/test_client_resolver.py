"""Names and addresses: cached, shared, bounded by deadlines, and never asked on the hub."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from spawn.errors import NotSent
from spawn.http11 import resolver as module
from spawn.http11.resolver import Resolver
from tests.support.scriptednode import ClientUnderTest, ScriptedNode, until


class Names:
    """A name server that counts, and can hang."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()
        self.fails: type[Exception] | None = None

    def __call__(self, host: str, *_: object, **__: object) -> list[Any]:
        self.asked.append(host)
        self.threads.add(threading.get_ident())
        self.go.wait(10)
        if self.fails:
            raise self.fails(-2, "Name or service not known")
        v6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0))
        v4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
        return [v6, v4, v4]


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    with gevent.Timeout(30):
        yield


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def make(names: Names) -> Iterator[Callable[..., Resolver]]:
    made: list[Resolver] = []

    def factory(**more: float) -> Resolver:
        made.append(Resolver(lookup=names, **more))
        return made[-1]

    yield factory
    names.go.set()
    for resolver in made:
        resolver.stop(5)
        resolver.stop(5)


BOTH = [(socket.AF_INET6, ("2001:db8::1", 80, 0, 0)), (socket.AF_INET, ("192.0.2.1", 80))]


def test_all_addresses_once_in_the_systems_order(make: Callable[..., Resolver]) -> None:
    assert make().resolve("app.test", 80, 1) == BOTH


def test_literals_need_no_name_server(make: Callable[..., Resolver], names: Names) -> None:
    resolver = make()
    assert resolver.resolve("192.0.2.9", 80, 0) == [(socket.AF_INET, ("192.0.2.9", 80))]
    assert resolver.resolve("2001:db8::9", 81, 0) == [(socket.AF_INET6, ("2001:db8::9", 81, 0, 0))]
    assert resolver.resolve("fe80::1%3", 81, 0) == [(socket.AF_INET6, ("fe80::1", 81, 0, 3))]
    with pytest.raises(NotSent, match="no network interface"):
        resolver.resolve("fe80::1%nonsense9", 81, 0)
    assert names.asked == []


def test_asked_in_another_thread_and_cached(make: Callable[..., Resolver], names: Names) -> None:
    resolver = make(ttl_s=30)
    resolver.resolve("app.test", 80, 1)
    assert resolver.resolve("app.test", 81, 1)[1] == (socket.AF_INET, ("192.0.2.1", 81))
    assert names.asked == ["app.test"]
    assert threading.get_ident() not in names.threads


def test_asked_again_when_the_answer_is_old(make: Callable[..., Resolver], names: Names) -> None:
    resolver = make(ttl_s=0)
    resolver.resolve("app.test", 80, 1)
    resolver.resolve("app.test", 80, 1)
    assert len(names.asked) == 2


@pytest.mark.parametrize("fault", [socket.gaierror, ValueError])
def test_failures_are_cached_for_a_shorter_time(
    make: Callable[..., Resolver], names: Names, fault: type[Exception]
) -> None:
    names.fails = fault
    resolver = make(negative_ttl_s=0.05)
    for _ in range(3):
        with pytest.raises(NotSent, match="cannot resolve app"):
            resolver.resolve("app.test", 80, 1)
    assert len(names.asked) == 1
    names.fails = None
    gevent.sleep(0.06)
    assert resolver.resolve("app.test", 80, 1) == BOTH


def test_a_slow_name_server_holds_nobody_past_his_deadline(make: Callable[..., Resolver], names: Names) -> None:
    names.go.clear()
    resolver = make()
    with pytest.raises(NotSent, match="no answer within"):
        resolver.resolve("app.test", 80, 0.02)
    names.go.set()  # the lookup went on, and the next one has its result
    assert resolver.resolve("app.test", 80, 5) == BOTH
    assert len(names.asked) == 1


def test_those_who_ask_at_once_share_one_lookup(make: Callable[..., Resolver], names: Names) -> None:
    names.go.clear()
    resolver = make()
    asking = [gevent.spawn(resolver.resolve, "app.test", 80, 5) for _ in range(10)]
    until(lambda: names.asked)
    names.go.set()
    assert [greenlet.get(timeout=5) for greenlet in asking] == [BOTH] * 10
    assert len(names.asked) == 1


def test_more_slow_names_than_threads_still_meet_their_deadlines(make: Callable[..., Resolver], names: Names) -> None:
    names.go.clear()
    resolver = make()
    asking = [gevent.spawn(resolver.resolve, f"n{number}.test", 80, 0.05) for number in range(module.MAX_THREADS + 6)]
    gevent.joinall(asking, timeout=5)
    assert all(isinstance(greenlet.exception, NotSent) for greenlet in asking)
    assert len(names.asked) == module.MAX_THREADS
    assert resolver.resolve("127.0.0.1", 80, 0)


def test_hung_names_do_not_take_the_others_with_them(
    make: Callable[..., Resolver], names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLACE_S", 0.05)
    resolver = make(ttl_s=0)
    assert resolver.resolve("known.test", 80, 5) == BOTH
    names.go.clear()
    hung = [gevent.spawn(resolver.resolve, f"n{number}.test", 80, 20) for number in range(module.MAX_THREADS)]
    until(lambda: len(names.asked) == 1 + module.MAX_THREADS)
    with pytest.raises(NotSent, match="waiting for the name server"):
        resolver.resolve("new.test", 80, 20)
    assert resolver.resolve("known.test", 80, 20) == BOTH
    names.go.set()
    assert [greenlet.get(timeout=5) for greenlet in hung] == [BOTH] * len(hung)
    assert resolver.resolve("new.test", 80, 20) == BOTH


def test_an_old_answer_is_better_than_none_but_not_than_a_new_one(
    make: Callable[..., Resolver], names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    resolver = make(ttl_s=0, negative_ttl_s=0)
    assert resolver.resolve("app.test", 80, 5) == BOTH
    names.go.clear()
    assert resolver.resolve("app.test", 80, 20) == BOTH
    monkeypatch.setattr(module, "STALE_S", 0)
    with pytest.raises(NotSent, match="no answer within"):
        resolver.resolve("app.test", 80, 0.05)
    names.fails = socket.gaierror
    names.go.set()
    until(lambda: not resolver._in_flight)
    monkeypatch.undo()
    with pytest.raises(NotSent, match="not known"):
        resolver.resolve("app.test", 80, 20)


def test_the_cache_is_bounded(make: Callable[..., Resolver], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NAMES", 3)
    resolver = make()
    for number in range(10):
        resolver.resolve(f"n{number}.test", 80, 1)
    assert len(resolver._cache) == 3


def test_stop_lets_go_of_those_who_wait(make: Callable[..., Resolver], names: Names) -> None:
    names.go.clear()
    resolver = make()
    asking = gevent.spawn(resolver.resolve, "app.test", 80, 20)
    until(lambda: names.asked)
    stopping = gevent.spawn(resolver.stop, 5)
    with pytest.raises(NotSent, match="stopping"):
        asking.get(timeout=5)
    names.go.set()
    stopping.get(timeout=5)


@pytest.mark.parametrize("host", ["a" * 70 + ".test", "\0", "a..b", "é" * 300])
def test_impossible_names_are_refused_in_words(host: str) -> None:
    resolver = Resolver()
    with pytest.raises(NotSent, match="cannot resolve"):
        resolver.resolve(host, 80, 5)
    resolver.stop(5)


def test_localhost_and_ipv6_reach_a_node() -> None:
    with ClientUnderTest() as client, ScriptedNode(host="::1") as six, ScriptedNode(host="localhost") as four:
        assert client.fetch(six) == (200, b"hello")
        assert client.fetch(four) == (200, b"hello")
