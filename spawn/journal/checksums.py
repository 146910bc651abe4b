"""Checksums over what SQLite stores but does not check: a flipped bit in a row must not become a changed update.

CRC-32 finds every single flipped bit; it is against rot, not against an attacker. A row of an older version has none.
"""

from __future__ import annotations

import zlib


def of_record(sequence: int, time_us: int, total: int, method: bytes, path: bytes) -> int:
    """Of a record as it is appended, without a reference."""
    return zlib.crc32(path, zlib.crc32(b"%d %d %d %s " % (sequence, time_us, total, method)))


def of_reference(sequence: int, status: int) -> int:
    """What a reference adds (exclusive-or) to the checksum of its record: set later, by SQL alone."""
    return zlib.crc32(b"%d %d" % (sequence, status))


def of_position(consumer: str, position: int) -> int:
    return zlib.crc32(f"{position} {consumer}".encode("utf-8", "surrogatepass"))


def position_is_intact(unchecked: int, crc: int | None, consumer: str, position: int) -> bool:
    return position <= unchecked if crc is None else crc == of_position(consumer, position)


def record_is_intact(
    unchecked: int, crc: int | None, reference: int | None,
    sequence: int, time_us: int, total: int, method: bytes, path: bytes,
) -> bool:  # fmt: skip
    """``unchecked``: up to this update records may be of a version without checksums."""
    if crc is None:
        return sequence <= unchecked
    crc ^= 0 if reference is None else of_reference(sequence, reference)
    return crc == of_record(sequence, time_us, total, method, path)
