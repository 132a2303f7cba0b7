"""A Ray Data job decodes the images of a run, into the object store or only to check them.

If they are too many for the store, the job only finds out which images can be decoded and which are
copies. The workers then have each block decoded again when they need it (`BlockDecoder`).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from catdog.ahead import NothingYet, read_ahead
from catdog.errors import CatdogError
from catdog.pixels import as_pixels
from catdog.runtime import nodes, ray_quirks
from catdog.training import cache, duplicates
from catdog.training.block_decoder import BlockDecoder
from catdog.training.data import DecodedImages
from catdog.training.labelled import TEST, TRAIN, VALIDATION, images_of_classes
from catdog.training.lost_blocks import Origin

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
    """The result of decoding.

    Attributes:
        images: where they lie, and the parts.
        copies: what is known of copies on both sides of the split.
        seconds: that it took.
        counted: numbers of images, by outcome.
    """

    images: DecodedImages
    copies: duplicates.Regrouped
    seconds: float
    counted: Count


def decode_all(
    labelled: LabelledImages,
    config: TrainConfig,
    decode_limits: DecodeLimits,
    source_limits: SourceLimits,
    *,
    actors: int,
    window_images: int,
    each_epoch: bool,
    observer: Observer,
) -> Decoded:
    """Decode the train and validation images with a Ray Data job. The cluster is connected.

    With `each_epoch` no pixels are kept; the result has the decoder for later.

    Raises:
        CatdogError: nodes are gone and do not return.
    """
    import ray

    started = time.monotonic()
    # In the object store, which can spill it, rather than in the driver's memory.
    entries = {shard["index"][0].as_py(): ray.put(shard) for shard in shards(labelled)}
    total = int((labelled.parts != TEST).sum())
    decoder = BlockDecoder(config.preprocessing, decode_limits, source_limits).through(config.cache)
    blocks, summaries, count = _run(
        list(entries.values()),
        total,
        decoder,
        actors,
        config.decoding_label,
        observer,
        keep=not each_epoch,
    )
    n = len(labelled.classes)
    block_of, row_of = np.full(n, -1, np.int32), np.zeros(n, np.int32)
    rejected: list[tuple[str, str, str]] = []
    for number, summary in enumerate(summaries):
        index = summary["index"].to_numpy()
        good = summary["error"].is_null().to_numpy(zero_copy_only=False)
        block_of[index[good]] = number
        row_of[index[good]] = np.arange(good.sum()) if each_epoch else np.flatnonzero(good)
        bad = np.flatnonzero(~good)
        for row, uri in zip(bad, labelled.entries.values(index[bad], "uri"), strict=True):
            rejected.append(
                (uri, summary["error"][row].as_py(), summary["error_detail"][row].as_py())
            )
    made_of = [entries[summary["index"][0].as_py()] for summary in summaries]
    origins = {}
    if each_epoch:
        blocks = tuple(map(_decodable, made_of, summaries))
        block_nodes = ("",) * len(blocks)
        decoder = decoder.through(config.cache)  # which has more now
    else:
        block_nodes = tuple(s.schema.metadata[b"node"].decode() for s in summaries)
        origins = {
            block: Origin(made, _rejected(summary), node, decoder)
            for block, made, summary, node in zip(
                blocks, made_of, summaries, block_nodes, strict=True
            )
        }
    decodable = np.flatnonzero(block_of >= 0)
    copies = _regrouped(labelled, summaries, decodable)
    images = DecodedImages(
        blocks=blocks,
        block_nodes=block_nodes,
        block_of=block_of,
        row_of=row_of,
        classes=labelled.classes,
        train=decodable[copies.parts == TRAIN],
        # One without a label may be here as the copy of another.
        validation=decodable[(copies.parts == VALIDATION) & (labelled.classes[decodable] >= 0)],
        shape=(config.preprocessing.height, config.preprocessing.width, 3),
        window_images=window_images,
        rejected=tuple(sorted(rejected)),
        decoder=decoder if each_epoch else None,
        origins=origins,
    )
    return Decoded(images, copies, time.monotonic() - started, count)


def _rejected(summary: pa.Table) -> frozenset[int]:
    """The rows of a block that could not be decoded."""
    bad = summary["error"].is_valid().to_numpy(zero_copy_only=False)
    return frozenset(np.flatnonzero(bad).tolist())


def _decodable(entries: Any, summary: pa.Table) -> Any:
    """A reference of a shard's entries, without those that could not be decoded."""
    import ray

    if summary["error"].null_count == summary.num_rows:
        return entries
    return ray.put(ray.get(entries).filter(summary["error"].is_null()))


def shards(labelled: LabelledImages) -> Iterator[pa.Table]:
    """Tables of entries of one part each, with their rows in the list as the column `index`."""
    waiting: dict[int, list[pa.Table]] = {TRAIN: [], VALIDATION: []}
    start = 0
    for batch in labelled.entries.batches():
        for part, tables in waiting.items():
            rows = np.flatnonzero(labelled.parts[start : start + batch.num_rows] == part)
            index = pa.array(rows + start, pa.int64())
            tables.append(pa.table(batch.take(pa.array(rows))).append_column("index", index))
            table = pa.concat_tables(tables)
            whole = table.num_rows - table.num_rows % _SHARD_IMAGES
            for first in range(0, whole, _SHARD_IMAGES):
                yield table.slice(first, _SHARD_IMAGES).combine_chunks()
            tables[:] = [table.slice(whole).combine_chunks()]
        start += batch.num_rows
    yield from (table for (table,) in waiting.values() if table.num_rows)


def _run(
    shards: list[Any],
    total: int,
    decoder: BlockDecoder,
    actors: int,
    label: str | None,
    observer: Observer,
    *,
    keep: bool,
) -> tuple[tuple[Any, ...], list[pa.Table], Count]:
    """References of the decoded tables, and a summary of each, in the order of their images.

    The shards are references as well, of `total` entries. Without `keep` there are no decoded tables.
    """
    import ray
    from ray.data import ActorPoolStrategy

    tally = ray.remote(**nodes.beside_driver())(_Tally).remote()
    # With 0 CPUs, Ray starts a process for each block.
    summarize = ray.remote(num_cpus=1, **nodes.on_label(label))(_summary)

    def decode() -> tuple[list[Any], list[pa.Table], Count]:
        # Numbers and not `from_arrow_refs` of the shards, which starts a task for each on any CPU.
        numbers = [pa.table({"shard": [number]}) for number in range(len(shards))]
        pipeline = ray_quirks.map_batches(
            ray.data.from_blocks(numbers),
            _TalliedDecoder,
            fn_constructor_args=(shards, tally, decoder, keep),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(actors, len(shards))),
            num_cpus=1,
            node_label=label,
        )
        blocks = pipeline.materialize().to_arrow_refs()
        if not keep:
            return [], ray.get(blocks), ray.get(tally.count.remote())
        asked: list[Any] = []
        for number, block in enumerate(blocks):
            if number >= actors:  # the job keeps to its CPUs
                ray.wait(asked, num_returns=number - actors + 1)
            asked.append(summarize.remote(block, decoder.preprocessing))
        return blocks, ray.get(asked), ray.get(tally.count.remote())

    started = time.monotonic()
    result: Any = None
    with ray_quirks.plain_errors():
        watch = nodes.NodeWatch(1, cpus=1, label=label, on_lost=observer.phase)
        # All requests to the cluster happen within, so that they are watched.
        for state in nodes.watched(_told(decode, tally), watch.check):
            if isinstance(state, Count):
                done = min(state.done, total)  # a repeated shard counts twice
                rate = done / max(time.monotonic() - started, 1e-9)
                observer.progress(done, total, min(state.rejected, done), rate)
            else:
                result = state
    unordered, summaries, count = result
    # Blocks arrive as actors finish; the order of the images must not depend on that.
    order = sorted(range(len(summaries)), key=lambda block: summaries[block]["index"][0].as_py())
    blocks = tuple(unordered[block] for block in order) if keep else ()
    return blocks, [summaries[block] for block in order], count


def _told(work: Callable[[], Any], tally: Any) -> Iterator[Any]:
    """Yields how much of `work` is done while it runs, then its result."""
    import ray

    once = (work() for _ in range(1))
    with read_ahead(once, 1, name="catdog-decoding", every_s=_TELL_EVERY_S, patience_s=0.0) as done:
        for result in done:
            yield ray.get(tally.count.remote()) if isinstance(result, NothingYet) else result


class Count(NamedTuple):
    """How many images are done; shards that were decoded again count again.

    Attributes:
        done: all of them.
        rejected: those that could not be decoded.
        fetched: those that came from the cache.
        kept: those that were put into it.
    """

    done: int
    rejected: int
    fetched: int = 0
    kept: int = 0


class _Tally:
    """An actor beside the driver that counts decoded images."""

    def __init__(self) -> None:
        self._count = Count(0, 0)

    def add(self, more: Count) -> None:
        """So many more are done, all others among them."""
        self._count = Count(*map(sum, zip(self._count, more, strict=True)))

    def count(self) -> Count:
        """Until now."""
        return self._count


class _TalliedDecoder:
    """Decodes tables of entries with a column `index`, and reports their number and the node.

    Args:
        shards: a list with the references of the tables; it is called with their numbers in it.
        tally: a `_Tally`.
        decoder: how they are decoded.
        keep: whether to return pixels, or only the summary for the driver.
    """

    def __init__(
        self,
        shards: list[Any],
        tally: Any,
        decoder: BlockDecoder,
        keep: bool,
    ) -> None:
        import ray

        self._shards, self._tally, self._keep = shards, tally, keep
        self._node = ray.get_runtime_context().get_node_id()
        self._preprocessing, self._decode = decoder.preprocessing, decoder.started()

    def __call__(self, numbers: pa.Table) -> pa.Table:
        import ray

        (number,) = numbers["shard"].to_pylist()
        decoded = self._decode(ray.get(self._shards[number]))
        count = Count(decoded.num_rows, decoded.num_rows - decoded["error"].null_count)
        if isinstance(self._decode, cache.CachedDecoder):
            count = count._replace(fetched=self._decode.fetched, kept=self._decode.kept)
            self._decode.fetched = self._decode.kept = 0
        # The last images are counted before the end; blocks made again later are not counted.
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.get(self._tally.add.remote(count))
        decoded = decoded.append_column("node", pa.array([self._node] * decoded.num_rows))
        return decoded if self._keep else _summary(decoded, self._preprocessing)


def _summary(block: pa.Table, preprocessing: Preprocessing) -> pa.Table:
    """The driver's summary of a decoded block, without pixels."""
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
        .replace_schema_metadata({"node": block["node"][0].as_py()})
    )


def _regrouped(
    labelled: LabelledImages,
    summaries: list[pa.Table],
    decodable: NDArray[np.int64],
) -> duplicates.Regrouped:
    """Parts of the decodable images, with copies on one side; as given if folders give the parts."""
    n, pixels = len(labelled.classes), duplicates.THUMBNAIL_SIDE**2
    digests, thumbnails = np.zeros(n, np.uint64), np.zeros((n, pixels), np.uint8)
    for summary in summaries:
        index = summary["index"].to_numpy()
        digests[index] = summary["digest"].to_numpy()
        for chunk_rows, chunk in _chunks(index, summary["thumbnail"]):
            values = np.frombuffer(chunk.buffers()[1], np.uint8)
            start = chunk.offset * pixels
            thumbnails[chunk_rows] = values[start : start + len(chunk) * pixels].reshape(-1, pixels)

    entries = labelled.entries
    return duplicates.regroup(
        duplicates.Fingerprints(digests[decodable], thumbnails[decodable]),
        labelled.parts[decodable],
        lambda numbers: entries.values(decodable[numbers], "name"),
        move=not labelled.parts_given,
    )


def _chunks(
    index: NDArray[np.int64], column: pa.ChunkedArray
) -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
    start = 0
    for chunk in column.chunks:
        yield index[start : start + len(chunk)], chunk
        start += len(chunk)


def refuse_empty(images: DecodedImages, labelled: LabelledImages) -> None:
    """Check that images are left in both parts and in each class.

    Raises:
        CatdogError: it is not.
    """
    if not len(images.train) or not len(images.validation):
        raise CatdogError("no decodable image is left for training or validation")
    labels = labelled.labels
    counts = images_of_classes(images.classes, labelled.answers, images.train, len(labels))
    for label, count in zip(labels, counts, strict=True):
        if not count:
            raise CatdogError(f"class {label!r} has no decodable image left to train on")


def notices(decoded: Decoded, *, parts_given: bool, cached: bool) -> list[str]:
    """Lines for the user about the cache and about copies."""
    copies = decoded.copies
    found = copies.exact + copies.alike
    lines = []
    if cached:
        fetched, kept = decoded.counted.fetched, decoded.counted.kept
        lines.append(f"images from the cache: {fetched:,}; put into it: {kept:,}")
    if not found:
        return lines
    said = f"images with a copy on the other side of the split: {found:,} ({copies.exact:,} equal, "
    said += f"{copies.alike:,} alike)"
    if parts_given:
        return [
            *lines,
            f"warning: {said}; accuracy on them says little, and the folders' parts stay as they are",
        ]
    return [
        *lines,
        f"{said}; each group was brought to one side, for which {copies.moved:,} changed theirs",
    ]
