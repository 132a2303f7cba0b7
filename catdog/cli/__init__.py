"""The command line: arguments come in, an exit code goes out."""

from catdog.cli.commands import entry_point, main

__all__ = ["entry_point", "main"]
