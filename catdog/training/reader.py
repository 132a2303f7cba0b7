"""Batches as arrays: pixels out of the object store; the next batch is read while one is computed.

If images are decoded in each epoch, the lender of a node decodes the blocks that its workers own, a
window ahead of their use, and drops used ones.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from catdog.ahead import read_ahead
from catdog.pixels import as_pixels
from catdog.training.lost_blocks import Fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from catdog.training.block_decoder import BlockDecoder
    from catdog.training.data import Batch, DecodedImages
    from catdog.training.lost_blocks import Origin
    from catdog.training.placement import Placement

_BATCHES_AHEAD = 4
_LEAST_BLOCKS = 4
_WINDOWS_MADE = 2  # decoded by a lender: the one that is read, and the next


class Blocks:
    """Blocks of pictures, or of features, in the object store; those used last are kept.

    A block of this node's store is read in place, without a copy: what is kept stays in the store,
    for all workers of the node.

    Args:
        shape: of a picture: height, width, 3; or the number of features.
        kept: how many are kept.
        fetch: gets a block that is not.
    """

    def __init__(self, shape: tuple[int, ...], kept: int, fetch: Fetch) -> None:
        self._shape, self._kept, self._fetch = shape, kept, fetch
        self._used_last: OrderedDict[Any, NDArray[Any]] = OrderedDict()

    def pixels(
        self, blocks: Sequence[Any], which: NDArray[np.int32], rows: NDArray[np.int32]
    ) -> NDArray[Any]:
        """Pictures (n, H, W, 3), or features (n, k), each a row of one of the blocks."""
        pixels = empty(len(rows), self._shape)
        for target, (number, row) in enumerate(zip(which.tolist(), rows.tolist(), strict=True)):
            pixels[target] = self._block(blocks[number])[row]
        return pixels

    def _block(self, reference: Any) -> NDArray[Any]:
        if reference in self._used_last:
            self._used_last.move_to_end(reference)
            return self._used_last[reference]
        found = self._fetch(reference)
        features = isinstance(found, np.ndarray)
        block: NDArray[Any] = found if features else as_pixels(found["pixels"], self._shape)
        self._used_last[reference] = block
        if len(self._used_last) > self._kept:
            self._used_last.popitem(last=False)
        return block


def empty(count: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Room for this many pictures, uint8, or rows of features, float32."""
    return np.empty((count, *shape), np.uint8 if len(shape) == 3 else np.float32)


class Lender:
    """An actor on each node with workers, for the blocks that they own and other nodes decoded.

    It copies blocks that another node decoded, and lends single pictures to other nodes: Ray itself
    would move the whole block. Blocks that do not fit the node's object store lie on its disk; a
    second copy made by Ray would be dropped and fetched again in each epoch.

    Blocks that are not decoded yet it decodes, and keeps the latest.

    Args:
        shape: of a picture: height, width, 3; or the number of features.
        kept: how many blocks are kept in memory.
        decoder: of blocks; None where they are decoded.
        made: how many of those that it decodes are kept.
        at_once: how many it decodes at a time.
        origins: what the blocks were made of.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        kept: int,
        decoder: BlockDecoder | None = None,
        made: int = 0,
        at_once: int = 1,
        origins: dict[Any, Origin] | None = None,
    ) -> None:
        self._fetch = Fetch(origins or {})
        self._blocks = Blocks(shape, kept, self._fetch)
        self._decoder, self._made = decoder, made
        self._copies: OrderedDict[Any, Future[Any]] = OrderedDict()
        self._threads = ThreadPoolExecutor(at_once)
        self._of_thread = local()

    def ahead(self, blocks: list[Any]) -> None:
        """Begin with blocks that will be needed."""
        for block in blocks:
            if block not in self._copies:
                self._copies[block] = self._threads.submit(self._copy, block)
        while self._decoder is not None and len(self._copies) > self._made:
            self._copies.popitem(last=False)

    def copies(self, blocks: list[Any]) -> list[Any]:
        """References of copies of blocks; they end with this actor."""
        copies = []
        for block in blocks:
            if block not in self._copies:
                self.ahead([block])
            copies.append(self._copies[block])
        return [copy.result() for copy in copies]

    def _copy(self, block: Any) -> Any:
        import ray

        table = self._fetch(block)
        if self._decoder is None:
            return ray.put(table)
        if not hasattr(self._of_thread, "decode"):
            self._of_thread.decode = self._decoder.again()
        return ray.put(self._of_thread.decode(table).select(["pixels"]))

    def pixels(
        self, blocks: list[Any], which: NDArray[np.int32], rows: NDArray[np.int32]
    ) -> NDArray[Any]:
        """Pictures (n, H, W, 3), or features (n, k), each a row of one of the blocks."""
        return self._blocks.pixels(blocks, which, rows)


class Lenders:
    """This worker's handles of all nodes' lenders, for as long as it reads: they end with the first.

    Args:
        group: a name that the workers of this start of their group share, and no others.
        images: what there is.
        kept: how many blocks a lender keeps in memory.
        at_once: how many blocks a lender decodes at a time.
    """

    def __init__(self, group: str, images: DecodedImages, kept: int, at_once: int = 1) -> None:
        self._group, self._images, self._kept = group, images, kept
        self._at_once = at_once
        self._handles: dict[str, Any] = {}
        self._copies: OrderedDict[tuple[int, str], Any] = OrderedDict()

    def on(self, node: str) -> Any:
        """The handle of a node's."""
        if node not in self._handles:
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            images = self._images
            self._handles[node] = (
                ray.remote(Lender)
                .options(
                    name=f"catdog-lender-{self._group}-{node}",
                    get_if_exists=True,
                    num_cpus=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                )
                .remote(
                    images.shape,
                    self._kept,
                    images.decoder,
                    made_blocks(images),
                    self._at_once,
                    images.origins,
                )
            )
        return self._handles[node]

    def ahead(self, blocks: list[int], node: str) -> None:
        """Make a node's lender begin with blocks that will be needed."""
        self.on(node).ahead.remote([self._images.blocks[block] for block in blocks])

    def lying(self, blocks: list[int], node: str) -> list[Any]:
        """References of blocks on a node, copied or decoded there if need be."""
        import ray

        lacking = [
            block
            for block in blocks
            if (block, node) not in self._copies and self._images.block_nodes[block] != node
        ]
        if lacking:
            originals = [self._images.blocks[block] for block in lacking]
            copies = ray.get(self.on(node).copies.remote(originals))
            self._copies.update(
                {(block, node): copy for block, copy in zip(lacking, copies, strict=True)}
            )
        lying = [self._copies.get((block, node), self._images.blocks[block]) for block in blocks]
        while self._images.decoder is not None and len(self._copies) > self._kept:
            self._copies.popitem(last=False)
        return lying


class PixelReader:
    """Reads images by number: blocks of this node's workers in place, others from their nodes.

    Of decoded images lenders save the network, nothing else: where one fails, Ray moves whole blocks.

    Args:
        images: what there is.
        kept_images: blocks are kept as long as they hold no more images than that.
        placement: whose the blocks are.
        worker: number of the one that reads.
        lenders: of all nodes.

    Attributes:
        decodes: whether lenders decode what it reads.
    """

    def __init__(
        self,
        images: DecodedImages,
        kept_images: int,
        placement: Placement,
        worker: int,
        lenders: Lenders,
    ) -> None:
        self._images, self._placement = images, placement
        self.decodes = images.decoder is not None
        self._announced: OrderedDict[int, None] = OrderedDict()
        fetch = Fetch(images.origins)
        self._blocks = Blocks(images.shape, kept_blocks(images, kept_images), fetch)
        self._lenders = lenders
        numbers = {node: number for number, node in enumerate(placement.nodes)}
        self._node = numbers[placement.nodes[worker]]
        self._node_of = np.array([numbers[node] for node in placement.nodes], np.int32)

    def announce(self, numbers: NDArray[np.int64]) -> None:
        """Have this node's lender decode what will be read of its workers' blocks."""
        new = [
            block
            for block in np.unique(self._images.block_of[numbers]).tolist()
            if block not in self._announced and self._lies_here(block)
        ]
        self._announced.update(dict.fromkeys(new))
        while len(self._announced) > made_blocks(self._images):
            self._announced.popitem(last=False)
        if new:
            self._lenders.ahead(new, self._placement.nodes[self._node])

    def _lies_here(self, block: int) -> bool:
        """Whether it is a block of this node's workers."""
        return bool(self._node_of[self._placement.worker_of[block]] == self._node)

    def ask(self, numbers: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], Any]]:
        """Ask the other nodes for their share of these; pass the result to `read`."""
        import ray

        owners = self._placement.worker_of[self._images.block_of[numbers]]
        nodes = self._node_of[owners]
        asked = []
        for number in np.unique(nodes[nodes != self._node]).tolist():
            rows, node = np.flatnonzero(nodes == number), self._placement.nodes[number]
            blocks, which = self._blocks_of(numbers[rows])
            try:
                lying = self._lenders.lying(blocks, node)
            except ray.exceptions.RayError:
                continue
            lent = self._lenders.on(node).pixels.remote(
                lying, which, self._images.row_of[numbers[rows]]
            )
            asked.append((rows, lent))
        return asked

    def read(
        self, numbers: NDArray[np.int64], asked: list[tuple[NDArray[np.int64], Any]]
    ) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Pixels (n, H, W, 3), or features (n, k), and class numbers (n,) of these images."""
        import ray

        classes = self._images.classes[numbers]
        if not asked:
            return self._read_here(numbers), classes
        pixels = empty(len(numbers), self._images.shape)
        near = np.ones(len(numbers), np.bool_)
        for rows, lent in asked:
            try:
                pixels[rows] = ray.get(lent)
            except ray.exceptions.RayError:
                continue
            near[rows] = False
        pixels[near] = self._read_here(numbers[near])
        return pixels, classes

    def _read_here(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        import ray

        blocks, which = self._blocks_of(numbers)
        rows = self._images.row_of[numbers]
        owned = [self.decodes or self._lies_here(block) for block in blocks]
        here = self._placement.nodes[self._node]
        references = [self._images.blocks[block] for block in blocks]
        try:
            copies = self._lenders.lying(
                [block for block, own in zip(blocks, owned, strict=True) if own], here
            )
            for number, copy in zip(np.flatnonzero(owned).tolist(), copies, strict=True):
                references[number] = copy
            return self._blocks.pixels(references, which, rows)
        except ray.exceptions.RayError:
            if self.decodes:
                raise
            originals = [self._images.blocks[block] for block in blocks]
            return self._blocks.pixels(originals, which, rows)

    def _blocks_of(self, numbers: NDArray[np.int64]) -> tuple[list[int], NDArray[np.int32]]:
        """Numbers of the blocks of some images, and which of them each image is in."""
        blocks, which = np.unique(self._images.block_of[numbers], return_inverse=True)
        return blocks.tolist(), which.astype(np.int32)


def kept_blocks(images: DecodedImages, kept_images: int) -> int:
    """How many blocks hold about this many images; at least a few."""
    per_block = len(images.block_of) / max(1, len(images.blocks))
    return max(_LEAST_BLOCKS, int(kept_images / max(1.0, per_block)))


def made_blocks(images: DecodedImages) -> int:
    """How many blocks a lender that decodes them keeps."""
    return kept_blocks(images, _WINDOWS_MADE * images.window_images)


def read(
    reader: PixelReader,
    batches: Iterable[Batch],
    randomness: Callable[[Batch], NDArray[np.float32]] | None = None,
    targets: NDArray[np.float32] | None = None,
    *,
    announced: int = 0,
) -> Generator[tuple[Any, ...], None, None]:
    """Batches as arrays, read ahead by a thread that ends with the generator.

    Images that are decoded in each epoch are announced `announced` batches before they are read.

    Yields:
        pixels uint8 (share, H, W, 3) or features float32 (share, k), classes int32 (share,), weights
        float32 (share,), images in the global batch, random numbers float32 (share, k) where
        `randomness` gives them, rows float32 (share, classes) of `targets` where these are given.
    """

    def arrays() -> Iterator[tuple[Any, ...]]:
        asked: deque[tuple[Batch, Any]] = deque()
        for batch in _announced(reader, batches, announced):
            asked.append((batch, reader.ask(batch.numbers)))
            if len(asked) > _BATCHES_AHEAD:
                yield array(*asked.popleft())
        while asked:
            yield array(*asked.popleft())

    def array(batch: Batch, asked: Any) -> tuple[Any, ...]:
        pixels, classes = reader.read(batch.numbers, asked)
        random = (randomness(batch),) if randomness else ()
        taught = () if targets is None else (targets[batch.numbers],)
        return pixels, classes, batch.weights, np.float32(batch.total), *random, *taught

    with read_ahead(arrays(), _BATCHES_AHEAD, name="catdog-batches") as ahead:
        yield from cast("Iterator[tuple[Any, ...]]", ahead)  # none of them is `NothingYet`


def _announced(reader: PixelReader, batches: Iterable[Batch], ahead: int) -> Iterator[Batch]:
    """The batches, each when as many as `ahead` that come after it are announced."""
    if not reader.decodes:
        yield from batches
        return
    waiting: deque[Batch] = deque()
    for batch in batches:
        reader.announce(batch.numbers)
        waiting.append(batch)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
