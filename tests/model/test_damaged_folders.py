"""What a stranger's model folder claims, against limits; neither Keras nor TensorFlow is loaded."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from catdog.errors import CatdogError
from catdog.model import folders


@pytest.fixture
def folder(tmp_path):
    """A copy of the model that comes with the package, without the files that are not looked at."""
    names = [folders.METADATA_FILE, folders.KERAS_FILE, *folders.OPENVINO_FILES]
    for name in names:
        if (folders.WEIGHTS_FOLDER / folders.SHIPPED / name).exists():
            shutil.copy(folders.WEIGHTS_FOLDER / folders.SHIPPED / name, tmp_path / name)
    return tmp_path


def change(folder, **fields):
    """The metadata with other values, and the fingerprint that fits them."""
    path = folder / folders.METADATA_FILE
    content = json.loads(path.read_text()) | fields
    identity = {
        name: content[name] for name in ("format_version", "labels", "preprocessing", "files")
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    content["fingerprint"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(content))
    return content


def test_a_sound_folder(folder):
    """As it is, and with metadata that only its fingerprint tells from the original's."""
    labels = folders.load(str(folder)).metadata.labels
    change(folder)
    assert folders.load(str(folder)).metadata.labels == labels


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"labels": ["one"]}, "labels or files are missing"),
        ({"labels": []}, "labels or files are missing"),
        ({"labels": [1, 2]}, "is damaged"),
        ({"labels": ["\ud800", "b"]}, "is damaged"),
        ({"files": {}}, "labels or files are missing"),
        ({"format_version": 1 << 64}, "format version is"),
        (
            {"preprocessing": {"height": 1 << 31, "width": 9, "resize": "crop", "version": 1}},
            "4096",
        ),
        ({"preprocessing": {"height": 0, "width": 9, "resize": "crop", "version": 1}}, "4096"),
    ],
    ids=str,
)
def test_metadata_that_is_none(folder, fields, said):
    """Refused in one line, whatever fingerprint it has."""
    change(folder, **fields)
    with pytest.raises(CatdogError, match=said):
        folders.load(str(folder))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "x.py", "model.keras/x"])
def test_a_file_that_no_model_has_is_not_read(folder, name):
    """Metadata names the files that a folder may have, and no others."""
    content = json.loads((folder / folders.METADATA_FILE).read_text())
    change(folder, files=content["files"] | {name: "0" * 64})
    with pytest.raises(CatdogError, match="names an unknown file"):
        folders.load(str(folder))


def test_metadata_larger_than_any_is_not_read(folder):
    """A file of 65 MiB in its place is refused by its size."""
    with (folder / folders.METADATA_FILE).open("r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(CatdogError, match="more than 67,108,864 bytes"):
        folders.load(str(folder))


def test_a_network_larger_than_any_is_not_read(folder, monkeypatch):
    """Nor is a network beyond the limit."""
    monkeypatch.setattr(folders, "_MAX_FILE_BYTES", 1000)
    with pytest.raises(CatdogError, match="more than 1,000 bytes"):
        folders.load(str(folder))


@pytest.mark.parametrize("parts", [(-0.1, 0.1), (0.1, -0.1), (1, 0), (0, 1), (1e300, 0), (None, 0)])
def test_parts_of_the_data_are_shares_of_it(folder, parts):
    """A test part of all images, or of less than none, is no record of a split."""
    validation, test = parts
    change(folder, training={"recipe": {"validation": validation, "test": test}})
    metadata = folders.load(str(folder)).metadata
    with pytest.raises(CatdogError, match="does not record how its data was split"):
        metadata.parts  # noqa: B018 - reading it raises


@pytest.mark.parametrize("name", folders.OPENVINO_FILES)
def test_files_have_the_digests_that_are_recorded(folder, name):
    """One byte more, and the file is named."""
    with (folder / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CatdogError, match=f"{name} is not the file that metadata.json names"):
        folders.load(str(folder))
