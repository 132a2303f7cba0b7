"""Names that fsspec's own forms cannot hold: the URI in a plan opens all the same."""

from __future__ import annotations

import gzip
import io
import tarfile
import tomllib
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images, read_images
from catdog.storage import odd_names

LIMITS = SourceLimits()
ODD = [
    *(
        "a::b.jpg",
        "/e.jpg",
        "//f.jpg",
        "::i.jpg",
        "x/::/y.jpg",
        "%2F!.jpg",
        "猫::1.jpg",
        "a!::!b%20.jpg",
    ),
    *(
        "x//d.jpg",
        "a?b#c%20.jpg",
        "*.jpg",
        "[1].jpg",
        "a:b.jpg",
        "s3:/b.jpg",
        " s.jpg ",
        "zip:x.jpg",
    ),
]
PLAIN = "plain/1.jpg"
fsspec.register_implementation("catdog", odd_names.OddNameFileSystem, clobber=True)


def planned(*inputs):
    batches = list_images([str(each) for each in inputs], LIMITS)
    return pa.Table.from_batches(batches, PLAN_SCHEMA)


def read(table):
    return list(read_images(table, LIMITS, threads=2))


def opened(table):
    """What fsspec reads under each URI."""
    contents = []
    for uri in table["uri"].to_pylist():
        with fsspec.open(uri) as file:
            contents.append(file.read())
    return contents


def tar_of(files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def zip_of(files, own):
    """A zip of files whose own headers have other names, of the same length."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    content = stream.getvalue()
    for name, other in own.items():
        assert len(name) == len(other)
        content = content.replace(name, other, 1)  # the directory comes later
    return content


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (["cat/0.jpg", "cat/1.jpg"], {b"cat/0.jpg": b"dog/0.jpg", b"cat/1.jpg": b"dog/1.jpg"}),
        (["cat/0.jpg", "cat/ä.jpg"], {"cat/ä.jpg".encode(): b"cat/\x84_.jpg"}),
        (["cat/0.jpg", "cat/\\1.jpg"], {b"cat/\\1.jpg": b"cat//1.jpg"}),
    ],
)
def test_names_that_a_zips_headers_give_otherwise(tmp_path, names, own):
    """Some programs spell names in the directory otherwise: it counts, and each URI opens."""
    files = {name: name.encode() for name in names}
    (tmp_path / "a.zip").write_bytes(zip_of(files, own))
    table = planned(tmp_path / "a.zip")
    assert read(table) == opened(table) == list(files.values())
    assert table["label"].to_pylist() == ["cat", "cat"]


def test_one_name_that_its_header_gives_otherwise(tmp_path):
    """A member that zipfile refuses for that alone is `unreadable`, and costs no other one."""
    files = {f"cat/{i}.jpg": b"x" for i in range(3)}
    (tmp_path / "a.zip").write_bytes(zip_of(files, {b"cat/1.jpg": b"cat/2.jpg"}))
    first, wrong, last = read(planned(tmp_path / "a.zip"))
    assert (first, wrong.code.value, last) == (b"x", "unreadable", b"x")
    listed = tmp_path / "l.txt"  # likewise where a list names it
    listed.write_text("zip://cat/1.jpg::a.zip\n")
    assert [each.code.value for each in read(planned(listed))] == ["unreadable"]


@pytest.mark.parametrize(
    "kind", ["a.zip", "a.tar", "a.tar.gz", "o::dd.zip", "o::dd.tar", "o::dd.tgz"]
)
def test_members(tmp_path, kind):
    """With `::` in a member's or an archive's name, or `/` before it: fsspec opens the same bytes."""
    files = {name: name.encode() for name in [*ODD, PLAIN]}
    path = tmp_path / kind
    if kind.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        path.write_bytes(tar_of(files) if kind.endswith(".tar") else gzip.compress(tar_of(files)))
    table = planned(path)
    assert read(table) == opened(table) == list(files.values())
    plain = table["uri"].to_pylist()[-1]
    assert plain.startswith("catdog://") == ("::" in kind)
    (tmp_path / "l.txt").write_text("".join(f'"{uri}"\n' for uri in table["uri"].to_pylist()))
    again = planned(tmp_path / "l.txt")
    assert again["uri"].equals(table["uri"])
    assert read(again) == read(table)
    assert read(planned(*table["uri"].to_pylist())) == read(table)


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz"])
def test_members_of_joined_tars(tmp_path, kind):
    """Tarfile ends at the first end mark; the later tars' members open as well."""
    parts = [{f"{part}/{i}.jpg": b"%d%d" % (part, i) for i in range(3)} for part in range(3)]
    data = b"".join(map(tar_of, parts))
    (tmp_path / kind).write_bytes(data if kind == "a.tar" else gzip.compress(data))
    table = planned(tmp_path / kind)
    assert read(table) == opened(table) == [data for part in parts for data in part.values()]
    assert [uri[:6] for uri in table["uri"].to_pylist()] == ["tar://"] * 3 + ["catdog"] * 6


def test_files(tmp_path):
    """Plain files, alone, in a folder with such a name, by a list and by their own URIs."""
    names = ["a::b.jpg", "x::y/c.jpg", "x::y/d.jpg", "z.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    table = planned(tmp_path)
    assert table["name"].to_pylist() == names
    assert table["label"].to_pylist() == [None, "x::y", "x::y", None]
    assert read(table) == opened(table) == [name.encode() for name in names]
    (tmp_path / "l.txt").write_text("\n".join([*table["uri"].to_pylist(), *names]))
    assert planned(tmp_path / "l.txt")["uri"].equals(table["uri"])
    assert read(planned(*table["uri"].to_pylist())) == read(table)


@pytest.mark.parametrize(
    "uri",
    [
        "catdog://",
        "catdog://!",
        "catdog://a!",
        "catdog://x",
        "catdog://%ff!%ff",
        "catdog://a!zip://b",
    ],
)
def test_what_leads_nowhere(tmp_path, uri):
    """A URI of this form that names nothing is a row with an error in a list."""
    (tmp_path / "z.jpg").write_bytes(b"z")
    (tmp_path / "l.txt").write_text(f"{uri}\nz.jpg\n")
    table = planned(tmp_path / "l.txt")
    assert table["name"].to_pylist()[-1] == "z.jpg"
    assert not isinstance(read(table)[0], bytes)
    assert read(table)[-1] == b"z"


def test_fsspec_knows_the_scheme():
    """The entry point in pyproject.toml is the class."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    entry = tomllib.loads(text)["project"]["entry-points"]["fsspec.specs"]["catdog"]
    assert entry == f"{odd_names.__name__}:{odd_names.OddNameFileSystem.__name__}"
