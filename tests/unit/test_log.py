"""The service's log: one event is one line, in a file that logrotate may move away."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawn import log
from spawn.errors import StartError

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [A-Z]{4,8} +.*")
logger = logging.getLogger("spawn.test")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    log.close()


def written(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def test_text_lines_have_time_level_and_message(tmp_path: Path) -> None:
    log.setup("info", "text", str(tmp_path / "x.log"))
    logger.info("node %s is down", "a:80")
    logger.error("no")
    logger.debug("not shown")
    first, second = written(tmp_path / "x.log")
    assert LINE.fullmatch(first)
    assert first[23:] == " INFO  node a:80 is down"
    assert second[23:] == " ERROR no"


def test_json_lines_have_the_extra_fields(tmp_path: Path) -> None:
    log.setup("info", "json", str(tmp_path / "x.log"))
    logger.warning("late", extra={"node": "a:80", "backlog": 3, "odd": object, "rate": float("nan"), "level": "forged"})
    (line,) = written(tmp_path / "x.log")
    event = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(event)[:3] == ["time", "level", "message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", event["time"])
    assert (event["level"], event["message"], event["node"]) == ("warning", "late", "a:80")


def test_plain_extra_fields_keep_their_type(tmp_path: Path) -> None:
    log.setup("info", "json", str(tmp_path / "x.log"))
    logger.info("x", extra={"backlog": 3, "held": True})
    event = json.loads(written(tmp_path / "x.log")[0])
    assert (event["backlog"], event["held"]) == (3, True)
    assert set(event) == {"time", "level", "message", "backlog", "held"}


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "evil",
    ["a\nb", "a\r\nb", "a\x1b[2Jb", "a\x00b", "a\x85b", "a\u2028b", "a\u2029b", "a\u202eb", "a\udcffb", "a\x7fb"],
)
def test_a_request_path_cannot_forge_a_line(tmp_path: Path, format: str, evil: str) -> None:
    log.setup("info", format, str(tmp_path / "x.log"))
    logger.info("GET /%s", evil, extra={"path": evil})
    text = (tmp_path / "x.log").read_bytes().decode("utf-8")
    assert text.endswith("\n")
    assert text[:-1].isprintable()


@given(st.text())
def test_an_escaped_text_is_one_visible_line(text: str) -> None:
    escaped = log.escape(text)
    assert escaped.isprintable()
    assert escaped == text or not text.isprintable()
    escaped.encode()


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_traceback_is_on_the_line_of_its_event(tmp_path: Path, format: str) -> None:
    log.setup("info", format, str(tmp_path / "x.log"))
    try:
        raise RuntimeError("inner\nreason")
    except RuntimeError:
        logger.exception("failed")
    (line,) = written(tmp_path / "x.log")
    assert "RuntimeError: inner\\nreason" in line
    assert "failed" in line


def test_arguments_that_do_not_fit_are_shown_anyway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info", "text", str(tmp_path / "x.log"))
    logger.info("%d apples", "no")
    assert written(tmp_path / "x.log")[0].endswith("%d apples ('no',)")
    assert capsys.readouterr().err == ""


def test_setting_up_again_replaces_what_was_there(tmp_path: Path) -> None:
    for name in ("a", "b", "b"):
        log.setup("info", "text", str(tmp_path / name))
    logger.info("once")
    assert written(tmp_path / "a") == []
    assert len(written(tmp_path / "b")) == 1
    assert len(logging.getLogger("spawn").handlers) == 1


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info", "text", "")
    logger.info("hello")
    captured = capsys.readouterr()
    assert LINE.fullmatch(captured.err.strip())
    assert captured.out == ""


def test_a_file_is_elsewhere_unless_it_is_standard_error_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not log.is_elsewhere(), "nothing is set up"
    log.setup("info", "text", "")
    assert not log.is_elsewhere()
    log.setup("info", "text", str(tmp_path / "x.log"))
    assert log.is_elsewhere()
    with (tmp_path / "x.log").open("a") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert not log.is_elsewhere()
    monkeypatch.setattr(sys, "stderr", None)
    assert log.is_elsewhere()


def test_standard_error_being_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log.setup("info", "text", "")
    monkeypatch.setattr(sys, "stderr", None)
    logger.info("into the void")


def test_the_level_can_change_while_running(tmp_path: Path) -> None:
    log.setup("warning", "text", str(tmp_path / "x.log"))
    logger.info("no")
    log.set_level("debug")
    logger.debug("yes")
    assert [line.split()[-1] for line in written(tmp_path / "x.log")] == ["yes"]


def test_the_file_is_appended_to_and_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    before = os.umask(0)
    try:
        log.setup("info", "text", str(path))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    logger.info("one")
    log.close()
    log.setup("info", "text", str(path))
    logger.info("two")
    assert len(written(path)) == 2


def test_a_file_that_cannot_be_opened_is_one_line_and_the_old_one_stays(tmp_path: Path) -> None:
    log.setup("info", "text", str(tmp_path / "x.log"))
    for path in (f"{tmp_path}/no/x.log", str(tmp_path), "a\0b", f"{tmp_path}/n\no/x"):
        with pytest.raises(StartError, match="cannot be opened") as caught:
            log.setup("info", "text", path)
        assert str(caught.value).isprintable()
    logger.info("still here")
    assert len(written(tmp_path / "x.log")) == 1


def test_a_pipe_without_a_reader_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StartError, match="cannot be opened"):
        log.setup("info", "text", str(tmp_path / "pipe"))


def test_reopen_follows_logrotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log.setup("info", "text", "x.log")
    logger.info("one")
    monkeypatch.chdir("/")  # as a daemon does
    (tmp_path / "x.log").rename(tmp_path / "x.log.1")
    logger.info("two")
    log.reopen()
    logger.info("three")
    assert [line.split()[-1] for line in written(tmp_path / "x.log.1")] == ["one", "two"]
    assert [line.split()[-1] for line in written(tmp_path / "x.log")] == ["three"]


@pytest.fixture
def printed() -> Iterator[None]:
    """Puts back the test's own standard output and standard error."""
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    yield
    for descriptor, own in kept.items():
        os.dup2(own, descriptor)
        os.close(own)


def print_to(path: Path, *descriptors: int) -> None:
    """As a daemon does, before it has a log."""
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
    os.close(opened)


@pytest.mark.usefixtures("printed")
def test_what_is_printed_follows_logrotate_where_it_is_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, one, two = (tmp_path / name for name in ("x.log", "x.log.1", "x.log.2"))
    print_to(path, 1, 2)
    log.setup("info", "text", str(path))
    for _ in range(2):
        if one.exists():
            one.rename(two)
        path.rename(one)
        log.reopen()
        os.write(1, b"out\n")
        os.write(2, b"err\n")
    assert (written(path), written(one), written(two)) == (["out", "err"], ["out", "err"], [])
    with os.fdopen(2, "w", closefd=False) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert not log.is_elsewhere()
        monkeypatch.undo()
    assert os.get_inheritable(1)
    assert os.get_inheritable(2)
    two.unlink()
    files = {os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in (1, 2)}
    assert files == {str(path)}, "no space stays taken"


@pytest.mark.usefixtures("printed")
def test_what_is_printed_elsewhere_stays_there(tmp_path: Path) -> None:
    path, other = tmp_path / "x.log", tmp_path / "other.log"
    print_to(other, 1)
    log.setup("info", "text", str(path))
    path.rename(tmp_path / "x.log.1")
    log.reopen()
    os.write(1, b"out\n")
    assert (written(path), written(other)) == ([], ["out"])


@pytest.mark.usefixtures("printed")
def test_a_reopen_where_nothing_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    log.setup("info", "text", str(path))
    os.close(1)  # the next file that is opened gets its number: the log itself
    os.close(2)
    for n in range(3):
        path.rename(tmp_path / f"x.log.{n}")
        log.reopen()
        logger.info("goes on")
    assert len(written(path)) == 1


@pytest.mark.usefixtures("printed")
def test_a_reopen_without_a_rotation_leaves_what_is_printed_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.touch()
    with path.open("r+") as stream:  # not for appending, so that it can be told apart
        os.dup2(stream.fileno(), 1)
    log.setup("info", "text", str(path))
    log.reopen()
    assert not fcntl.fcntl(1, fcntl.F_GETFL) & os.O_APPEND


def test_a_failed_reopen_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    log.setup("info", "text", str(tmp_path / "d" / "x.log"))
    (tmp_path / "d").rename(tmp_path / "e")
    log.reopen()
    logger.info("goes on")
    lines = written(tmp_path / "e" / "x.log")
    assert "the log goes on in the old file" in lines[0]
    assert lines[1].endswith("goes on")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_once_and_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info", "text", "/dev/full")
    for _ in range(3):
        logger.info("lost")
    assert capsys.readouterr().err == "spawn: log lines are being lost, /dev/full: [Errno 28] No space left on device\n"


def test_closing_leaves_the_logger_as_it_was(tmp_path: Path) -> None:
    log.setup("info", "text", str(tmp_path / "x.log"))
    log.close()
    spawn = logging.getLogger("spawn")
    assert (spawn.handlers, spawn.propagate, spawn.level) == ([], True, logging.NOTSET)
