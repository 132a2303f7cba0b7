"""The page: a results folder comes in, one self-contained HTML file goes out."""

from catdog.reporting.page import ReportConfig, ReportSummary, write

__all__ = ["ReportConfig", "ReportSummary", "write"]
