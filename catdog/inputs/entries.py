"""What an image is in a plan, and what an input may cost: the leaf that this room's files share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

_FIELDS: list[pa.Field[Any]] = [
    pa.field("uri", pa.string(), nullable=False),
    pa.field("name", pa.string(), nullable=False),
    pa.field("label", pa.string()),
    pa.field("container", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("length", pa.int64()),
    pa.field("size", pa.int64()),
    pa.field("codec", pa.string()),
    pa.field("error", pa.string()),
    pa.field("error_detail", pa.string()),
]
PLAN_SCHEMA = pa.schema(_FIELDS)


@dataclass(frozen=True)
class SourceLimits:
    """How much an input may cost, however hostile it is."""

    max_bytes: int = 128 << 20
    """Largest encoded image in bytes; larger ones are rejected as `too-large`, unread if possible."""

    max_archive_members: int = 50_000_000
    """Members of one archive; what comes after them is lost, with one row `too-large`."""

    max_expansion: int = 200
    """How many times its own size a `.tar.gz` may expand to (beyond its first GiB)."""

    bytes_in_flight: int = 256 << 20
    """Bytes read ahead of the consumer, together; one image may exceed it alone."""
