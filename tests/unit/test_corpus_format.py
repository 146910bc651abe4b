"""The corpus' files are read as they are written, and a malformed one fails loudly, with its name and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.corpus import CorpusError, answer_cases, parse_bytes, request_cases

GOOD = r"""expect: accept
why: Words on one line
  and on the next.
rfc: RFC 9112 §1
method: POST
target: /a\x20b
host:
headers:
  X: 1
  Empty:
absent: x-gone Y
body: abc
  %repeat 3 d\r
close: yes
rest: GET\x20
then: 400

POST / HTTP/1.1\r\n
X:\x20\t1\r\n
\\%\xff\x0a
%repeat 2 ab\n
GET\x20
"""


def write(directory: Path, text: str | bytes, name: str = "group/case.txt") -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return directory


def test_a_request(tmp_path: Path) -> None:
    [case] = request_cases(write(tmp_path, GOOD))
    assert case.data == b"POST / HTTP/1.1\r\nX: \t1\r\n\\%\xff\nab\nab\nGET "
    assert (case.name, case.group, case.expect, case.laxer) == ("group/case", "group", "accept", "")
    assert (case.why, case.rfc) == ("Words on one line and on the next.", "RFC 9112 §1")
    assert (case.method, case.target, case.host, case.body) == (b"POST", b"/a b", b"", b"abcd\rd\rd\r")
    assert (case.headers, case.absent) == (((b"X", b"1"), (b"Empty", b"")), (b"x-gone", b"y"))
    assert (case.close, case.rest, case.then) == (True, b"GET ", 400)
    assert (case.accepted, case.refusal) == (1, 400)


def test_what_is_not_said_is_the_usual(tmp_path: Path) -> None:
    [case] = request_cases(write(tmp_path, "expect: accept\nwhy: w\nrfc: r\nlimits: head=300 body=5\n\nGET\n"))
    assert (case.method, case.target, case.host, case.body) == (b"GET", b"/", b"localhost", b"")
    assert (case.close, case.rest, case.then, case.limits) == (False, b"", "accept", {"head": 300, "body": 5})
    [case] = request_cases(write(tmp_path, "expect: 431\nwhy: w\nrfc: r\nlaxer: l\n\nGET\n"))
    assert (case.expect, case.accepted, case.refusal, case.laxer) == (431, 0, 431, "l")
    [case] = request_cases(write(tmp_path, "expect: incomplete\nwhy: w\nrfc: r\n\nGET\n"))
    assert (case.accepted, case.refusal) == (0, 0)


def test_an_answer(tmp_path: Path) -> None:
    head = "expect: cut\nwhy: w\nrfc: r\nmethod: HEAD\nstatus: 206\nreason: So\\x21\nthen: reset\nupdate: 502\n"
    [case] = answer_cases(write(tmp_path, head + "reused: no\nheaders:\n  A: b\nbody: ab\n\nHTTP/1.1\n"))
    assert (case.expect, case.method, case.then, case.update, case.reused) == ("cut", b"HEAD", "reset", "502", False)
    assert (case.status, case.reason, case.headers, case.body) == (206, b"So!", ((b"A", b"b"),), b"ab")
    [case] = answer_cases(write(tmp_path, "expect: 502\nwhy: w\nrfc: r\n\n"))
    assert (case.data, case.method, case.then, case.update, case.reused) == (b"", b"GET", "wait", "", None)


def test_cases_come_by_name(tmp_path: Path) -> None:
    for name in ("b/a", "a/b", "a/a-2"):
        write(tmp_path, GOOD, f"{name}.txt")
    assert [case.name for case in request_cases(tmp_path)] == ["a/a-2", "a/b", "b/a"]


@pytest.mark.parametrize(
    ("line", "at", "complaint"),
    [
        ("why: again", "5", "a second 'why'"),
        ("nonsense", "5", "not a line"),
        ("Why: w", "5", "not a line"),
        ("notes: x", "1", "'notes' does not belong here"),
        ("status: 200", "1", "'status' does not belong here"),
        ("then: 400", "1", "'then' does not belong here"),
        ("limits: lines=3", "1", "limits are"),
        ("limits: head=x", "1", "limits are"),
        ("close: perhaps", "1", "none of no, yes"),
        ("laxer:", "1", "'laxer' is empty"),
        ("body: a\\q", "5", "escapes"),
        ("body: \\xA0", "5", "escapes"),
        ("body: \\x0", "5", "escapes"),
        ("headers:\n  nothing", "6", "without a colon"),
    ],
)
def test_a_malformed_head_is_told(tmp_path: Path, line: str, at: str, complaint: str) -> None:
    write(tmp_path, f"expect: accept\nwhy: w\n  w\nrfc: r\n{line}\n\nGET\n")
    with pytest.raises(CorpusError, match=rf"group/case\.txt:{at}: .*{complaint}"):
        request_cases(tmp_path)


@pytest.mark.parametrize("key", ["expect", "why", "rfc"])
def test_what_has_to_be_there_is_missed(tmp_path: Path, key: str) -> None:
    lines = [line for line in ("expect: 400", "why: w", "rfc: r") if not line.startswith(key)]
    with pytest.raises(CorpusError, match=f"there is no '{key}'"):
        request_cases(write(tmp_path, "\n".join([*lines, "", "GET", ""])))


@pytest.mark.parametrize("value", ["200", "40", "refuse", "4000"])
def test_an_unknown_fate_is_told(tmp_path: Path, value: str) -> None:
    with pytest.raises(CorpusError, match="neither accept"):
        request_cases(write(tmp_path, f"expect: {value}\nwhy: w\nrfc: r\n\nGET\n"))


@pytest.mark.parametrize(
    ("bytes_", "complaint"),
    [
        ("GET \n", "white space"),
        (" GET\n", "white space"),
        ("GET\n\nX\n", "an empty line"),
        ("GET\\\n", "escapes"),
        ("GÄT\n", "escapes"),
        ("G\\0\n", "escapes"),
        ("G\tT\n", "escapes"),
        ("%repeat x a\n", "%repeat"),
        ("%repeat 0 a\n", "%repeat"),
        ("%repeat 3\n", "%repeat"),
        ("%41\n", "%repeat"),
    ],
)
def test_malformed_bytes_are_told(tmp_path: Path, bytes_: str, complaint: str) -> None:
    with pytest.raises(CorpusError, match=complaint) as caught:
        request_cases(write(tmp_path, f"expect: 400\nwhy: w\nrfc: r\n\n{bytes_}"))
    assert "case.txt:" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"expect: 400\n", b"expect: 400\nwhy: w\nrfc: r\n\nGET", b"expect: 400\r\n\r\n", b"why: \xe4\n\nGET\n"],
)
def test_a_file_of_another_shape_is_told(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(CorpusError, match=r"case\.txt"):
        request_cases(write(tmp_path, text))


@pytest.mark.parametrize("name", ["case.txt", "a/b/case.txt", "a/case", "a/case.txt~", "a/Case.txt", "a/a_b.txt"])
def test_a_file_in_the_wrong_place_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match="group/name"):
        request_cases(write(tmp_path, GOOD, name))


def test_the_rest_has_to_be_the_end_of_the_bytes(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="do not end with"):
        request_cases(write(tmp_path, GOOD.replace("rest: GET", "rest: PUT")))


def test_bytes_that_no_escape_is_needed_for() -> None:
    assert parse_bytes([(1, "a b%c"), (2, r"\r\n\t\\\x00\xff")]) == b"a b%c\r\n\t\\\0\xff"
