"""Decoding for training: everything that a decoding process needs to know."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.errors import CatdogError
from catdog.pixels import DecodeEntries
from catdog.training import cache

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import pyarrow as pa

    from catdog.inputs import SourceLimits
    from catdog.pixels import DecodeLimits, Preprocessing


@dataclass(frozen=True)
class BlockDecoder:
    """Turns a table of entries with a column `index` into one of pictures; travels to the decoding process.

    Attributes:
        preprocessing, decode_limits, source_limits: of the images.
        index: a reference of a cache's `Index`; or None.
    """

    preprocessing: Preprocessing
    decode_limits: DecodeLimits
    source_limits: SourceLimits
    index: Any = None

    def through(self, folder: str | None) -> BlockDecoder:
        """The same, with the present content of a cache's folder, if there is one."""
        import ray

        if folder is None:
            return self
        index = cache.opened(folder, self.preprocessing, self.decode_limits)
        return dataclasses.replace(self, index=ray.put(index))

    def started(self) -> DecodeEntries | cache.CachedDecoder:
        """The decoder, in its own process."""
        import ray

        def decoder() -> DecodeEntries:
            limits = self.decode_limits, self.source_limits
            return DecodeEntries(self.preprocessing, *limits, ("index",))

        if self.index is None:
            return decoder()
        shape = (self.preprocessing.height, self.preprocessing.width, 3)
        return cache.CachedDecoder(ray.get(self.index), shape, decoder)

    def again(self) -> Callable[..., pa.Table]:
        """A decoder, in its own process, for tables of images that were decoded before.

        It takes a table, and which of its rows could not be decoded then. It raises `CatdogError`
        if another row cannot be decoded now.
        """
        decode = self.started()

        def decoded(entries: pa.Table, rejected: Collection[int] = ()) -> pa.Table:
            found = decode(entries)
            bad = np.flatnonzero(found["error"].is_valid().to_numpy(zero_copy_only=False))
            new = [row for row in bad.tolist() if row not in rejected]
            if new:
                uri, why = entries["uri"][new[0]].as_py(), found["error_detail"][new[0]].as_py()
                raise CatdogError(
                    f"{uri}: it could be decoded when the run began, but not now: {why}"
                )
            return found

        return decoded
