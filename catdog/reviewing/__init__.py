"""The page as a local server: a results folder of any size comes in, labels and marks go out as files."""

from catdog.reviewing.config import ReviewConfig, ReviewSummary
from catdog.reviewing.server import opened

__all__ = ["ReviewConfig", "ReviewSummary", "opened"]
