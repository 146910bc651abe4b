"""``spawnctl`` that hangs when it is told to: ``python -m tests.support.hangable CONFIG ORDERS``.

A word in the file ``ORDERS`` is taken once: ``hub`` blocks the hub, ``journal`` the journal's thread, ``busy`` has that
compute for ``BUSY_S`` in one statement of SQLite.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from spawn.config import load
from spawnctl import foreground

if TYPE_CHECKING:
    from spawn.service import Service

FOR_S = 60.0
BUSY_S = 6.0
COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000000) SELECT count(*) FROM n"


def hang_the_hub() -> None:
    time.sleep(FOR_S)


def hang_the_journal() -> None:
    threading.Event().wait(FOR_S)


def keep_the_journal_busy() -> None:
    end_s, database = time.monotonic() + BUSY_S, sqlite3.connect(":memory:")
    while time.monotonic() < end_s:
        database.execute(COUNT).fetchall()


def obey(service: Service, orders: Path) -> None:
    import gevent

    while True:
        gevent.sleep(0.02)
        word = orders.read_text("ascii") if orders.exists() else ""
        if not word:
            continue
        orders.unlink()
        writer = service._journal._writer  # type: ignore[attr-defined]
        if word == "hub":
            hang_the_hub()
        else:
            gevent.spawn(writer.call, hang_the_journal if word == "journal" else keep_the_journal_busy)


def main() -> int:
    import gevent

    config, orders = sys.argv[1:]

    def on_ready(service: Service) -> None:
        gevent.spawn(obey, service, Path(orders))

    foreground.hold_later_signals()
    return foreground.serve(foreground.Plan.make(load(config, {}), {}), on_ready)


if __name__ == "__main__":
    sys.exit(main())
