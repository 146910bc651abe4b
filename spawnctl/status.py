"""What ``spawnctl status`` shows of a service that runs, below its first line: how it is, and how its nodes are.

Asked from the admin API, with short deadlines: a service that is stuck must not make the question stick. What comes
from there is shown with everything escaped that could hide in a line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from spawn.log import escape

CONNECT_S, READ_S = 1.0, 3.0
ERROR_CHARACTERS = 60
FLAGS = ("held", "diverged", "out-of-sync")
HEADINGS = ("NODE", "STATE", "BACKLOG", "")


def describe(api: str, pid: int) -> list[str]:
    """Lines about the service whose API is at this URL."""
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy between us
            release = _get(session, f"{api}/info")["Spawn Sync Service"]["Release"]["Number"]
            phase = _get(session, f"{api}/health")["data"]
            queues = _get(session, f"{api}/queues")["data"]
            return [*_summary(str(release), pid, phase, queues), *_table(queues["results"])]
    except (requests.RequestException, ValueError) as error:
        return [f"its API at {api} does not answer: {_reason(error)}"]
    except (KeyError, TypeError, AttributeError):
        return [f"what answers at {api} is not the API of Spawn"]


def _get(session: requests.Session, url: str) -> Any:
    """An answer of any status: 404 means that there are no nodes, 503 that it is not serving."""
    answer = session.get(url, timeout=(CONNECT_S, READ_S), allow_redirects=False)
    return answer.json()


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return f"nothing comes within {READ_S:.0f} s"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return "its answer cannot be read"


def _summary(release: str, pid: int, phase: Mapping[str, Any], queues: Mapping[str, Any]) -> list[str]:
    up = uptime_s(pid)
    parts = [f"version {escape(release)}"]
    parts += [f"up {span(up)}"] if up is not None else []
    parts += [f"journal at update {int(queues['head'])}"] if "head" in queues else []
    if not phase.get("success"):
        parts.append(f"not serving ({escape(str(phase.get('message') or phase.get('info')))})")
    return [", ".join(parts)]


def _table(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    if not nodes:
        return ["no nodes are configured"]
    rows = [HEADINGS, *(_row(node) for node in nodes)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"{name:<{widths[0]}}  {state:<{widths[1]}}  {backlog:>{widths[2]}}  {trouble}".rstrip()
        for name, state, backlog, trouble in rows
    ]


def _row(node: Mapping[str, Any]) -> tuple[str, str, str, str]:
    host, state = escape(str(node["host"])), escape(str(node["state"]))
    name = f"[{host}]:{node['port']}" if ":" in host else f"{host}:{node['port']}"
    flags = [flag for flag in FLAGS if node.get(flag) and flag != state]
    error = escape(str(node.get("last-error") or ""))
    shown = error if len(error) <= ERROR_CHARACTERS else f"{error[:ERROR_CHARACTERS]}…"
    return name, ", ".join([state, *flags]), str(int(node["backlog"])), shown


def uptime_s(pid: int) -> float | None:
    """For how long a process has been running, by proc(5); None where that is hidden."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started_s = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22, counted from the boot
        return max(0.0, float(Path("/proc/uptime").read_text().split()[0]) - started_s)
    except (OSError, ValueError, IndexError):
        return None


def span(seconds: float) -> str:
    """A time in the two units that say most: ``3 d 4 h``."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
