"""How entries become pixels: what each process needs to know that decodes for training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.errors import CatdogError
from catdog.pixels import DecodeEntries
from catdog.training import cache

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from catdog.inputs import SourceLimits
    from catdog.pixels import DecodeLimits, Preprocessing


@dataclass(frozen=True)
class BlockDecoder:
    """How a table of entries with a column `index` becomes one of pictures; travels to whoever does it.

    Attributes:
        preprocessing, decode_limits, source_limits: of the images.
        index: a reference of a cache's `Index`; or None.
    """

    preprocessing: Preprocessing
    decode_limits: DecodeLimits
    source_limits: SourceLimits
    index: Any = None

    def through(self, folder: str | None) -> BlockDecoder:
        """The same, going through what a cache's folder holds now, if there is one."""
        import ray

        if folder is None:
            return self
        index = cache.opened(folder, self.preprocessing, self.decode_limits)
        return dataclasses.replace(self, index=ray.put(index))

    def started(self) -> DecodeEntries | cache.CachedDecoder:
        """What does it, in a process of its own."""
        import ray

        def decoder() -> DecodeEntries:
            limits = self.decode_limits, self.source_limits
            return DecodeEntries(self.preprocessing, *limits, ("index",))

        if self.index is None:
            return decoder()
        shape = (self.preprocessing.height, self.preprocessing.width, 3)
        return cache.CachedDecoder(ray.get(self.index), shape, decoder)

    def again(self) -> Callable[[pa.Table], pa.Table]:
        """What decodes tables of images that could be decoded before, in a process of its own.

        It raises `CatdogError` where one cannot be now.
        """
        decode = self.started()

        def decoded(entries: pa.Table) -> pa.Table:
            found = decode(entries)
            bad = np.flatnonzero(found["error"].is_valid().to_numpy(zero_copy_only=False))
            if len(bad):
                uri, why = entries["uri"][bad[0]].as_py(), found["error_detail"][bad[0]].as_py()
                raise CatdogError(
                    f"{uri}: it could be decoded when the run began, and not now: {why}"
                )
            return found

        return decoded
