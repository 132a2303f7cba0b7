"""The drawn cats and dogs: the same again, varied, not told apart by colour, archives as promised."""

from __future__ import annotations

import tarfile
import zipfile
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from catdog.demo.archives import Archives, _seed, undrawn, write_archives, write_dataset
from catdog.demo.drawings import LABELS, Label, draw, draw_jpeg
from catdog.errors import ErrorCode, ImageRejected
from catdog.pixels import DecodeLimits, Preprocessing, decode

if TYPE_CHECKING:
    from pathlib import Path

Members = dict[str, list[tuple[str, bytes]]]
PREPROCESSING = Preprocessing(height=32, width=32)


def verdict(data: bytes) -> ErrorCode | None:
    """The reason for which the images room rejects these bytes, None where it decodes them."""
    try:
        decode(data, PREPROCESSING, DecodeLimits())
    except ImageRejected as rejected:
        return rejected.code
    return None


def contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return write_archives(tmp_path_factory.mktemp("unseen"), 40, seed=3)


@pytest.fixture(scope="module")
def members(archives: Archives) -> Members:
    """Name and bytes of every file, of the tar and of the zip."""
    with tarfile.open(archives.tar) as tar:
        from_tar = [(m.name, contents(tar, m)) for m in tar.getmembers()]
    with zipfile.ZipFile(archives.zip) as packed:
        from_zip = [(name, packed.read(name)) for name in packed.namelist()]
    return {"tar": from_tar, "zip": from_zip}


@pytest.mark.parametrize("label", LABELS)
def test_a_seed_is_a_picture(label: Label) -> None:
    """The same label and seed give the same bytes, another seed gives others."""
    assert draw_jpeg(label, 5) == draw_jpeg(label, 5)
    assert draw_jpeg(label, 5) != draw_jpeg(label, 6)


def test_the_label_decides_the_shape_only() -> None:
    """A cat and a dog of one seed have the same size and most of the same surroundings."""
    for seed in range(10):
        cat, dog = draw("cat", seed), draw("dog", seed)
        assert cat.size == dog.size
        assert cat.mode == dog.mode == "RGB"
        difference = np.abs(np.asarray(cat, np.int16) - np.asarray(dog, np.int16)).max(axis=2)
        assert 0.02 < (difference > 24).mean() < 0.6


def test_sizes_and_aspects_vary() -> None:
    """Pictures are 80 to 400 pixels a side, wide and tall."""
    sizes = [draw("cat", seed).size for seed in range(60)]
    assert all(80 <= side <= 400 for size in sizes for side in size)
    assert max(map(max, sizes)) > 2 * min(map(max, sizes))
    assert len({width > height for width, height in sizes}) == 2
    assert len(set(sizes)) > 50


@pytest.mark.slow
def test_mean_colours_do_not_tell_cats_from_dogs() -> None:
    """A linear classifier on each channel's mean and spread stays near chance on unseen seeds."""
    count = 200
    labels = np.arange(count) % 2
    features = np.ones((count, 7))
    for seed, label in enumerate(labels):
        pixels = np.asarray(draw(LABELS[label], seed), np.float64) / 255
        features[seed, :3] = pixels.mean(axis=(0, 1))
        features[seed, 3:6] = pixels.std(axis=(0, 1))
    known, unseen = slice(0, count // 2), slice(count // 2, count)
    weights, *_ = np.linalg.lstsq(features[known], labels[known] - 0.5, rcond=None)
    accuracy = ((features[unseen] @ weights > 0) == labels[unseen]).mean()
    assert 0.35 < accuracy < 0.65


def test_a_dataset_is_one_folder_a_class(tmp_path: Path) -> None:
    """Half the drawings are cats, numbered from 0, and all decode."""
    write_dataset(tmp_path, 7, seed=1)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert names == [f"cat/cat.{n}.jpg" for n in range(4)] + [f"dog/dog.{n}.jpg" for n in range(3)]
    assert all(verdict((tmp_path / name).read_bytes()) is None for name in names)


def test_what_is_drawn_is_not_drawn_again(tmp_path: Path) -> None:
    """A second call keeps every file as it is, and draws what a killed first one had not."""
    folder, unseen = tmp_path / "drawings", tmp_path / "unseen"
    write_dataset(folder, 4, seed=1)
    archives = write_archives(unseen, 20, seed=2)
    files = [path for path in tmp_path.rglob("*.*") if path.is_file()]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
    lost = folder / "dog" / "dog.1.jpg"
    drawn = lost.read_bytes()
    lost.unlink()
    assert undrawn(folder, 4) == [(lost, "dog", 3)]
    write_dataset(folder, 4, seed=1)
    assert write_archives(unseen, 20, seed=2) == archives
    assert lost.read_bytes() == drawn
    assert undrawn(folder, 4) == []
    del before[lost]
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before


def test_archives_hold_what_they_say(archives: Archives, members: Members) -> None:
    """Each broken file is rejected for the reason given, each other one decodes."""
    found: Counter[ErrorCode | None] = Counter(
        verdict(data) for files in members.values() for _, data in files
    )
    assert found.pop(None) == archives.good == 40
    assert found == archives.broken
    assert set(archives.broken) == {
        ErrorCode.TRUNCATED,
        ErrorCode.EMPTY,
        ErrorCode.NOT_AN_IMAGE,
        ErrorCode.TOO_LARGE,
    }


def test_archives_nest_folders_under_the_label(members: Members) -> None:
    """The first folder is the label, paths are unique in an archive, base names recur."""
    for files in members.values():
        names = [name for name, _ in files]
        assert {name.split("/")[0] for name in names} == set(LABELS)
        assert all(name.count("/") == 2 for name in names)
        assert len(set(names)) == len(names)
        assert len({name.split("/")[-1] for name in names}) < len(names)


def test_odd_pictures_show_what_the_plain_ones_show(members: Members) -> None:
    """Whatever the format, colour mode and orientation, an odd picture decodes to its drawing."""
    kinds = ["grey.jpg", "cmyk.jpg", "palette.png", "rotated.jpg", "transparent.webp"]
    odd = {name.split("/")[-1]: data for name, data in members["tar"] if "/odd/" in name}
    assert sorted(odd) == sorted(kinds)
    for number, kind in enumerate(kinds):
        plain = draw(LABELS[number % 2], _seed("unseen", 3, number)).convert("L").resize((32, 32))
        shown = decode(odd[kind], PREPROCESSING, DecodeLimits()).pixels.mean(axis=2)
        middle = (slice(6, 26), slice(6, 26))  # the transparent one has round corners
        likeness = np.corrcoef(np.asarray(plain)[middle].ravel(), shown[middle].ravel())[0, 1]
        assert likeness > 0.9, kind


def test_archives_are_the_same_again(archives: Archives, tmp_path: Path) -> None:
    """Same arguments, same bytes."""
    again = write_archives(tmp_path, 40, seed=3)
    assert again.tar.read_bytes() == archives.tar.read_bytes()
    assert again.zip.read_bytes() == archives.zip.read_bytes()


def test_unseen_drawings_are_unseen(members: Members, tmp_path: Path) -> None:
    """No picture of an archive is in the training set of the same seed."""
    write_dataset(tmp_path, 40, seed=3)
    seen = {path.read_bytes() for path in tmp_path.rglob("*.jpg")}
    assert not seen & {data for files in members.values() for _, data in files}
