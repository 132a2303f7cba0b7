"""Reads pictures again from their sources: as grey pictures to compare, digests, or thumbnails.

Child processes decode them, as in classification, so hostile files stay contained.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catdog import inputs, machine
from catdog.inputs import SourceLimits
from catdog.pixels import DecodeLimits, Decoder, Preprocessing
from catdog.similarity import looks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from catdog.observer import Observer
    from catdog.similarity.collection import Collection

_BATCH = 32
_READ_THREADS = 8
_THUMBNAIL = Preprocessing(height=160, width=160, resize="pad")
_GREY = Preprocessing(height=looks.SIDE, width=looks.SIDE, resize="stretch")


def limits(run: Mapping[str, Any]) -> tuple[DecodeLimits, SourceLimits]:
    """Those that results were made with: what that job could read, can be read again."""
    question = run.get("question", {})
    found = []
    for kind, name in ((DecodeLimits, "decode_limits"), (SourceLimits, "source_limits")):
        try:
            found.append(kind(**question.get(name, {})))
        except TypeError:  # of another version
            found.append(kind())
    return tuple(found)  # type: ignore[return-value]


def grey(collection: Collection, images: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Grey pictures (n, SIDE, SIDE) of images; black for those that cannot be read."""
    found = np.zeros((len(images), looks.SIDE, looks.SIDE), np.uint8)

    def take(places: NDArray[np.int64], pictures: NDArray[np.uint8]) -> None:
        found[places] = pictures

    _read_again(collection, images, take)
    return found


def sketches(
    collection: Collection, images: NDArray[np.int64], observer: Observer
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Sketches of images, as `looks.sketches`, and which of the images could be read, bool (n,)."""
    found = looks.sketches(np.zeros((len(images), looks.SIDE, looks.SIDE), np.uint8))
    good = np.zeros(len(images), np.bool_)
    started = time.monotonic()

    def take(places: NDArray[np.int64], pictures: NDArray[np.uint8]) -> None:
        found[places] = looks.sketches(pictures)
        good[places] = True

    def show(done: int, rejected: int) -> None:
        observer.progress(done, len(images), rejected, done / (time.monotonic() - started))

    _read_again(collection, images, take, show)
    return found, good


def _read_again(
    collection: Collection,
    images: NDArray[np.int64],
    take: Callable[[NDArray[np.int64], NDArray[np.uint8]], None],
    show: Callable[[int, int], None] | None = None,
) -> None:
    """Decode images as grey pictures, in a child process for each CPU.

    Args:
        collection: has the images.
        images: their numbers.
        take: is called with places within `images`, and the pictures of these, from several threads.
        show: is called with how many images were tried and how many of them could not be read.
    """
    order = np.argsort(images, kind="stable")
    numbers, entries = _entries(collection, images)
    workers = max(1, min(machine.usable_cpus(), len(numbers) // _BATCH))
    bounds = np.linspace(0, len(numbers), workers + 1).astype(int).tolist()
    decode_limits, source_limits = limits(collection.runs[0])
    tried = rejected = 0
    counting = threading.Lock()

    def fetch(worker: int) -> None:
        nonlocal tried, rejected
        start, stop = bounds[worker : worker + 2]
        places = order[np.searchsorted(images[order], numbers[start:stop])]
        with contextlib.closing(Decoder(_GREY, decode_limits, source_limits, _BATCH)) as decoder:
            for batch in decoder.decode(entries.slice(start, stop - start)):
                if len(batch.rows):
                    take(places[batch.rows], looks.grey(batch.pixels))
                with counting:
                    tried += batch.stop - batch.start
                    rejected += batch.stop - batch.start - len(batch.rows)
                    if show is not None:
                        show(tried, rejected)

    with ThreadPoolExecutor(workers, "catdog-compare") as pool:
        list(pool.map(fetch, range(workers)))


def digests(collection: Collection, images: NDArray[np.int64]) -> dict[int, bytes]:
    """A digest of each image's bytes, by its number; none of what cannot be read."""
    numbers, entries = _entries(collection, images)
    _, source_limits = limits(collection.runs[0])
    contents = inputs.read_images(entries, source_limits, _READ_THREADS)
    return {
        number: hashlib.blake2b(content, digest_size=16).digest()
        for number, content in zip(numbers.tolist(), contents, strict=True)
        if isinstance(content, bytes)
    }


def thumbnails(collection: Collection, images: NDArray[np.int64]) -> dict[int, str]:
    """`data:` URIs of small pictures, by the image's number; none of what cannot be read."""
    numbers, entries = _entries(collection, images)
    found = _encoded(entries, *limits(collection.runs[0]))
    return {
        number: uri for number, uri in zip(numbers.tolist(), found, strict=True) if uri is not None
    }


def thumbnail_of(uri: str) -> str | None:
    """The same of an image that the user named."""
    entries = pa.Table.from_batches(inputs.list_images([uri], SourceLimits()))
    return next(_encoded(entries, DecodeLimits(), SourceLimits()), None)


def _entries(
    collection: Collection, images: NDArray[np.int64]
) -> tuple[NDArray[np.int64], pa.Table]:
    """What the plans know of images, and the images' numbers, in the order in which they are read."""
    found = list(collection.entries(images))
    if not found:
        return np.zeros(0, np.int64), inputs.PLAN_SCHEMA.empty_table()
    return np.concatenate([numbers for numbers, _ in found]), pa.concat_tables(
        [table for _, table in found]
    )


def _encoded(
    entries: pa.Table, decode_limits: DecodeLimits, source_limits: SourceLimits
) -> Iterator[str | None]:
    if not entries.num_rows:
        return
    with contextlib.closing(Decoder(_THUMBNAIL, decode_limits, source_limits, _BATCH)) as decoder:
        for batch in decoder.decode(entries):
            pixels = iter(batch.pixels)
            for outcome in batch.outcomes.to_pylist():
                yield None if outcome["error"] is not None else _as_uri(next(pixels), outcome)


def _as_uri(pixels: NDArray[np.uint8], outcome: Mapping[str, Any]) -> str:
    """As WebP, without the black that padded it to a square."""
    from PIL import Image

    side = len(pixels)
    scale = side / max(outcome["width"], outcome["height"])
    width, height = (max(1, round(outcome[name] * scale)) for name in ("width", "height"))
    left, top = (side - width) // 2, (side - height) // 2
    file = io.BytesIO()
    cut = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    Image.fromarray(cut).save(file, "WEBP", quality=70)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
