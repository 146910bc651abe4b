"""The admin API as tests use it: thin, over requests, with waits for the states that tests need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests

from tests.support.waiting import eventually

Row = dict[str, Any]


def session() -> requests.Session:
    """One that takes nothing (proxies, .netrc) from the environment."""
    made = requests.Session()
    made.trust_env = False
    return made


class AdminApi:
    """One service's admin API at ``http://host:port``."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.url = f"http://{host}:{port}"

    def call(self, method: str, path: str, json: object = None, timeout_s: float = 15.0) -> requests.Response:
        with session() as client:  # no connection is kept: the service may be killed between two calls
            return client.request(method, self.url + path, json=json, timeout=timeout_s)

    def data(self, method: str, path: str, json: object = None) -> dict[str, Any]:
        answer = self.call(method, path, json)
        assert answer.status_code in (200, 201, 202), f"{method} {path}: {answer.status_code} {answer.text}"
        found = answer.json()["data"]
        assert isinstance(found, dict)
        return found

    def healthy(self) -> bool:
        return self.call("GET", "/health", timeout_s=2).status_code == 200

    def nodes(self) -> list[Row]:
        answer = self.call("GET", "/nodes")
        if answer.status_code == 404:
            return []
        return list(answer.json()["data"]["results"])

    def queues(self) -> list[Row]:
        return list(self.data("GET", "/queues")["results"])

    def queue(self, port: int, host: str = "127.0.0.1") -> Row:
        (row,) = self.data("GET", f"/queues/{host}/{port}")["results"]
        assert isinstance(row, dict)
        return row

    def head(self) -> int:
        return int(self.data("GET", "/queues")["head"])

    def put_node(self, port: int, host: str = "127.0.0.1", **fields: object) -> dict[str, Any]:
        return self.data("PUT", f"/nodes/{host}/{port}", fields)

    def maintenance(self, port: int, on: bool, host: str = "127.0.0.1") -> None:
        self.put_node(port, host, maintenance=on)

    def wait_queue(self, port: int, holds: Callable[[Row], bool], *, what: str, timeout_s: float = 30.0) -> Row:
        """Until the node's queue row satisfies ``holds``; returns it."""
        rows: list[Row] = []

        def probe() -> bool:
            rows[:] = [self.queue(port)]
            return holds(rows[0])

        try:
            eventually(probe, timeout_s=timeout_s, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the queue: {rows}") from None
        return rows[0]

    def wait_state(self, port: int, state: str, timeout_s: float = 30.0) -> Row:
        return self.wait_queue(
            port, lambda row: bool(row["state"] == state), what=f"{port} {state}", timeout_s=timeout_s
        )

    def wait_settled(self, timeout_s: float = 60.0) -> None:
        """Until every node serves and nothing is left to deliver."""
        rows: list[Row] = []

        def settled() -> bool:
            rows[:] = self.queues()
            return all(row["state"] == "serving" and row["backlog"] == 0 for row in rows)

        try:
            eventually(settled, timeout_s=timeout_s, what="all nodes serve and all backlogs are empty", every_s=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}; the queues: {rows}") from None
