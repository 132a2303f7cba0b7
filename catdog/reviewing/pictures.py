"""Thumbnails on demand: the latest request comes first."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from catdog.errors import CatdogError
from catdog.pixels import Decoder
from catdog.reporting import TOO_DEEP, Thumbnail, encode, lie_deep, limits_of, square

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catdog.reporting import Findings

_SIDE = 480  # pixels of the longer side
_TOGETHER = 8
_KEPT = 2_000  # thumbnails, of about 20 KB each
_KEPT_SHARDS = 16
_NOT_FETCHED = "It could not be fetched"

Place = tuple[int, int]  # shard, row in it


class Thumbnails:
    """Makes thumbnails in a thread, decoded in a child process, until it is closed.

    Args:
        found: the results.
    """

    def __init__(self, found: Findings) -> None:
        self._plan, self._limits = found.plan, limits_of(found.run)
        self._images = {shard: found.plan.shard_images[shard] for shard in found.reader.shards}
        self._entries: OrderedDict[int, pa.Table] = OrderedDict()
        self._made: OrderedDict[Place, Thumbnail] = OrderedDict()
        self._waiting: OrderedDict[Place, Future[Thumbnail]] = OrderedDict()
        self._change = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="catdog-thumbnails", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and the child."""
        with self._change:
            self._ended = True
            self._change.notify()
        self._thread.join()

    def get(self, place: Place) -> Future[Thumbnail]:
        """The thumbnail of a row, soon.

        Raises:
            ValueError: there is no such row.
        """
        shard, row = place
        if not 0 <= row < self._images.get(shard, 0):
            raise ValueError(f"no row {row} in shard {shard}")
        with self._change:
            if (made := self._made.get(place)) is not None:
                self._made.move_to_end(place)
                future = Future[Thumbnail]()
                future.set_result(made)
                return future
            future = self._waiting.setdefault(place, Future())
            self._waiting.move_to_end(place)
            self._change.notify()
            return future

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            decoder: Decoder | None = None
            while (wanted := self._next()) is not None:
                try:
                    if decoder is None:
                        decoder = stack.enter_context(
                            contextlib.closing(
                                Decoder(square(_SIDE), *self._limits, batch_size=_TOGETHER)
                            )
                        )
                    made = [*self._make(decoder, [*wanted])]
                except (CatdogError, OSError, pa.ArrowInvalid) as error:
                    stack.close()
                    decoder = None
                    self._give(
                        wanted, [Thumbnail(None, trouble=f"{_NOT_FETCHED}: {error}")] * len(wanted)
                    )
                else:
                    self._keep([*wanted], made)
                    self._give(wanted, made)
        self._give(self._waiting, [Thumbnail(None, trouble=_NOT_FETCHED)] * len(self._waiting))

    def _next(self) -> dict[Place, Future[Thumbnail]] | None:
        """Some that wait, the latest first; None at the end."""
        with self._change:
            self._change.wait_for(lambda: self._ended or self._waiting)
            if self._ended:
                return None
            count = min(_TOGETHER, len(self._waiting))
            return dict(self._waiting.popitem() for _ in range(count))

    def _make(self, decoder: Decoder, places: list[Place]) -> Iterator[Thumbnail]:
        entries = pa.concat_tables([self._shard(shard).slice(row, 1) for shard, row in places])
        deep = lie_deep(entries)
        near = entries.filter(pa.array(~deep)).combine_chunks()
        made = (
            thumbnail
            for batch in (decoder.decode(near) if near.num_rows else ())
            for thumbnail in encode(batch, _SIDE)
        )
        for each in np.asarray(deep).tolist():
            yield Thumbnail(None, trouble=TOO_DEEP) if each else next(made)

    def _shard(self, shard: int) -> pa.Table:
        if shard not in self._entries:
            self._entries[shard] = self._plan.read_shard(shard)
            if len(self._entries) > _KEPT_SHARDS:
                self._entries.popitem(last=False)
        return self._entries[shard]

    def _keep(self, places: list[Place], made: list[Thumbnail]) -> None:
        with self._change:
            self._made.update(zip(places, made, strict=True))
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)

    @staticmethod
    def _give(wanted: dict[Place, Future[Thumbnail]], made: list[Thumbnail]) -> None:
        for future, thumbnail in zip(wanted.values(), made, strict=True):
            future.set_result(thumbnail)
