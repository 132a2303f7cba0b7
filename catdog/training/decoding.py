"""The images of a run, decoded once by a Ray Data job into the object store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from catdog.ahead import NothingYet, read_ahead
from catdog.errors import CatdogError
from catdog.pixels import DecodeEntries, as_pixels
from catdog.runtime import nodes, ray_quirks
from catdog.training import duplicates
from catdog.training.data import DecodedImages
from catdog.training.labelled import TRAIN, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from catdog.inputs import SourceLimits
    from catdog.observer import Observer
    from catdog.pixels import DecodeLimits, Preprocessing
    from catdog.training.config import TrainConfig
    from catdog.training.labelled import LabelledImages

_SHARD_IMAGES = 256
_TELL_EVERY_S = 2.0


class Decoded(NamedTuple):
    """What decoding gave.

    Attributes:
        images: where they lie, and the parts.
        copies: what is known of copies on both sides of the split.
        seconds: that it took.
    """

    images: DecodedImages
    copies: duplicates.Regrouped
    seconds: float


def decode_all(
    labelled: LabelledImages,
    config: TrainConfig,
    decode_limits: DecodeLimits,
    source_limits: SourceLimits,
    *,
    actors: int,
    window_images: int,
    observer: Observer,
) -> Decoded:
    """Decode the train and validation images with a Ray Data job. The cluster is connected.

    Raises:
        CatdogError: nodes are gone and do not return.
    """
    started = time.monotonic()
    shards = _shards(labelled)
    blocks, summaries = _run(
        shards, config.preprocessing, (decode_limits, source_limits), actors, observer
    )
    n = len(labelled.classes)
    block_of, row_of = np.full(n, -1, np.int32), np.zeros(n, np.int32)
    rejected: list[tuple[str, str, str]] = []
    for number, summary in enumerate(summaries):
        index = summary["index"].to_numpy()
        good = summary["error"].is_null().to_numpy(zero_copy_only=False)
        block_of[index[good]] = number
        row_of[index[good]] = np.flatnonzero(good)
        for row in np.flatnonzero(~good):
            uri = labelled.entries["uri"][int(index[row])].as_py()
            rejected.append(
                (uri, summary["error"][row].as_py(), summary["error_detail"][row].as_py())
            )
    decodable = np.flatnonzero(block_of >= 0)
    copies = _regrouped(labelled, summaries, decodable)
    images = DecodedImages(
        blocks=blocks,
        block_of=block_of,
        row_of=row_of,
        classes=labelled.classes,
        train=decodable[copies.parts == TRAIN],
        validation=decodable[copies.parts == VALIDATION],
        shape=(config.preprocessing.height, config.preprocessing.width, 3),
        window_images=window_images,
        rejected=tuple(sorted(rejected)),
    )
    return Decoded(images, copies, time.monotonic() - started)


def _shards(labelled: LabelledImages) -> list[pa.Table]:
    shards = []
    for part in (TRAIN, VALIDATION):
        members = np.flatnonzero(labelled.parts == part)
        for start in range(0, len(members), _SHARD_IMAGES):
            rows = members[start : start + _SHARD_IMAGES]
            shard = labelled.entries.take(pa.array(rows))
            shards.append(shard.append_column("index", pa.array(rows, pa.int64())))
    return shards


def _run(
    shards: list[pa.Table],
    preprocessing: Preprocessing,
    limits: tuple[DecodeLimits, SourceLimits],
    actors: int,
    observer: Observer,
) -> tuple[tuple[Any, ...], list[pa.Table]]:
    """References of the decoded tables and what is to be known of each, in the order of the shards."""
    import ray
    from ray.data import ActorPoolStrategy

    total = sum(shard.num_rows for shard in shards)
    tally = ray.remote(**nodes.beside_driver())(_Tally).remote()
    # With 0 CPUs, Ray starts a process for each block.
    summarize = ray.remote(num_cpus=1)(_summary)

    def decode() -> tuple[list[Any], list[pa.Table]]:
        pipeline = ray_quirks.map_batches(
            ray.data.from_arrow(shards),
            _TalliedDecoder,
            fn_constructor_args=(tally, preprocessing, *limits),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(actors, len(shards))),
            num_cpus=1,
        )
        blocks = pipeline.materialize().to_arrow_refs()
        return blocks, ray.get([summarize.remote(block, preprocessing) for block in blocks])

    started = time.monotonic()
    result: Any = None
    with ray_quirks.plain_errors():
        watch = nodes.NodeWatch(1, cpus=1)
        # All that asks the cluster happens within, to be watched.
        for state in nodes.watched(_told(decode, tally), watch.check):
            if isinstance(state, _Count):
                done = min(state.done, total)  # a repeated shard counts twice
                rate = done / max(time.monotonic() - started, 1e-9)
                observer.progress(done, total, min(state.rejected, done), rate)
            else:
                result = state
    unordered, summaries = result
    # Blocks arrive as actors finish; the order of the images must not depend on that.
    order = sorted(range(len(unordered)), key=lambda block: summaries[block]["index"][0].as_py())
    return tuple(unordered[block] for block in order), [summaries[block] for block in order]


def _told(work: Callable[[], Any], tally: Any) -> Iterator[Any]:
    """Yields how much of `work` is done as long as it goes on, then its result."""
    import ray

    once = (work() for _ in range(1))
    with read_ahead(once, 1, name="catdog-decoding", every_s=_TELL_EVERY_S, patience_s=0.0) as done:
        for result in done:
            yield ray.get(tally.count.remote()) if isinstance(result, NothingYet) else result


class _Count(NamedTuple):
    done: int
    rejected: int


class _Tally:
    """An actor beside the driver that knows how many images are decoded."""

    def __init__(self) -> None:
        self._count = _Count(0, 0)

    def add(self, done: int, rejected: int) -> None:
        """So many more are done, the rejected among them."""
        self._count = _Count(self._count.done + done, self._count.rejected + rejected)

    def count(self) -> _Count:
        """Until now."""
        return self._count


class _TalliedDecoder:
    """Decodes tables of entries with a column `index`, and tells how many."""

    def __init__(
        self,
        tally: Any,
        preprocessing: Preprocessing,
        decode_limits: DecodeLimits,
        source_limits: SourceLimits,
    ) -> None:
        self._tally = tally
        self._decode = DecodeEntries(preprocessing, decode_limits, source_limits, ("index",))

    def __call__(self, entries: pa.Table) -> pa.Table:
        decoded = self._decode(entries)
        rejected = decoded.num_rows - decoded["error"].null_count
        self._tally.add.remote(decoded.num_rows, rejected)
        return decoded


def _summary(block: pa.Table, preprocessing: Preprocessing) -> pa.Table:
    """What the driver wants to know of a decoded block: no pixels."""
    shape = (preprocessing.height, preprocessing.width, 3)
    found = duplicates.fingerprints(as_pixels(block["pixels"], shape))
    thumbnails = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(found.thumbnails.shape[1]),
        block.num_rows,
        [None, pa.py_buffer(np.ascontiguousarray(found.thumbnails))],
    )
    return (
        block.select(["index", "error", "error_detail"])
        .combine_chunks()
        .append_column("digest", pa.array(found.digests))
        .append_column("thumbnail", thumbnails)
    )


def _regrouped(
    labelled: LabelledImages,
    summaries: list[pa.Table],
    decodable: NDArray[np.int64],
) -> duplicates.Regrouped:
    """Parts of the decodable images, copies on one side; where folders give the parts, as given."""
    n, pixels = len(labelled.classes), duplicates.THUMBNAIL_SIDE**2
    digests, thumbnails = np.zeros(n, np.uint64), np.zeros((n, pixels), np.uint8)
    for summary in summaries:
        index = summary["index"].to_numpy()
        digests[index] = summary["digest"].to_numpy()
        for chunk_rows, chunk in _chunks(index, summary["thumbnail"]):
            values = np.frombuffer(chunk.buffers()[1], np.uint8)
            start = chunk.offset * pixels
            thumbnails[chunk_rows] = values[start : start + len(chunk) * pixels].reshape(-1, pixels)

    names = labelled.entries["name"]
    return duplicates.regroup(
        duplicates.Fingerprints(digests[decodable], thumbnails[decodable]),
        labelled.parts[decodable],
        lambda number: names[int(decodable[number])].as_py(),
        move=not labelled.parts_given,
    )


def _chunks(
    index: NDArray[np.int64], column: pa.ChunkedArray
) -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
    start = 0
    for chunk in column.chunks:
        yield index[start : start + len(chunk)], chunk
        start += len(chunk)


def refuse_empty(images: DecodedImages, labels: tuple[str, ...]) -> None:
    """See that something is left of both parts and of each class.

    Raises:
        CatdogError: it is not.
    """
    if not len(images.train) or not len(images.validation):
        raise CatdogError("no decodable image is left to train on or to validate with")
    counts = np.bincount(images.classes[images.train], minlength=len(labels))
    for label, count in zip(labels, counts, strict=True):
        if not count:
            raise CatdogError(f"class {label!r} has no image left to train on that can be decoded")


def lines(decoded: Decoded, *, parts_given: bool) -> list[str]:
    """What the user should know of copies, a line each."""
    copies = decoded.copies
    found = copies.exact + copies.alike
    if not found:
        return []
    said = f"{found:,} images have a copy on the other side of the split ({copies.exact:,} equal, "
    said += f"{copies.alike:,} alike)"
    if parts_given:
        return [
            f"warning: {said}: accuracy on them says little; the folders' parts stay as they are"
        ]
    return [f"{said}: each group was brought to one side, {copies.moved:,} images changed theirs"]
