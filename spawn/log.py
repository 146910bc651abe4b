"""The service's own log: one event is one line, whatever is in it.

Modules log with ``logging.getLogger("spawn.<area>")``; only the command calls ``setup``, an embedding program keeps its
own logging. Everything that could end a line or hide in one (controls, line separators, direction marks, lone
surrogates) is escaped, so that a request path cannot forge an event. A line that cannot be written is dropped and
said once on standard error: a full disk must not stop the service.

There is one handler, found again on the logger itself; nothing is kept in this module.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from spawn.errors import StartError

NAME = "spawn"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PRINTED = (1, 2)  # where libraries, the interpreter and the C library print, whatever sys.stdout is
_FILE_MODE = 0o640  # paths and client addresses are for the administrators' group at most


def setup(level: str, format: str, file: str) -> None:
    """Send the "spawn" logger to ``file`` (empty: standard error) as ``text`` or ``json``, from ``level`` on.

    May be called again, also with other values: the last call counts. Raises ``StartError`` when the file cannot be
    opened; the earlier set-up stays then.
    """
    handler = _Handler(file)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    close()
    logger = logging.getLogger(NAME)
    logger.addHandler(handler)
    logger.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """Change the level of a running service: debug, info, warning, error or critical."""
    logging.getLogger(NAME).setLevel(level.upper())


def reopen() -> None:
    """Open the log file anew, after logrotate has moved it away. If that fails the old one stays in use.

    Standard output and standard error follow where they are the log file too, as a daemon's are.
    """
    for handler in _handlers():
        try:
            handler.reopen()
        except StartError as error:
            logging.getLogger(NAME).error("%s; the log goes on in the old file", error)


def show_crashes() -> None:
    """From now on the stacks of all threads are written to the log when a signal such as SIGABRT ends the process.

    In many lines, as they come from the interpreter. Follows ``reopen``, but not another ``setup``.
    """
    for handler in _handlers():
        handler.show_crashes()


def is_elsewhere() -> bool:
    """Whether the log goes to a file that is not what standard error is too: what is said there is not in the log."""
    return any(handler.is_elsewhere() for handler in _handlers())


def close() -> None:
    """Undo ``setup``."""
    logger = logging.getLogger(NAME)
    for handler in _handlers():
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def escape(text: str) -> str:
    """``text`` on one line, with nothing invisible in it but spaces."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class TextFormatter(logging.Formatter):
    """``2026-11-23 12:00:00.123 INFO  message`` in local time."""

    def format(self, record: logging.LogRecord) -> str:
        message, trace = _message(record), _trace(self, record)
        when = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
        return f"{when} {record.levelname:<5} {escape(f'{message} | {trace}' if trace else message)}"


class JsonFormatter(logging.Formatter):
    """One object a line: time (local, with its offset), level, message, then the event's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat("T", "milliseconds"),
            "level": record.levelname.lower(),
            "message": _message(record),
        }
        trace = _trace(self, record)
        if trace:
            event["trace"] = trace
        event |= {key: value for key, value in vars(record).items() if key not in _STANDARD and key not in event}
        return _json(event)


class _Handler(logging.Handler):
    """Writes whole lines to a file of its own, or to whatever standard error is at the moment.

    The file is not buffered: a line is one append, and a full disk leaves nothing behind that grows.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self._path = os.path.abspath(file) if file else ""  # a daemon leaves the working directory
        self._file = _open(self._path) if file else None
        self._losing = False
        self._shows_crashes = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(f"{self.format(record)}\n")
        except (OSError, ValueError, AttributeError) as error:  # no space; closed; no standard error at all
            self._lost(error)
        else:
            self._losing = False

    def reopen(self) -> None:
        if self._file is not None:
            fresh = _open(self._path)
            with self._locked():
                old, self._file = self._file, fresh
            if self._shows_crashes:
                self.show_crashes()
            _turn_printed(old, fresh)
            old.close()

    def show_crashes(self) -> None:
        self._shows_crashes = True
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):  # no standard error at all
            faulthandler.enable(sys.stderr if self._file is None else self._file)

    def close(self) -> None:
        super().close()
        if self._shows_crashes:
            faulthandler.disable()  # before somebody else is given the file's number
        if self._file is not None:
            self._file.close()

    def is_elsewhere(self) -> bool:
        if self._file is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), os.fstat(sys.stderr.fileno()))
        except (OSError, ValueError, AttributeError):  # there is no standard error, or none with a descriptor
            return True

    def _write(self, line: str) -> None:
        if self._file is None:
            sys.stderr.write(line)
            sys.stderr.flush()
            return
        rest = line.encode("utf-8", "backslashreplace")
        while rest:
            rest = rest[self._file.write(rest) :]

    def _lost(self, error: Exception) -> None:
        """Once per spell of trouble, where it may still be seen."""
        if not self._losing and self._file is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(escape(f"spawn: log lines are being lost, {self._path}: {error}") + "\n")
        self._losing = True

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


def _handlers() -> list[_Handler]:
    return [handler for handler in logging.getLogger(NAME).handlers if isinstance(handler, _Handler)]


def _open(path: str) -> io.FileIO:
    """For appending, created with ``_FILE_MODE``. Raises ``StartError``.

    O_NONBLOCK makes a pipe without a reader an error instead of a wait; it is taken back, since writes should wait.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, _FILE_MODE)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise StartError(f"log file {escape(path)} cannot be opened: {reason}") from None
    os.set_blocking(descriptor, True)
    return io.FileIO(descriptor, "a")


def _turn_printed(old: io.FileIO, fresh: io.FileIO) -> None:
    """What is printed goes to ``fresh`` if it went to ``old``, whoever opened that; never what goes elsewhere."""
    was, now = os.fstat(old.fileno()), os.fstat(fresh.fileno())
    for descriptor in _PRINTED:
        with contextlib.suppress(OSError):  # it is closed
            if os.path.samestat(os.fstat(descriptor), was) and not os.path.samestat(was, now):
                os.dup2(fresh.fileno(), descriptor)


def _message(record: logging.LogRecord) -> str:
    """A line of the code's that does not fit its arguments is still worth showing."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _json(event: Mapping[str, Any]) -> str:
    """ASCII only, so that no separator survives; a value that JSON has no word for is shown as text."""
    try:
        return json.dumps(event, default=str, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return json.dumps({str(key): value if isinstance(value, str) else repr(value) for key, value in event.items()})
