"""The page: a results folder comes in, one self-contained HTML file goes out.

`reviewing` serves the same page, made of the parts of this room.
"""

from catdog.reporting.choice import read_rows
from catdog.reporting.config import ReportConfig, ReportSummary
from catdog.reporting.page import Findings, examine, page_of, write
from catdog.reporting.part_reader import READ_THREADS, PartReader, count_parts, in_order, index
from catdog.reporting.review import Review, millionths
from catdog.reporting.thumbnails import (
    TOO_DEEP,
    Picture,
    Thumbnail,
    encode,
    lie_deep,
    limits_of,
    square,
)

__all__ = [
    "READ_THREADS",
    "TOO_DEEP",
    "Findings",
    "PartReader",
    "Picture",
    "ReportConfig",
    "ReportSummary",
    "Review",
    "Thumbnail",
    "count_parts",
    "encode",
    "examine",
    "in_order",
    "index",
    "lie_deep",
    "limits_of",
    "millionths",
    "page_of",
    "read_rows",
    "square",
    "write",
]
