"""What lies beside photos and is none: sidecars, system folders, markers, links; counted, never a row."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile

import pytest

from catdog import storage
from catdog.inputs import Skips, SourceLimits, list_images

SIDECARS = [
    "1.xmp",
    "1.jpg.xmp",
    "IMG_1.AAE",
    "clip.THM",
    "1.jpg.pp3",
    "1.dop",
    "1.acr",
    "1.CTG",
    "1.gpx",
]
SYSTEM_FILES = [
    "Icon\r",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "Picasa.ini",
    "ZbThumbnail.info",
    "1.jpg:Zone.Identifier",
    "1.jpg@SynoEAStream",
    "1.jpg@SynoResource",
]
SYSTEM_FOLDERS = [
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "$Recycle.Bin",
    "System Volume Information",
    "lost+found",
    "FOUND.000",
    "~snapshot",
    "Network Trash Folder",
    "Temporary Items",
    "@__thumb",
    "Lightroom Previews.lrdata",
    "RECYCLED",
    "_temporary",
    "LOST.DIR",
    "THMBNL",
    "CaptureOne/Cache",
    "My.photoslibrary/resources",
    "Old.aplibrary/Thumbnails",
]


def planned(*inputs):
    """URIs, relative names and labels in order, and what was passed over by kind."""
    skips = Skips()
    batches = list(list_images([str(each) for each in inputs], SourceLimits(), skips=skips))
    rows = [row for batch in batches for row in batch.to_pylist()]
    return [(row["name"], row["label"]) for row in rows], skips.counts()


def write(folder, name, data=b"x"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def photos(tmp_path):
    """Two classes with a photo each, and everything else beside them."""
    folder = tmp_path / "photos"
    for label in ("cat", "dog"):
        write(folder, f"{label}/1.jpg")
        for name in (*SIDECARS, *SYSTEM_FILES):
            write(folder, f"{label}/{name}")
        for name in SYSTEM_FOLDERS:
            write(folder, f"{label}/{name}/1.jpg")
            write(folder, f"{name}/deep/er/2.jpg")
    return folder


RIGHT = [("cat/1.jpg", "cat"), ("dog/1.jpg", "dog")]
FILES = {"sidecars": 2 * len(SIDECARS), "system files": 2 * len(SYSTEM_FILES)}


def test_in_folders(photos):
    """Two classes, two photos; each folder that a system made counts once."""
    rows, counts = planned(photos)
    assert rows == RIGHT
    assert counts == FILES | {"system folders": 3 * len(SYSTEM_FOLDERS)}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_in_archives(photos, tmp_path, kind):
    """The same of members; each file in such a folder counts."""
    archive = shutil.make_archive(str(tmp_path / "packed"), kind, photos)
    rows, counts = planned(archive)
    assert sorted(rows) == RIGHT
    assert counts == FILES | {"files in system folders": 3 * len(SYSTEM_FOLDERS)}


def test_in_buckets(s3):
    """The same of keys."""
    for label in ("cat", "dog"):
        for name in ("1.jpg", "1.xmp", "Thumbs.db", "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg"):
            storage.write_atomic(f"{s3}/{label}/{name}", b"x")
    storage.write_atomic(f"{s3}/#recycle/1.jpg", b"x")
    rows, counts = planned(s3)
    assert rows == RIGHT
    assert counts == {"sidecars": 2, "system files": 2, "files in system folders": 3}


def test_a_system_folder_that_is_named_is_read(photos):
    """Who names one wants it."""
    assert planned(photos / "@eaDir")[0] == [("deep/er/2.jpg", "deep")]


@pytest.mark.parametrize(
    "name", ["eaDir/1.jpg", "recycle/1.jpg", "@eaDir.jpg", "lost+found.jpg", "x@eaDir/1.jpg"]
)
def test_names_like_these_are_images(tmp_path, name):
    """Only the whole name of a folder is a system's."""
    write(tmp_path, name)
    assert [each for each, _ in planned(tmp_path)[0]] == [name]


@pytest.mark.parametrize("place", ["a/loop", "a/loop.jpg", "loop", "deep/er/loop"])
def test_a_link_to_itself_costs_a_row(tmp_path, place):
    """Its neighbours are planned, wherever it lies."""
    for name in ("a/1.jpg", "b/sub/2.jpg", "b/3.jpg", "deep/er/4.jpg"):
        write(tmp_path, name)
    (tmp_path / place).symlink_to(place.rpartition("/")[2])
    rows, _ = planned(tmp_path)
    assert sorted(name for name, _ in rows) == sorted(
        ["a/1.jpg", "b/sub/2.jpg", "b/3.jpg", "deep/er/4.jpg", place]
    )


def test_links_in_a_circle_end(tmp_path):
    """Two links that lead to each other, and one to the folder above, are no images twice."""
    write(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "one").symlink_to("two")
    (tmp_path / "a" / "two").symlink_to("one")
    (tmp_path / "a" / "up").symlink_to("..")
    rows, counts = planned(tmp_path)
    assert sorted(name for name, _ in rows) == ["a/1.jpg", "a/one", "a/two"]
    assert counts == {"folder that is there already": 1}


def test_markers_of_folders(s3):
    """Empty keys that stand for folders are none of the images, at any depth; other empty keys are."""
    for key in ("cat/1.jpg", "dog/1.jpg", "deep/er/still/1.jpg"):
        storage.write_atomic(f"{s3}/{key}", b"x")
    for key in ("cat_$folder$", "cat", "deep/er_$folder$", "deep/er", "deep/er/still"):
        storage.write_atomic(f"{s3}/{key}", b"")
    for key in ("deep/er-1.jpg", "deep/er.jpg", "dog/empty.jpg"):  # sorted between the two
        storage.write_atomic(f"{s3}/{key}", b"" if "empty" in key else b"x")
    rows, counts = planned(s3)
    names = ["cat/1.jpg", "deep/er-1.jpg", "deep/er.jpg", "deep/er/still/1.jpg", "dog/1.jpg"]
    assert sorted(name for name, _ in rows) == [*names, "dog/empty.jpg"]
    assert counts == {"folder markers": 5}


def test_an_object_with_keys_below_it_is_an_image(s3):
    """A key that is an object with bytes and a prefix, too, is read as what it is."""
    storage.write_atomic(f"{s3}/photos/a.jpg", b"x")
    storage.write_atomic(f"{s3}/photos/a.jpg/1.jpg", b"x")
    assert sorted(name for name, _ in planned(f"{s3}/photos/")[0]) == ["a.jpg", "a.jpg/1.jpg"]


def test_members_that_links_stand_for(tmp_path):
    """In a tar, a directory entry and a link are no images and no rows without a reason."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        folder = tarfile.TarInfo("@eaDir")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        photo = tarfile.TarInfo("cat/1.jpg")
        photo.size = 1
        tar.addfile(photo, io.BytesIO(b"x"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("@eaDir/", b"")
        archive.writestr("cat/1.jpg", b"x")
    for name in ("x.tar", "x.zip"):
        assert planned(tmp_path / name)[0] == [("cat/1.jpg", "cat")]


def test_texts_without_an_extension(tmp_path):
    """What data sets have beside their images; a photo whose name has no extension is one."""
    for name in ("cat/1", "cat/2.jpg", "README", "cat/LICENSE", "cat/SHA256SUMS", "readme.jpg"):
        write(tmp_path, name)
    assert planned(tmp_path) == (
        [("cat/1", "cat"), ("cat/2.jpg", "cat"), ("readme.jpg", None)],
        {"texts": 3},
    )


def test_the_originals_of_a_photo_library_are_photos(tmp_path):
    """Beside them lie previews, faces and edited copies of the same photos."""
    names = ("originals/A/1.jpg", "resources/derivatives/1.jpg", "Thumbnails/1.jpg", "2.jpg")
    for name in names:
        write(tmp_path, f"My.photoslibrary/{name}")
    found, passed_over = planned(tmp_path)
    assert [name for name, _ in found] == [
        "My.photoslibrary/2.jpg",
        "My.photoslibrary/originals/A/1.jpg",
    ]
    assert passed_over == {"system folders": 2}
