"""Read or update."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawn.config.schema import RuleConfig
from spawn.http11.message import Headers, RequestHead
from spawn.proxy.rules import READS, Classifier, Kind, normalised
from tests.support.heads import request_head


def head(method: str, target: str = "/", headers: Headers | None = None) -> RequestHead:
    return request_head(headers or (), method=method.encode(), target=target.encode("latin-1"))


def kind(method: str, target: str = "/", headers: Headers | None = None, *rules: RuleConfig) -> Kind:
    return Classifier(rules).classify(head(method, target, headers))


def rule(url: str, as_: str, method: str = "") -> RuleConfig:
    return RuleConfig(url=url, as_=as_, method=method)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", sorted(READS))
def test_reads_by_method(method: bytes) -> None:
    assert kind(method.decode()) is Kind.READ


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "MKCOL", "LOCK", "get", "BREW", "PROPPATCH"])
def test_everything_else_is_an_update(method: str) -> None:
    assert kind(method) is Kind.UPDATE


@pytest.mark.parametrize("name", [b"X-HTTP-Method-Override", b"x-http-method", b"X-Method-Override"])
def test_a_method_override_makes_an_update(name: bytes) -> None:
    assert kind("GET", "/", [(name, b"DELETE")]) is Kind.UPDATE


@pytest.mark.parametrize("name", [b"X-HTTP-Method-Override", b"x-http-method", b"X-Method-Override"])
def test_no_rule_makes_a_read_of_a_method_override(name: bytes) -> None:
    search = rule("^/search", "read")
    assert kind("POST", "/search", [(b"X-Other", b"DELETE")], search) is Kind.READ
    assert kind("POST", "/search", [(name, b"DELETE")], search) is Kind.UPDATE


@pytest.mark.parametrize(
    "target",
    [
        "/items/../search",
        "/items/..%2fsearch",
        "/items/%2e%2e/search",
        "//search",
        "/./search",
        "/search/../items",
        "/search/..%2fitems",
    ],
)
def test_a_rule_for_reads_has_to_match_both_spellings(target: str) -> None:
    search = rule("^/search", "read")
    assert kind("POST", "/search/x", None, search) is Kind.READ
    assert kind("POST", "/%73earch?q=1", None, search) is Kind.READ
    assert kind("POST", target, None, search) is Kind.UPDATE


@pytest.mark.parametrize("target", ["/delete/../x", "/delete/..%2fx", "/x/../delete", "/a/delete//..//..//x"])
def test_a_rule_for_updates_has_to_match_one_spelling(target: str) -> None:
    assert kind("GET", target, None, rule("^(/a)?/delete", "update")) is Kind.UPDATE


def test_a_rule_that_matches_one_spelling_does_not_hide_those_behind_it() -> None:
    rules = (rule("^/search", "read"), rule("^/x", "update"))
    assert kind("GET", "/search/../x", None, *rules) is Kind.UPDATE
    assert kind("GET", "/search/../y", None, *rules) is Kind.READ  # by its method


@pytest.mark.parametrize("target", ["/admin/%ff/delete", "/admin/%0a/delete", "/admin/%c3/delete", "/admin/é/delete"])
def test_a_dot_is_any_byte(target: str) -> None:
    assert kind("GET", target, None, rule("^/admin/.*/delete", "update")) is Kind.UPDATE


def test_a_character_is_the_bytes_of_its_utf_8() -> None:
    assert kind("GET", "/caf%C3%A9", None, rule("^/café$", "update")) is Kind.UPDATE


def test_the_method_of_a_rule_is_matched_exactly() -> None:
    assert kind("HEAD", "/logout", None, rule("^/logout", "update", "GET")) is Kind.READ


def test_the_first_matching_rule_wins() -> None:
    rules = (rule("^/search", "read", "POST"), rule("^/s", "update"))
    assert kind("POST", "/search?q=1", None, *rules) is Kind.READ
    assert kind("GET", "/search", None, *rules) is Kind.UPDATE
    assert kind("POST", "/x", None, *rules) is Kind.UPDATE
    assert kind("GET", "/x", None, *rules) is Kind.READ


def test_a_rule_may_look_at_the_query() -> None:
    delete = rule(r"^/page\?.*action=delete", "update")
    assert kind("GET", "/page?a=1&action=delete", None, delete) is Kind.UPDATE
    assert kind("GET", "/page?a=1&action=%64elete", None, delete) is Kind.UPDATE
    assert kind("GET", "/page?a=1", None, delete) is Kind.READ


@pytest.mark.parametrize(
    "target",
    [
        "/delete/7",
        "/%64elete/7",
        "/%64%65%6c%65%74%65/7",
        "/x/../delete/7",
        "/./delete/7",
        "//delete/7",
        "///delete//7",
        "/x/%2e%2e/delete/7",
        "/%2fdelete/7",
        "/x/..%2fdelete/7",
        "/../../delete/7",
    ],
)
def test_no_spelling_of_a_path_slips_by_a_rule(target: str) -> None:
    assert kind("GET", target, None, rule("^/delete/", "update")) is Kind.UPDATE


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", b"/"),
        (b"/a/b/", b"/a/b/"),
        (b"/a/b/.", b"/a/b/"),
        (b"/a/b/..", b"/a/"),
        (b"/..", b"/"),
        (b"/a?b=../c", b"/a?b=../c"),
        (b"*", b"*"),
        (b"/%", b"/%"),
        (b"/%zz?%q", b"/%zz?%q"),
        (b"/a?b?c", b"/a?b?c"),
    ],
)
def test_the_normal_form(target: bytes, expected: bytes) -> None:
    assert normalised(target) == expected


@given(st.binary(max_size=60))
def test_any_target_has_a_normal_form(target: bytes) -> None:
    path = normalised(b"/" + target).partition(b"?")[0]
    assert path.startswith(b"/")
    assert not path.startswith(b"//")
