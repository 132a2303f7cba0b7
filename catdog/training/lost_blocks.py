"""Blocks that were lost with their node; the reader makes them again.

Ray makes them again by itself, but with the actors that decoded them, which need a free CPU. If the
training workers hold all remaining CPUs and wait for such a block, they would wait until they give up.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from catdog.runtime import nodes

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from catdog.training.block_decoder import BlockDecoder

_ASK_S = 5.0  # so often it is asked whether the node of a block that does not come is alive


class Origin(NamedTuple):
    """The origin of a block; travels to its readers.

    Attributes:
        entries: a reference of the table of entries.
        rejected: the rows that could not be decoded.
        node: Ray's id of the node where that was.
        decoder: makes the block again.
    """

    entries: Any
    rejected: frozenset[int]
    node: str
    decoder: BlockDecoder


class Fetch:
    """Gets blocks out of the object store, or makes those again that were lost with their node.

    Args:
        origins: by the references of the blocks; what becomes of others, Ray alone knows.
    """

    def __init__(self, origins: dict[Any, Origin]) -> None:
        self._origins = origins
        self._gone: set[str] = set()
        self._lock = Lock()
        self._decode: Callable[..., pa.Table] | None = None

    def __call__(self, block: Any) -> Any:
        """The table or array behind a reference.

        Raises:
            CatdogError: an image could be decoded when the run began, and not now.
            RayError: as `ray.get`.
        """
        import ray

        origin = self._origins.get(block)
        if origin is None:
            return ray.get(block)
        while not ray.wait([block], timeout=0 if origin.node in self._gone else _ASK_S)[0]:
            if origin.node in self._gone or origin.node not in nodes.alive():
                self._gone.add(origin.node)
                return self._made_again(origin)
        try:
            return ray.get(block)
        except ray.exceptions.RayError:
            return self._made_again(origin)

    def _made_again(self, origin: Origin) -> pa.Table:
        import ray

        entries = ray.get(origin.entries)
        with self._lock:  # a decoder does one table at a time
            self._decode = self._decode or origin.decoder.again()
            return self._decode(entries, origin.rejected).select(["pixels"])
