"""The page: a results folder comes in, one self-contained HTML file goes out."""

from catdog.reporting.config import ReportConfig, ReportSummary
from catdog.reporting.page import write
from catdog.reporting.part_reader import PartReader, count_parts

__all__ = ["PartReader", "ReportConfig", "ReportSummary", "count_parts", "write"]
