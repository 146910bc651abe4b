"""One field line of a head, taken apart. Apart from ``fields``, which is compiled: mypyc drops a struct's options."""

from __future__ import annotations

from msgspec import Struct

Header = tuple[bytes, bytes]


class Field(Struct, frozen=True, gc=False):
    """One field line."""

    name: bytes  # in lower case
    value: bytes  # without the white space around it
    line: bytes  # as it goes on, with the name's case as it came, ended by CRLF
    kind: int  # of ``fields.FieldKind``
    to_node: bool  # whether it goes on, unless Connection names it
    to_client: bool
    claim: bool  # goes on to a node when it comes from a trusted proxy

    @property
    def header(self) -> Header:
        """Name, as it came, and value."""
        return self.line[: len(self.name)], self.value
