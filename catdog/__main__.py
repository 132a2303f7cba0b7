"""`python -m catdog` is `catdog`."""

from catdog.cli import entry_point

entry_point()
