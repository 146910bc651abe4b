"""What ``spawnctl status`` shows of a service that runs, below its first line: how it is, and how its nodes are.

Asked from the admin API, where anything may answer: the port may be somebody else's by now, the service may be stuck.
So there is one deadline for all that is asked and a limit for each answer, an answer has to be of the form that Spawn
gives it (which leaves out numbers, nesting and texts that are no use here), and what is shown of it is escaped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated

import msgspec
import requests

from spawn.log import escape

CONNECT_S, READ_S = 1.0, 3.0  # for one address, and for the next piece of an answer
TOTAL_S = 5.0  # for everything
ANSWER_BYTES = 16 * 1_048_576  # 10,000 nodes with the longest names and errors need 8 MiB
ERROR_CHARACTERS = 60
ALIGNED_CHARACTERS = 80  # a longer name does not push the columns of all others out of sight
ELLIPSIS = "..."  # in ASCII: not every terminal has more
FLAGS = ("held", "diverged", "out-of-sync")
HEADINGS = ("NODE", "STATE", "BACKLOG", "")
PATHS = ("/info", "/health", "/queues")
NOT_SPAWN = "what answers at {} is not the API of Spawn"
SILENT = "its API at {} does not answer: {}"

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Word = Annotated[str, msgspec.Meta(max_length=100)]
_Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class _Release(msgspec.Struct):
    number: _Word = msgspec.field(name="Number")


class _Service(msgspec.Struct):
    release: _Release = msgspec.field(name="Release")


class _Info(msgspec.Struct):
    service: _Service = msgspec.field(name="Spawn Sync Service")


class _Phase(msgspec.Struct):
    """Of a service that does not serve it comes with 503."""

    success: bool
    info: _Text = ""
    message: _Text = ""


class _Health(msgspec.Struct):
    data: _Phase


class _Node(msgspec.Struct, rename="kebab"):
    host: Annotated[str, msgspec.Meta(max_length=255)]
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    state: _Word
    backlog: _Count
    last_error: _Text | None = ""
    held: bool = False
    diverged: bool = False
    out_of_sync: bool = False


class _Rows(msgspec.Struct):
    results: list[_Node]
    head: _Count | None = None


class _Queues(msgspec.Struct):
    data: _Rows


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None at all. To be told not to follow one is not enough: the answer is read to its end before that."""


class _TooLong(Exception):
    pass


def describe(api: str, pid: int) -> list[str]:
    """Lines about the service whose API is at this URL."""
    where = escape(api)
    try:
        info, health, queues = _ask(api)
    except _TooLong:
        return [NOT_SPAWN.format(where)]
    except Empty:
        return [SILENT.format(where, f"not all has come within {TOTAL_S:.0f} s")]
    except Exception as error:  # noqa: BLE001 (whatever the libraries make of what has come)
        return [SILENT.format(where, _reason(error))]
    try:
        release = msgspec.json.decode(info, type=_Info).service.release.number
        phase = msgspec.json.decode(health, type=_Health).data
        rows = msgspec.json.decode(queues, type=_Queues).data
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return [NOT_SPAWN.format(where)]
    return [*_summary(release, pid, phase, rows.head), *_table(rows.results)]


def _ask(api: str) -> list[bytes]:
    """The three answers. Raises what a library raised, ``Empty`` when the time is up.

    Sockets have deadlines for each piece only, heads cannot be interrupted from here and the look-up of a name not at
    all; so it is a thread that asks, and it is left to itself when the time is up: the command ends soon after.
    """
    outcome: SimpleQueue[list[bytes] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            with _Session() as session:
                session.trust_env = False  # no proxy between us
                outcome.put([_get(session, api + path) for path in PATHS])
        except Exception as error:  # noqa: BLE001 (raised again where somebody waits for it)
            outcome.put(error)

    threading.Thread(target=ask, name="status", daemon=True).start()
    answers = outcome.get(timeout=TOTAL_S)
    if isinstance(answers, Exception):
        raise answers
    return answers


def _get(session: requests.Session, url: str) -> bytes:
    """The body of an answer of any status. As it came: a small one that is compressed may be large."""
    headers = {"Accept-Encoding": "identity"}
    timeouts = (CONNECT_S, READ_S)
    with session.get(url, headers=headers, timeout=timeouts, allow_redirects=False, stream=True) as answer:
        body = b""
        while piece := answer.raw.read(ANSWER_BYTES + 1, decode_content=False):  # more than once: to see it was all
            body += piece
            if len(body) > ANSWER_BYTES:
                raise _TooLong
    return body


def _reason(error: BaseException) -> str:
    """By what the socket said, which is at the bottom of what the libraries make of it."""
    sockets = [cause for cause in _causes(error) if isinstance(cause, OSError)]
    if any(isinstance(cause, TimeoutError) for cause in sockets):
        return f"nothing comes within {READ_S:.0f} s"
    if any(not isinstance(cause, requests.RequestException) for cause in sockets):
        return "no connection"
    return "its answer cannot be read"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _summary(release: str, pid: int, phase: _Phase, head: int | None) -> list[str]:
    up = uptime_s(pid)
    parts = [f"version {escape(release)}"]
    parts += [f"up {span(up)}"] if up is not None else []
    parts += [f"journal at update {head}"] if head is not None else []
    if not phase.success:
        parts.append(f"not serving ({escape(phase.info or phase.message)})")
    return [", ".join(parts)]


def _table(nodes: Sequence[_Node]) -> list[str]:
    if not nodes:
        return ["no nodes are configured"]
    rows = [HEADINGS, *(_row(node) for node in nodes)]
    widths = [min(ALIGNED_CHARACTERS, max(len(row[column]) for row in rows)) for column in range(3)]
    return [
        f"{name:<{widths[0]}}  {state:<{widths[1]}}  {backlog:>{widths[2]}}  {trouble}".rstrip()
        for name, state, backlog, trouble in rows
    ]


def _row(node: _Node) -> tuple[str, str, str, str]:
    host, state = escape(node.host), escape(node.state)
    name = f"[{host}]:{node.port}" if ":" in host else f"{host}:{node.port}"
    flags = [flag for flag in FLAGS if getattr(node, flag.replace("-", "_")) and flag != state]
    error = escape(node.last_error or "")
    shown = error if len(error) <= ERROR_CHARACTERS else f"{error[:ERROR_CHARACTERS]}{ELLIPSIS}"
    return name, ", ".join([state, *flags]), str(node.backlog), shown


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
