"""Decoded pictures kept between runs: right ones, whole ones, and only what is new is decoded."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catdog import inputs, storage
from catdog.errors import ImageRejected, UserInputError
from catdog.observer import Observer
from catdog.pixels import DecodeLimits, Preprocessing, as_binary, decode
from catdog.training import TrainConfig, cache, decoding, list_labelled

PREPROCESSING = Preprocessing(height=8, width=8)
SHAPE = (8, 8, 3)
LIMITS = DecodeLimits(), inputs.SourceLimits()


def draw(folder, *names, level=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (20, 20), (level, number, 7)).save(folder / name)


def listed(folder):
    plan = pa.Table.from_batches(list(inputs.list_images([str(folder)], LIMITS[1])))
    return plan.append_column("index", pa.array(range(plan.num_rows), pa.int64()))


def decoded(entries):
    """Entries decoded in this process, as `DecodeEntries` does it in another."""
    pixels = np.zeros((entries.num_rows, *SHAPE), np.uint8)
    errors, details = [None] * entries.num_rows, [None] * entries.num_rows
    for row, data in enumerate(inputs.read_images(entries, LIMITS[1], 2)):
        try:
            pixels[row] = decode(data, PREPROCESSING, LIMITS[0]).pixels
        except ImageRejected as error:
            errors[row], details[row] = error.code.value, error.detail
    columns = [entries["index"], *(pa.array(e, pa.string()) for e in (errors, details))]
    return pa.table([*columns, as_binary(pixels)], names=cache.COLUMNS)


def through(folder, entries):
    """What comes out, how many came from the cache, and how many were put into it."""
    decoder = cache.CachedDecoder(
        cache.opened(str(folder), PREPROCESSING, LIMITS[0]),
        SHAPE,
        lambda: decoded,
    )
    found = decoder(entries)
    return found.to_pylist(), decoder.fetched, decoder.kept


def fresh(entries):
    """The same without a cache."""
    return decoded(entries).to_pylist()


def files(folder, pattern):
    return sorted(Path(folder).rglob(pattern))


def test_what_is_kept_is_what_decoding_gives(tmp_path):
    """A second run decodes nothing, and gets the same pixels; one that is no image is tried again."""
    draw(tmp_path / "photos", "a.png", "b.png", "c.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"nothing")
    entries = listed(tmp_path / "photos")
    expected = fresh(entries)
    assert through(tmp_path / "cache", entries) == (expected, 0, 3)
    assert through(tmp_path / "cache", entries) == (expected, 3, 0)
    backwards = entries.take(pa.array([3, 2, 1, 0]))
    assert through(tmp_path / "cache", backwards) == (expected[::-1], 3, 0)


def test_growing_data_decode_what_is_new(tmp_path):
    """Pictures that come between others are decoded, and no others."""
    draw(tmp_path / "photos", "a.png", "c.png")
    through(tmp_path / "cache", listed(tmp_path / "photos"))
    draw(tmp_path / "photos", "b.png", level=3)
    grown = listed(tmp_path / "photos")
    assert through(tmp_path / "cache", grown) == (fresh(grown), 2, 1)
    assert through(tmp_path / "cache", grown) == (fresh(grown), 3, 0)


def test_a_changed_picture_is_decoded_again(tmp_path):
    """Of the same name and size, at another time."""
    draw(tmp_path / "photos", "a.png", "b.png")
    before = listed(tmp_path / "photos")
    pixels = fresh(before)
    through(tmp_path / "cache", before)
    draw(tmp_path / "photos", "a.png", level=200)
    os.utime(tmp_path / "photos" / "a.png", ns=(1, 1))
    after = listed(tmp_path / "photos")
    assert fresh(after) != pixels
    assert through(tmp_path / "cache", after) == (fresh(after), 1, 1)


def test_images_and_cache_may_be_on_s3(s3, tmp_path):
    """The same on S3, where an ETag says what has changed; members of archives go by theirs."""
    draw(tmp_path / "photos", "a.png", "b.png")
    for path in files(tmp_path / "photos", "*.png"):
        storage.write_atomic(f"{s3}/photos/{path.name}", path.read_bytes())
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        archive.add(tmp_path / "photos" / "a.png", "c.png")
    storage.write_atomic(f"{s3}/photos/c.tar", (tmp_path / "c.tar").read_bytes())
    entries = listed(f"{s3}/photos")
    expected = fresh(entries)
    assert through(f"{s3}/cache", entries) == (expected, 0, 3)
    assert through(f"{s3}/cache", entries) == (expected, 3, 0)
    draw(tmp_path / "photos", "a.png", level=9)
    storage.write_atomic(f"{s3}/photos/a.png", (tmp_path / "photos" / "a.png").read_bytes())
    entries = listed(f"{s3}/photos")
    assert through(f"{s3}/cache", entries) == (fresh(entries), 2, 1)


def test_other_preprocessing_has_a_folder_of_its_own(tmp_path):
    """Pictures of another size are others."""
    one = cache.opened(str(tmp_path), PREPROCESSING, LIMITS[0]).folder
    other = cache.opened(str(tmp_path), Preprocessing(height=8, width=9), LIMITS[0]).folder
    cropped = cache.opened(
        str(tmp_path), Preprocessing(height=8, width=8, resize="crop"), LIMITS[0]
    ).folder
    assert len({one, other, cropped}) == 3


def test_its_files_are_open_to_others(tmp_path):
    """Arrow and Parquet read them: pictures by key, and where each key lies."""
    draw(tmp_path / "photos", "a.png", "b.png")
    through(tmp_path / "cache", listed(tmp_path / "photos"))
    cache.opened(str(tmp_path / "cache"), PREPROCESSING, LIMITS[0])
    (pictures,) = files(tmp_path / "cache", "*.arrow")
    (index,) = files(tmp_path / "cache", "index-*.parquet")
    table = pa.ipc.open_file(pa.memory_map(str(pictures))).read_all()
    places = pq.read_table(index).to_pylist()
    assert [place["file"] for place in places] == [pictures.name] * 2
    for place in places:
        assert table["key"][place["row"]].as_py() == place["key"]
    first = np.frombuffer(table["pixels"][0].as_py(), np.uint8).reshape(SHAPE)
    assert table["uri"][0].as_py().endswith("a.png")
    assert (first == (0, 0, 7)).all()


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("harm", ["gone", "cut", "spoilt", "another", "no index"])
def test_what_is_lost_is_decoded_again(tmp_path, harm, indexed):
    """A file that was deleted, cut or spoilt, or is another than its index says; or a spoilt index."""
    draw(tmp_path / "photos", "a.png", "b.png")
    entries = listed(tmp_path / "photos")
    through(tmp_path / "cache", entries)
    if indexed:
        through(tmp_path / "cache", entries)
    (pictures,) = files(tmp_path / "cache", "*.arrow")
    whole = pictures.read_bytes()
    kept = 0
    if harm == "no index":
        kept = 2
        for path in files(tmp_path / "cache", "index-*.parquet"):
            path.write_bytes(b"x")
    elif harm == "gone":
        pictures.unlink()
    elif harm == "another":
        draw(tmp_path / "others", "a.png", "b.png", level=90)
        through(tmp_path / "elsewhere", listed(tmp_path / "others"))
        (other,) = files(tmp_path / "elsewhere", "*.arrow")
        pictures.write_bytes(other.read_bytes())
    else:
        pictures.write_bytes(whole[:50] if harm == "cut" else b"x" * len(whole))
    assert through(tmp_path / "cache", entries) == (fresh(entries), kept, 2 - kept)
    assert through(tmp_path / "cache", entries) == (fresh(entries), 2, 0)


def keep_for_ever(folder, photos):
    while True:
        entries = listed(photos)
        through(folder, entries.append_column("again", pa.nulls(entries.num_rows)))
        for path in files(folder, "*.arrow"):
            path.unlink()


@pytest.mark.slow
def test_killed_and_rival_writers_leave_whole_files(tmp_path):
    """Two write the same pictures and are killed at any moment: what is there, is right."""
    draw(tmp_path / "photos", *(f"{number}.png" for number in range(40)))
    entries = listed(tmp_path / "photos")
    expected = fresh(entries)
    context = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "cache", tmp_path / "photos")
    writers = [context.Process(target=keep_for_ever, args=arguments) for _ in range(2)]
    for writer in writers:
        writer.start()
    while not files(tmp_path / "cache", "*.arrow"):
        assert all(writer.is_alive() for writer in writers)
    for _ in range(10):
        assert through(tmp_path / "cache", entries)[0] == expected
    for writer in writers:
        writer.kill()
        writer.join()
    assert through(tmp_path / "cache", entries)[0] == expected
    assert through(tmp_path / "cache", entries)[1:] == (40, 0)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    """One line that names the flag, before anything is decoded."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserInputError, match="--cache") as error:
        cache.opened(str(tmp_path / "file"), PREPROCESSING, LIMITS[0])
    assert "\n" not in str(error.value)


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path):
    """What cannot be kept is given all the same."""
    draw(tmp_path / "photos", "a.png")
    entries = listed(tmp_path / "photos")
    index = cache.opened(str(tmp_path / "cache"), PREPROCESSING, LIMITS[0])
    folder = Path(storage.local_path(index.folder))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_bytes(b"")
    decoder = cache.CachedDecoder(index, SHAPE, lambda: decoded)
    assert decoder(entries).to_pylist() == fresh(entries)
    assert decoder.kept == 0


@pytest.mark.slow
@pytest.mark.long  # the cache itself is tested without Ray, above
def test_a_second_run_decodes_nothing(ray_cluster, drawings, tmp_path):
    """The job that decodes for training: the same blocks, all of them out of the cache."""
    import ray

    config = TrainConfig(
        images=(str(drawings),),
        output="run",
        height=32,
        width=32,
        validation=0.25,
        cache=str(tmp_path / "cache"),
    )
    labelled = list_labelled(config.images, LIMITS[1], validation=0.25, test=0.0)

    def run(config):
        found = decoding.decode_all(
            labelled,
            config,
            *LIMITS,
            actors=2,
            window_images=100,
            each_epoch=False,
            observer=Observer(),
        )
        images = found.images
        pixels = [ray.get(block)["pixels"].to_pylist() for block in images.blocks]
        return found.counted, pixels, images.block_of.tolist(), images.row_of.tolist()

    total = labelled.entries.num_rows
    without, *expected = run(dataclasses.replace(config, cache=None))
    assert without == (total, 0, 0, 0)
    for counted in ((total, 0, 0, total), (total, 0, total, 0)):
        found, *images = run(config)
        assert found == counted
        assert images == expected
