"""Where archives are written that have no way back."""

from __future__ import annotations

import io


class Unseekable(io.RawIOBase):
    """Makes zipfile put sizes and checksums after the data."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        """As it says."""
        return True

    def write(self, data) -> int:
        """Append."""
        self.data += bytes(data)
        return len(data)
