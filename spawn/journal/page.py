"""A page of entries as one row of JSON. Apart from ``database``, which is compiled: mypyc drops a struct's options."""

from __future__ import annotations

import msgspec

# A page is one row of JSON, blobs in hex: fetched row by row, every row would wait for the GIL (2 ms under load).
# The inner part measures without touching the bodies.
SELECT_PAGE = """
SELECT json_group_array(json_array(e.sequence, r.time_us, r.total, r.reference, r.crc,
    e.file, e.file_size, e.file_crc, e.crc,
    hex(e.method), hex(e.target), hex(e.head),
    iif(e.body IS NULL, NULL, hex(e.body)), iif(e.key IS NULL, NULL, hex(e.key))))
FROM (
    SELECT sequence, row_number() OVER places AS place,
        sum(length(target) + length(head) + coalesce(length(body), 0)) OVER places AS size
    FROM entries WHERE sequence > ? AND sequence <= ?
    WINDOW places AS (ORDER BY sequence ROWS UNBOUNDED PRECEDING)
) AS measured
CROSS JOIN entries AS e ON e.sequence = measured.sequence
CROSS JOIN records AS r ON r.sequence = measured.sequence
WHERE place <= ? OR size <= ?
"""


class Row(msgspec.Struct, array_like=True):
    """A row of ``SELECT_PAGE``."""

    sequence: int
    time_us: int
    total: int
    reference: int | None
    record_crc: int | None
    file: str | None
    file_size: int | None
    file_crc: int | None
    crc: int
    method: str
    target: str
    head: str
    body: str | None
    key: str | None


def rows_in(page: str) -> list[Row]:
    """In the order of their sequences. Raises ``MsgspecError``."""
    rows = msgspec.json.decode(page, type=list[Row])
    rows.sort(key=lambda row: row.sequence)
    return rows
