"""Messages of every shape through the codec and over sockets: what is good arrives exactly, what is nearly good does not."""

from __future__ import annotations

import pytest

from spawn.errors import ProtocolError
from spawn.http11.wire import HeadLimits, check_partial_head, parse_request_head


class TestLimitsDoNotDependOnSplits:
    def test_an_empty_line_before_a_head_of_the_largest_size_costs_nothing(self) -> None:
        head = b"GET / HTTP/1.1\r\nHost: a.test\r\nX: %b\r\n\r\n" % (b"y" * 100)
        limits = HeadLimits(head_bytes=len(head))
        data = b"\r\n" + head
        assert parse_request_head(data, limits)
        for size in range(1, len(data)):
            check_partial_head(data[:size], size - 1, limits)
        with pytest.raises(ProtocolError, match="too long"):
            check_partial_head(data[:-4] + b"yyyyy", 0, limits)
