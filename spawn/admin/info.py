"""What Spawn says about itself: ``/info``, ``/health``, ``/counters``."""

from __future__ import annotations

import os
import platform
import resource
import socket

import falcon

from spawn.admin.backend import AdminBackend
from spawn.admin.rendering import Failure, reply, reply_bare, reply_results
from spawn.admin.resource import Readable
from spawn.admin.settings import AdminSettings

MEBIBYTE = 1_048_576


class Info(Readable):
    """The original's ``/info``: no envelope, keys in its order."""

    def __init__(self, settings: AdminSettings) -> None:
        self._settings = settings

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        runtime = {
            "CPU": os.cpu_count() or 1,
            "Compiler": _compiler(self._settings.compiled),
            "Memory": f"{resident_bytes() / MEBIBYTE:.2f}MB",
            "Threads": native_threads(),
        }
        release = {"Date": self._settings.release_date, "Number": self._settings.version}
        service = {"Host": socket.gethostname(), "Release": release, "Runtime": runtime}
        reply_bare(req, resp, 200, {"Spawn Sync Service": service})


class Health(Readable):
    """For supervisors and load balancers: 200 when serving, else 503."""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        serving, reason = self._backend.health()
        if not serving:
            raise Failure(503, "Not serving", reason)
        reply(req, resp, 200, {"info": reason, "success": True})


class CountersPage(Readable):
    """Every counter since the start, by its dotted name."""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        rows = [{"name": name, "value": value} for name, value in sorted(self._backend.counters().items())]
        reply_results(req, resp, rows)


def _compiler(compiled: bool) -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, mypyc" if compiled else python


def resident_bytes() -> int:
    """Memory that this process holds now; /proc is memory too, so reading it waits for no disk."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # no /proc: the highest value so far is better than none
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def native_threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1
