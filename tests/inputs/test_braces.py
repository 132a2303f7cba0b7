"""Brace expressions: what they stand for, and what are just braces."""

from __future__ import annotations

import io
import tarfile

import pyarrow as pa
import pytest

from catdog.errors import UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images
from catdog.inputs.braces import expanded


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("s-{8..11}.tar", ["s-8.tar", "s-9.tar", "s-10.tar", "s-11.tar"]),
        ("s-{008..011}", ["s-008", "s-009", "s-010", "s-011"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{00..1}x", ["00x", "01x"]),
        ("{cat,dog}/{0..1}", ["cat/0", "cat/1", "dog/0", "dog/1"]),
        ("{a,b{1,2}}", ["a", "b1", "b2"]),
        ("{a,}.jpg", ["a.jpg", ".jpg"]),
        ("{3..3}", ["3"]),
        *(
            (just, [just])
            for just in (
                "{1.." + "9" * 5000 + "}",
                "{}",
                "{a}",
                "{a..c}",
                "{1..",
                "}{",
                "{1...3}",
                "{-1..2}",
                "x{{y}}",
            )
        ),
    ],
)
def test_what_braces_stand_for(text, names):
    """Counts, with zeros or without, up and down; lists; one in the other; all else is left."""
    assert expanded(text) == names


@pytest.mark.parametrize(
    "text", ["{0..100000}", "{0..999}{0..999}", "{1..999999999999999999}", "{a,b}" * 40]
)
def test_too_many_names(text):
    """They are refused before they are made, in one line."""
    with pytest.raises(UserInputError, match="more than 100,000 names"):
        list(list_images([text], SourceLimits()))


def planned(*inputs):
    batches = list_images([str(each) for each in inputs], SourceLimits())
    return pa.Table.from_batches(batches, PLAN_SCHEMA)["name"].to_pylist()


def test_shards(tmp_path):
    """Each shard is opened; one that is missing is named; a file that is called so is itself."""
    for number in range(3):
        with tarfile.open(tmp_path / f"s-{number:03}.tar", "w") as archive:
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    assert planned(tmp_path / "s-{000..002}.tar") == ["0.jpg", "1.jpg", "2.jpg"]
    assert planned(tmp_path / "s-{002,000}.*") == ["2.jpg", "0.jpg"]
    with pytest.raises(UserInputError, match=r"s-003\.tar: there is no such file"):
        planned(tmp_path / "s-{000..003}.tar")
    (tmp_path / "{a,b}.jpg").write_bytes(b"x")
    assert planned(tmp_path / "{a,b}.jpg") == ["{a,b}.jpg"]
    (tmp_path / "{0..1}").mkdir()
    (tmp_path / "{0..1}" / "c.jpg").write_bytes(b"x")
    assert planned(tmp_path / "{0..1}") == planned(f"{tmp_path}/{{0..1}}/") == ["c.jpg"]
