"""The header rules of a hop, one promise per test, and the rules that hold for any headers."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawn.errors import ProtocolError
from spawn.http11.fields import FRAMING, HOP_BY_HOP
from spawn.http11.forwarding import (
    TrustedProxies,
    forward_request_headers,
    forward_response_headers,
    method_override,
    plain_ip,
    replace_headers,
    via_name,
)
from spawn.http11.message import Headers, Request, get, get_all
from tests.support.heads import pairs, request_head, response_head

NOBODY = TrustedProxies(())
VIA = b"spawn-0123abcd"


def request(
    *headers: tuple[bytes, bytes], host: bytes = b"app.test", peer: str = "192.0.2.7", minor: int = 1
) -> Request:
    return Request(request_head(headers, minor=minor, host=host), io.BytesIO(), peer)


def forwarded(*headers: tuple[bytes, bytes], trusted: TrustedProxies = NOBODY, **more: Any) -> Headers:
    return pairs(forward_request_headers(request(*headers, **more), trusted, VIA))


def answered(*headers: tuple[bytes, bytes], minor: int = 1) -> Headers:
    return pairs(forward_response_headers(response_head(headers, minor=minor), VIA))


class TestRequest:
    def test_end_to_end_headers_pass_untouched_in_order_with_duplicates_and_case(self) -> None:
        mine = [(b"ACCEPT", b"a"), (b"cookie", b"x=1; y"), (b"Accept", b"b"), (b"Authorization", b"Basic \xff")]
        assert [h for h in forwarded(*mine) if h in mine] == mine

    @pytest.mark.parametrize("name", sorted(HOP_BY_HOP | FRAMING | {b"expect"}))
    def test_hop_by_hop_and_framing_headers_stay_behind(self, name: bytes) -> None:
        assert get(forwarded((name.title(), b"1")), name) is None

    def test_headers_named_by_connection_stay_behind_in_any_case_and_spread(self) -> None:
        headers = forwarded(
            (b"Connection", b"close, X-One ,"), (b"connection", b"\tx-TWO"), (b"X-One", b"1"), (b"x-two", b"2")
        )
        assert get(headers, b"x-one") is None
        assert get(headers, b"x-two") is None
        assert get(headers, b"connection") is None

    def test_connection_cannot_remove_what_says_who_asks_for_what(self) -> None:
        names = b"Host, Cookie, X-Forwarded-For, X-Forwarded-Proto, Via, Idempotency-Key"
        headers = forwarded((b"Connection", names), (b"Cookie", b"c"), (b"Via", b"1.1 a"), (b"Idempotency-Key", b"k"))
        assert get(headers, b"host") == b"app.test"
        assert get(headers, b"cookie") == b"c"
        assert get(headers, b"idempotency-key") == b"k"
        assert get(headers, b"x-forwarded-for") == b"192.0.2.7"
        assert get(headers, b"x-forwarded-proto") == b"http"
        assert get_all(headers, b"via") == [b"1.1 a", b"1.1 " + VIA]

    def test_spawn_headers_and_names_with_an_underscore_stay_behind(self) -> None:
        headers = forwarded((b"SPAWN-Sequence", b"9"), (b"spawn-anything", b"x"), (b"X_Forwarded_For", b"1.1.1.1"))
        assert not [name for name, _ in headers if name.lower().startswith(b"spawn-") or b"_" in name]

    def test_host_is_the_authority_that_won_and_comes_once(self) -> None:
        headers = forwarded((b"Host", b"other.test"), host=b"target.test:81")
        assert get_all(headers, b"host") == [b"target.test:81"]
        assert get(headers, b"x-forwarded-host") == b"target.test:81"

    def test_http_1_0_without_host_has_none(self) -> None:
        headers = forwarded(host=b"", minor=0)
        assert get(headers, b"host") is None
        assert get(headers, b"x-forwarded-host") is None
        assert get(headers, b"via") == b"1.0 " + VIA

    def test_a_stranger_cannot_say_where_the_request_came_from(self) -> None:
        claims = [b"X-Forwarded-For", b"x-forwarded-proto", b"X-Forwarded-Host", b"X-Forwarded-Port", b"Forwarded"]
        headers = forwarded(*[(name, b"evil") for name in claims], (b"X-Real-IP", b"evil"))
        assert b"evil" not in [value for _, value in headers]
        assert get_all(headers, b"x-forwarded-for") == [b"192.0.2.7"]
        assert get_all(headers, b"x-forwarded-proto") == [b"http"]
        assert get_all(headers, b"x-forwarded-host") == [b"app.test"]

    def test_a_trusted_proxy_is_believed_and_appended_to(self) -> None:
        headers = forwarded(
            (b"X-Forwarded-For", b"198.51.100.1"),
            (b"X-Forwarded-For", b"198.51.100.2"),
            (b"X-Forwarded-Proto", b"https"),
            (b"X-Forwarded-Host", b"shop.test"),
            (b"Forwarded", b"for=x"),
            trusted=TrustedProxies(["192.0.2.0/24"]),
        )
        assert get_all(headers, b"x-forwarded-for") == [b"198.51.100.1, 198.51.100.2, 192.0.2.7"]
        assert get_all(headers, b"x-forwarded-proto") == [b"https"]
        assert get_all(headers, b"x-forwarded-host") == [b"shop.test"]
        assert get_all(headers, b"forwarded") == [b"for=x"]

    def test_a_trusted_proxy_that_says_nothing_gets_what_is_known(self) -> None:
        headers = forwarded(trusted=TrustedProxies(["192.0.2.7"]))
        assert get(headers, b"x-forwarded-for") == b"192.0.2.7"
        assert get(headers, b"x-forwarded-proto") == b"http"
        assert get(headers, b"x-forwarded-host") == b"app.test"

    @pytest.mark.parametrize(
        ("peer", "shown"),
        [("2001:db8::1", b"2001:db8::1"), ("fe80::1%eth0", b"fe80::1"), ("::ffff:192.0.2.1", b"192.0.2.1")],
    )
    def test_ipv6_peers(self, peer: str, shown: bytes) -> None:
        assert get(forwarded(peer=peer), b"x-forwarded-for") == shown

    @pytest.mark.parametrize(
        "via", [b"1.1 " + VIA, b"1.0 a (x), 1.1 SPAWN-0123ABCD", b"HTTP/1.1 " + VIA + b" (comment)", b"1.1  " + VIA]
    )
    def test_a_request_that_was_here_before_is_a_loop(self, via: bytes) -> None:
        with pytest.raises(ProtocolError) as caught:
            forwarded((b"Via", b"1.1 other"), (b"via", via))
        assert caught.value.status == 508

    @pytest.mark.parametrize(
        "via", [b"1.1 spawn-ffffffff", b"1.1 x (" + VIA + b")", b"1.1 " + VIA + b"0", b"", b",", VIA]
    )
    def test_another_spawn_in_front_is_no_loop(self, via: bytes) -> None:
        assert get_all(forwarded((b"Via", via)), b"via") == [via, b"1.1 " + VIA]


class TestResponse:
    def test_end_to_end_headers_pass_untouched(self) -> None:
        mine = [(b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"), (b"etag", b'"x"')]
        assert answered(*mine) == [*mine, (b"Via", b"1.1 " + VIA)]

    @pytest.mark.parametrize("name", sorted(HOP_BY_HOP | FRAMING | {b"spawn-sequence", b"spawn-behind"}))
    def test_hop_by_hop_framing_and_spawn_headers_stay_behind(self, name: bytes) -> None:
        assert get(answered((name.upper(), b"x")), name) is None

    def test_headers_named_by_connection_stay_behind(self) -> None:
        assert get(answered((b"Connection", b"x-hop"), (b"X-Hop", b"1")), b"x-hop") is None

    def test_an_http_1_0_node_is_shown_in_via(self) -> None:
        assert get(answered(minor=0), b"via") == b"1.0 " + VIA


class TestTrustedProxies:
    def test_addresses_and_networks_of_both_families(self) -> None:
        trusted = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])
        assert all(ip in trusted for ip in ("10.1.2.3", "192.0.2.1", "2001:db8::9", "::ffff:10.0.0.1"))
        assert not any(ip in trusted for ip in ("11.0.0.1", "192.0.2.2", "2001:db9::1", "", "nonsense"))

    def test_host_bits_are_accepted_and_nonsense_is_not(self) -> None:
        assert "10.9.9.9" in TrustedProxies(["10.0.0.1/8"])
        with pytest.raises(ValueError):
            TrustedProxies(["10.0.0.0/99"])


def test_via_name_is_short_and_a_token() -> None:
    assert via_name("0123abcd-4567-89ab-cdef-0123456789ab") == b"spawn-0123abcd"


@pytest.mark.parametrize("name", [b"X-HTTP-Method-Override", b"x-method-override", b"X-HTTP-METHOD"])
def test_method_override(name: bytes) -> None:
    assert method_override(request_head([(b"Accept", b"*/*"), (name, b"DELETE")]))
    assert not method_override(request_head([(name + b"-not", b"DELETE")]))


def test_replaced_headers_stand_for_all_of_their_name_in_any_case() -> None:
    lines = b"Host: h\r\nAUTHORIZATION: a\r\nX-One: 1\r\nauthorization: b\r\nAuthorization-Not: c\r\n"
    replaced = replace_headers(lines, {"Authorization": "Basic x", "X-New": "\xe9"})
    assert replaced == b"Host: h\r\nX-One: 1\r\nAuthorization-Not: c\r\nAuthorization: Basic x\r\nX-New: \xe9\r\n"
    assert replace_headers(lines, {}) == lines


TOKEN = st.text("abcXYZ0189-!#$%&'*+.^`|~_", min_size=1, max_size=12).map(str.encode)
NAME = TOKEN | st.sampled_from(
    sorted(
        HOP_BY_HOP | FRAMING | {b"Host", b"Expect", b"Spawn-Sequence", b"X-Forwarded-For", b"X-Forwarded-Host", b"Via"}
    )
)
VALUE = st.binary(max_size=30).map(lambda raw: raw.translate(None, bytes(range(32)) + b"\x7f")) | NAME
HEADERS = st.lists(st.tuples(NAME, VALUE), max_size=12)
PEER = st.ip_addresses().map(str)


def check_is_clean(headers: Headers, named: bytes) -> None:
    names = [name.lower() for name, _ in headers]
    assert not set(names) & (HOP_BY_HOP | FRAMING)
    assert not [name for name in names if name.startswith(b"spawn-")]
    assert not [part for header in headers for part in header if b"\r" in part or b"\n" in part or b"\0" in part]
    kept_anyway = (b"x-forwarded-", b"host", b"via", b"cookie", b"idempotency-key")
    assert named.lower() not in names or named.lower().startswith(kept_anyway)


@given(HEADERS, NAME, PEER, st.booleans())
def test_nothing_that_must_not_pass_passes_to_a_node(headers: Headers, named: bytes, peer: str, trust: bool) -> None:
    trusted = TrustedProxies([peer]) if trust else NOBODY
    result = forwarded(*headers, (b"Connection", named), peer=peer, trusted=trusted)
    check_is_clean(result, named)
    assert len(get_all(result, b"host")) == 1
    assert len(get_all(result, b"x-forwarded-for")) == 1
    assert get_all(result, b"x-forwarded-for")[0].endswith(plain_ip(peer).encode())


@given(HEADERS, NAME)
def test_nothing_that_must_not_pass_passes_to_a_client(headers: Headers, named: bytes) -> None:
    check_is_clean(answered(*headers, (b"Connection", named)), named)


@given(HEADERS)
def test_a_second_hop_adds_only_its_via(headers: Headers) -> None:
    once = answered(*headers)
    assert answered(*once) == [*once, (b"Via", b"1.1 " + VIA)]


@given(HEADERS, PEER)
def test_a_second_hop_of_a_request_adds_only_itself(headers: Headers, peer: str) -> None:
    once = forwarded(*headers, peer=peer)
    twice = pairs(forward_request_headers(request(*once, peer=peer), TrustedProxies([peer]), b"spawn-ffffffff"))
    changed = (b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto")
    assert [h for h in twice if h[0].lower() not in changed] == [h for h in once if h[0].lower() not in changed]
    assert get_all(twice, b"via") == [*get_all(once, b"via"), b"1.1 spawn-ffffffff"]
