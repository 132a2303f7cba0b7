"""The small inputs that `../shared/cases` draws, where they are at hand: each gives its right result.

Their siblings, which this project draws itself, are in the other files of this folder and in
tests/pixels.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catdog.errors import ErrorCode, ImageRejected, UserInputError
from catdog.inputs import PLAN_SCHEMA, Skips, SourceLimits, list_images, read_images
from catdog.pixels import DecodeLimits, Preprocessing, decode
from catdog.training.labelled import list_labelled

CASES = Path(__file__).parents[3] / "shared" / "cases"
LIMITS = SourceLimits()
SIZE = Preprocessing(64, 64)

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not at hand")


def drawn(case, folder):
    """The folder, with a case drawn into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [case, str(folder)])
        patch.setattr(sys, "path", [str(CASES), *sys.path])
        runpy.run_path(str(CASES / f"{case}.py"))
        sys.modules.pop("common", None)
    return folder


def outcomes(*inputs):
    """Name, label and pixels (or the code of the rejection) of each planned image; what is skipped."""
    skips = Skips()
    batches = list(list_images([str(each) for each in inputs], LIMITS, skips=skips))
    table = pa.Table.from_batches(batches, PLAN_SCHEMA)
    assert len(set(table["uri"].to_pylist())) == table.num_rows
    results = [_decoded(data) for data in read_images(table, LIMITS, 2)]
    rows = zip(table["name"].to_pylist(), table["label"].to_pylist(), results, strict=True)
    return list(rows), skips.counts()


def _decoded(data):
    try:
        if isinstance(data, ImageRejected):
            raise data
        return decode(data, SIZE, DecodeLimits()).pixels.astype(int)
    except ImageRejected as rejected:
        return rejected.code


def classified(rows):
    return [row for row in rows if not isinstance(row[2], ErrorCode)]


def alike(rows):
    """Whether all of them show one picture, to rounding."""
    return all(np.abs(pixels - rows[0][2]).max() <= 1 for _, _, pixels in rows)


@pytest.mark.parametrize(
    ("case", "images"),
    [("alpha_zero", 3), ("png_big_metadata", 5), ("tiff_photometric", 5)],
)
def test_one_picture_in_many_files(case, images, tmp_path):
    """Transparency unset, large metadata, photometric kinds: every file shows the same picture."""
    rows, _ = outcomes(drawn(case, tmp_path) / "p")
    assert len(classified(rows)) == images == len(rows)
    assert alike(rows)


def test_planes(tmp_path):
    """16-bit RGB in separate planes is refused, or what the same picture as PNG is."""
    rows, _ = outcomes(drawn("tiff_planar_16", tmp_path) / "p")
    found = {name: result for name, _, result in rows}
    assert found["planes16.tif"] == ErrorCode.UNSUPPORTED
    assert not isinstance(found["same.png"], ErrorCode)


def test_damage_that_costs_no_pixel(tmp_path):
    """Whole pictures are classified, half a picture is truncated."""
    rows, _ = outcomes(drawn("png_bad_ancillary", tmp_path) / "p")
    rejected = {name: code for name, _, code in rows if isinstance(code, ErrorCode)}
    assert rejected == {"half.jpg": ErrorCode.TRUNCATED}
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("case", "name", "images"),
    [("concatenated_tar", "joined.tar", 12), ("zip64_streamed", "a.zip", 6)],
)
def test_whole_archives(case, name, images, tmp_path):
    """Joined tars and streamed zips give all of their members."""
    rows, _ = outcomes(drawn(case, tmp_path) / name)
    assert len(classified(rows)) == len(rows) == images


def test_a_huge_number_in_an_archive(tmp_path):
    """It costs its own member: the neighbours are classified."""
    folder = drawn("zip64_overflow", tmp_path) / "p"
    rows, _ = outcomes(folder / "sound.jpg", folder / "a.zip")
    assert (len(rows), len(classified(rows))) == (3, 2)


def test_names_in_zips(tmp_path):
    """Labels in UTF-8 without the flag, and in Info-ZIP's field, are those of the folder."""
    drawn("mac_zip_names", tmp_path)
    labels = []
    for given in ("finder.zip", "unicode_path.zip", "folder"):
        rows, _ = outcomes(tmp_path / given)
        labels.append({label for _, label, _ in classified(rows)})
    assert labels == [{"café", "naïve", "猫"}] * 3


@pytest.mark.parametrize(
    ("case", "skipped"),
    [
        ("sidecars", {"sidecars", "system files"}),
        ("system_folders", {"system folders"}),
    ],
)
def test_what_is_no_photo_is_passed_over(case, skipped, tmp_path):
    """Sidecars and system folders are no images and no classes, and are counted."""
    folder = drawn(case, tmp_path) / "photos"
    rows, counts = outcomes(folder)
    assert len(classified(rows)) == len(rows) in (20, 40)
    assert counts
    assert set(counts) <= skipped
    assert list_labelled([str(folder)], LIMITS, validation=0.2, test=0.0).labels == ("cat", "dog")


@pytest.mark.parametrize(("name", "images"), [("a", 3), ("b", 4)])
def test_a_link_to_itself(name, images, tmp_path):
    """It costs its own row."""
    rows, _ = outcomes(drawn("self_link", tmp_path) / name)
    assert len(classified(rows)) == images == len(rows) - 1


def test_names_that_look_alike(tmp_path):
    """A name in bytes that are no UTF-8 and one that spells them are two images."""
    rows, _ = outcomes(drawn("shown_names", tmp_path) / "p")
    assert len({name for name, _, _ in rows}) == len(rows) == 2


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder of tables as people have them."""
    return drawn("tables", tmp_path_factory.mktemp("tables"))


@pytest.mark.parametrize(
    "name",
    "space.csv space_label.csv semicolon.csv utf16.csv path.csv upper.csv list.tsv utf16.txt "
    "quoted.txt spaces.txt nfd.csv".split(),
)
def test_tables(name, tables):
    """Spaces, delimiters, encodings, quotes and columns of other names: all images are read."""
    rows, _ = outcomes(tables / name)
    assert len(classified(rows)) == len(rows) == 24
    if name != "nfd.csv":
        assert {label for _, label, _ in rows} == {"cat", "dog"}


def test_labels_that_differ_in_their_unicode(tables):
    """They are refused, both named."""
    with pytest.raises(UserInputError, match=r"caf\\xe9.*cafe\\u0301|cafe\\u0301.*caf\\xe9"):
        list_labelled([str(tables / "nfd.csv")], LIMITS, validation=0.2, test=0.0)


def test_tables_with_images_inside(tables):
    """Images of the library `datasets` are read; rows without bytes are rows `empty`."""
    rows, _ = outcomes(tables / "hf.parquet")
    assert [label for _, label, _ in classified(rows)] == ["0", "1", "0", "1"]
    rows, _ = outcomes(tables / "nulls.parquet")
    codes = [result for _, _, result in rows if isinstance(result, ErrorCode)]
    assert (len(rows), codes) == (4, [ErrorCode.EMPTY, ErrorCode.EMPTY])


def test_windows_paths(tables):
    """Each is a row that says so."""
    rows, _ = outcomes(tables / "windows.txt")
    assert {code for _, _, code in rows} == {ErrorCode.UNSUPPORTED}


@pytest.mark.parametrize(
    "name", ["label_latin1.csv", "long_header.csv", "label_latin1.parquet", "two_uris.parquet"]
)
def test_tables_of_strangers(name, tmp_path):
    """What is damaged costs a row, or the table is refused by its name."""
    table = drawn("tables_of_strangers", tmp_path) / name
    if name in ("long_header.csv", "two_uris.parquet"):
        with pytest.raises(UserInputError, match=name):
            outcomes(table)
    else:
        assert len(outcomes(table)[0]) == 1


def test_a_class_without_images_to_train_on(tmp_path):
    """It is refused by its name."""
    folder = drawn("rare_class", tmp_path) / "photos"
    with pytest.raises(UserInputError, match="lynx"):
        list_labelled([str(folder)], LIMITS, validation=0.1, test=0.0)


def test_folders_train_and_val(tmp_path):
    """They are the parts, and are said to be."""
    folder = drawn("train_val_layout", tmp_path) / "data"
    found = list_labelled([str(folder)], LIMITS, validation=0.1, test=0.0)
    assert found.labels == ("cat", "dog")
    assert any("val/" in notice for notice in found.notices)


def test_markers_of_folders(s3):
    """Empty keys that stand for folders are no images."""
    drawn("s3_markers", s3)
    rows, counts = outcomes(f"{s3}/photos")
    assert len(classified(rows)) == len(rows) == 6
    assert counts == {"folder markers": 2}
