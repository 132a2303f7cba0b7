"""Reading on a cluster of three nodes: single pictures cross the network, blocks do so once."""

from __future__ import annotations

import itertools
import multiprocessing
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from catdog.inputs import PLAN_SCHEMA, SourceLimits
from catdog.pixels import DecodeLimits, Preprocessing
from catdog.training import data, lost_blocks, placement, reader
from catdog.training.block_decoder import BlockDecoder

pytestmark = pytest.mark.slow

NODES, BLOCKS, BLOCK_IMAGES, SIDE = 3, 12, 64, 32


def picture_block(number):
    """Pictures whose every byte says which block they are of, and on which node they were made."""
    import ray

    size = SIDE * SIDE * 3
    pixels = np.full(BLOCK_IMAGES * size, number, np.uint8)
    values = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), BLOCK_IMAGES, [None, pa.py_buffer(pixels)]
    )
    return ray.put(pa.table({"pixels": values})), ray.get_runtime_context().get_node_id()


def read_an_epoch(images, where, worker):
    """What a training worker reads in an epoch and in a validation: images, and their first bytes."""
    taken = reader.PixelReader(
        images, 10**6, where, worker, reader.Lenders("group", images, BLOCKS)
    )
    steps = len(images.train) // 24
    stream = data.training_batches(
        images, data.shuffled_passes(images, 0, 10**6), 24, worker, where
    )
    batches = list(itertools.islice(stream, steps))
    batches += data.validation_batches(images, 24, None, 0, worker, where)
    read = list(reader.read(taken, batches))
    seen = [each[0][:, 0, 0, 0] for each in read]
    far = sum(
        int((where.worker_of[images.block_of[each.numbers]] != worker).sum()) for each in batches
    )
    return [each.numbers for each in batches], seen, far


def decoded(entries):
    """A block as the actors make them that decode; its node is told of."""
    import ray

    return decoder().started()(entries), ray.get_runtime_context().get_node_id()


def decoder():
    return BlockDecoder(Preprocessing(SIDE, SIDE), DecodeLimits(), SourceLimits())


def on_node(name, *, soft=False):
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(name, soft=soft)


def blocks_of_a_lost_node(cluster, pictures):
    """What is read of blocks whose node has gone, while no CPU is free to make them again."""
    import ray

    class Busy:
        def is_there(self):
            return True

    entries = pa.Table.from_pylist(
        [{"uri": path.as_uri(), "name": path.name, "codec": "file"} for path in pictures],
        PLAN_SCHEMA,
    )
    entries = entries.append_column("index", pa.array(range(len(pictures))))
    tables = ray.put(entries)
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    # On that node, and wherever there is room another time.
    make = ray.remote(num_cpus=1, num_returns=2)(decoded)
    there = on_node(lost.node_id, soft=True)
    block, node = make.options(scheduling_strategy=there).remote(tables)
    assert ray.get(node) == lost.node_id
    busy = [
        ray.remote(num_cpus=1, scheduling_strategy=on_node(node["NodeID"]))(Busy).remote()
        for node in ray.nodes()
        if node["NodeID"] != lost.node_id
    ]
    assert all(ray.get([each.is_there.remote() for each in busy]))
    cluster.remove_node(lost)
    broken = frozenset(range(1, len(pictures), 3))
    origin = lost_blocks.Origin(tables, broken, lost.node_id, decoder())
    found = lost_blocks.Fetch({block: origin})(block)
    return found["pixels"].to_pylist()


def on_three_nodes(told, pictures):
    """A process with a cluster of its own, three raylets of this machine."""
    import ray
    import ray.cloudpickle
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=1)
        ray.init(cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        names = [node["NodeID"] for node in ray.nodes()]

        def on(number, function):
            return ray.remote(scheduling_strategy=on_node(names[number % NODES]))(function).remote

        made = ray.get([on(number, picture_block)(number) for number in range(BLOCKS)])
        numbers = np.arange(BLOCKS * BLOCK_IMAGES)
        images = data.DecodedImages(
            blocks=tuple(block for block, _ in made),
            block_nodes=tuple(node for _, node in made),
            block_of=(numbers // BLOCK_IMAGES).astype(np.int32),
            row_of=(numbers % BLOCK_IMAGES).astype(np.int32),
            classes=np.zeros(len(numbers), np.int32),
            train=numbers[: 8 * BLOCK_IMAGES],
            validation=numbers[8 * BLOCK_IMAGES :],
            shape=(SIDE, SIDE, 3),
            window_images=len(numbers),
            rejected=(),
        )
        where = placement.placed(BLOCKS, images.block_of[images.train], names)
        lenders = reader.Lenders("group", images, BLOCKS)
        held = [lenders.on(name) for name in names]  # a task that is done would end them
        read = ray.get(
            [on(number, read_an_epoch)(images, where, number) for number in range(NODES)]
        )
        # One at a time: Ray 2.60 has ended this process over several ("Promise already satisfied").
        locations = {
            block: ray.experimental.get_object_locations([block])[block] for block in images.blocks
        }
        strangers = [
            set(locations[block]["node_ids"]) - {made, names[owner]}
            for block, made, owner in zip(
                images.blocks, images.block_nodes, where.worker_of, strict=True
            )
        ]
        del held
        told.put((read, strangers, blocks_of_a_lost_node(cluster, pictures)))
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a process tells that has a cluster of three nodes, and pictures, each third one broken."""
    pictures = [tmp_path_factory.mktemp("pictures") / f"{number}.png" for number in range(3)]
    for number, path in enumerate(pictures):
        Image.new("RGB", (SIDE, SIDE), (number, 9, 9)).save(path)
    pictures[1].write_bytes(b"")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=on_three_nodes, args=(queue, pictures * BLOCK_IMAGES))
    process.start()
    found = queue.get(timeout=180)
    process.join()
    return found


def test_blocks_go_to_their_workers_and_stay(told):
    """In an epoch and a validation on three nodes each picture is the right one.

    Some came from another worker's node, fewer than 0.3 of all; a block lies where it was decoded
    and with the worker that owns it, and on no other node.
    """
    read, strangers, _ = told
    assert not any(strangers)
    for numbers, seen, _ in read:
        for wanted, pixels in zip(numbers, seen, strict=True):
            assert pixels.tolist() == (wanted // BLOCK_IMAGES).tolist()
    assert 0 < sum(far for _, _, far in read) < 0.3 * BLOCKS * BLOCK_IMAGES


def test_a_block_that_went_with_its_node_is_made_again(told):
    """Though no CPU is free; what could not be decoded before needs not be now."""
    *_, pixels = told
    seen = [bytes([0, 9, 9]), bytes(3), bytes([2, 9, 9])]
    assert [each[:3] for each in pixels] == seen * BLOCK_IMAGES
