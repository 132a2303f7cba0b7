"""The page: a results folder comes in, one self-contained HTML file goes out."""

from catdog.reporting.config import ReportConfig, ReportSummary
from catdog.reporting.page import write

__all__ = ["ReportConfig", "ReportSummary", "write"]
