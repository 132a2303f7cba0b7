"""Archives, kind and hostile, against Python's own tarfile and zipfile."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib
from typing import TYPE_CHECKING

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected
from catdog.inputs import PLAN_SCHEMA, SourceLimits, archives, list_images, read_images
from catdog.inputs.archives import windows
from catdog.storage import odd_names
from catdog.training.labelled import list_labelled
from tests.inputs.pipes import Unseekable

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = SourceLimits()


def planned(*inputs: object, limits: SourceLimits = LIMITS) -> pa.Table:
    return pa.Table.from_batches(list_images([str(i) for i in inputs], limits), PLAN_SCHEMA)


def contents(table: pa.Table, limits: SourceLimits = LIMITS) -> dict[str, bytes | str]:
    """What each URI gives: its bytes, or the reason code."""
    results = read_images(table, limits, threads=4)
    return {
        uri: result if isinstance(result, bytes) else result.code.value
        for uri, result in zip(table["uri"].to_pylist(), results, strict=True)
    }


def write_archive(path: Path, files: list[tuple[str, bytes]], tar_format: int = 1) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as z, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # duplicate names
            for at, (name, data) in enumerate(files):
                z.writestr(name, data, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[at % 2])
    else:
        mode = "w" if path.suffix == ".tar" else "w:gz"
        with tarfile.open(path, mode, format=tar_format) as t:
            for name, data in files:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))


# Installed, the entry point does that; a source tree in front of another installation does not.
fsspec.register_implementation("catdog", odd_names.OddNameFileSystem, clobber=True)

KINDS = ["a.tar", "a.tar.gz", "a.tgz", "a.zip"]

part = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\\:"), min_size=1
).filter(lambda p: not p.startswith(".") and p != "__MACOSX")
names = st.lists(part, min_size=1, max_size=4).map(lambda parts: "/".join(parts) + ".jpg")


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(st.tuples(names, st.binary(min_size=1, max_size=3000)), min_size=1, max_size=12),
    kind=st.sampled_from(KINDS),
    tar_format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_goes_in_comes_out(tmp_path_factory, files, kind, tar_format):
    """Every member of any archive is planned once under its true name, and read back exactly.

    Of members with one name the last counts, as when unpacking.
    """
    path = tmp_path_factory.mktemp("archive") / kind
    write_archive(path, files, tar_format)
    table = planned(path)
    scheme = "zip" if kind.endswith("zip") else "tar"
    expected = {storage.member_uri(scheme, n, f"file://{path}"): d for n, d in files}
    assert contents(table) == expected
    assert table.num_rows == len({n for n, _ in files})
    sizes = [len(expected[uri]) for uri in table["uri"].to_pylist()]
    assert table["size"].to_pylist() == sizes


@pytest.mark.parametrize("kind", KINDS)
def test_fsspec_opens_every_chained_uri(tmp_path, kind):
    """`fsspec.open` of a member's URI gives the bytes that were read."""
    names = ["a/1.jpg", "./b/2.jpg", "sp ace/ü #?%20+.jpg", "../up.jpg", "日本.jpg", "n" * 200]
    path = tmp_path / kind
    write_archive(path, [(name, name.encode()) for name in names])
    read = contents(planned(path))
    assert sorted(read.values()) == sorted(name.encode() for name in names)
    for uri, data in read.items():
        with fsspec.open(uri) as file:
            assert file.read() == data


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_labels(tmp_path, kind):
    """The label is the first folder; hidden members, folders and other files are no images."""
    files = ["./cat/1.jpg", "dog/deep/2.jpg", "3.jpg", "__MACOSX/cat/1.jpg", "cat/.x.jpg"]
    files += ["cat/notes.txt", ".git/x.jpg", "cat/mystery", "../out/4.jpg", "/root/5.jpg"]
    path = tmp_path / kind
    write_archive(path, [(name, b"x") for name in files])
    if kind == "a.zip":
        with zipfile.ZipFile(path, "a") as z:
            z.writestr("dog/", b"")
    rows = planned(path).select(["name", "label"]).to_pylist()
    assert [(row["name"], row["label"]) for row in rows] == [
        ("cat/1.jpg", "cat"),
        ("dog/deep/2.jpg", "dog"),
        ("3.jpg", None),
        ("cat/mystery", "cat"),
        ("../out/4.jpg", None),
        ("root/5.jpg", "root"),
    ]


def names_and_labels(*inputs: object) -> list[tuple[str, str | None]]:
    table = planned(*inputs)
    return list(zip(table["name"].to_pylist(), table["label"].to_pylist(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapper", ["photos/", "./deep/in side/"])
def test_a_folder_around_everything_is_no_class(tmp_path, kind, wrapper):
    """A zipped data set has the names, labels and so the parts of the folder that was zipped."""
    files = ["cat/1.jpg", "cat/nested/2.jpg", "dog/3.jpg"]
    other = [wrapper + "README.md", wrapper + ".DS_Store", "__MACOSX/x.jpg", "LICENSE.txt"]
    path = tmp_path / kind
    write_archive(path, [(name, b"x") for name in [*other, *(wrapper + name for name in files)]])
    expected = [("cat/1.jpg", "cat"), ("cat/nested/2.jpg", "cat"), ("dog/3.jpg", "dog")]
    assert names_and_labels(path) == expected
    assert list_labelled([str(path)], LIMITS, validation=0.5, test=0.0).labels == ("cat", "dog")
    # By the chained form, too, and as part of a folder.
    (tmp_path / "list.txt").write_text("\n".join(planned(path)["uri"].to_pylist()))
    assert names_and_labels(tmp_path / "list.txt") == expected
    assert planned(tmp_path / "list.txt")["uri"].equals(planned(path)["uri"])
    (tmp_path / "data" / "sub").mkdir(parents=True)
    path.rename(tmp_path / "data" / "sub" / kind)
    below = [(f"sub/{name}", "sub") for name in files]
    assert names_and_labels(tmp_path / "data") == below


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("files", "labels"),
    [
        (["cat/1.jpg", "cat/2.jpg"], ["cat", "cat"]),
        (["cat/1.jpg", "cat/more/2.jpg", "cat/less/3.jpg"], ["cat"] * 3),
        (["a/cat/1.jpg", "a/dog/2.jpg", "b/cat/3.jpg"], ["a", "a", "b"]),
        (["a/cat/1.jpg", "a/dog/2.jpg", "3.jpg"], ["a", "a", None]),
        (["../x/cat/1.jpg", "../x/dog/2.jpg"], [None, None]),
    ],
)
def test_a_class_is_no_wrapper(tmp_path, kind, files, labels):
    """What holds images itself, or is one of several, keeps its name; `cat.zip` is all cats."""
    path = tmp_path / kind
    write_archive(path, [(name, b"x") for name in files])
    assert planned(path)["label"].to_pylist() == labels


@pytest.mark.parametrize("kind", KINDS)
def test_archives_in_archives_are_one_row(tmp_path, kind):
    """A nested archive costs one row, and its neighbours nothing."""
    path = tmp_path / kind
    write_archive(path, [("1.jpg", b"x"), ("in.zip", b"PK"), ("in.tar.xz", b"y"), ("2.jpg", b"z")])
    assert sorted(contents(planned(path)).values(), key=str) == [b"x", b"z", *["unsupported"] * 2]


@pytest.mark.parametrize("kind", KINDS)
def test_cut_archives_give_what_is_whole(tmp_path, kind):
    """Cut anywhere, an archive gives whole members only, and says that it is cut."""
    files = [(f"cat/{i}.jpg", bytes([i]) * 700 * i) for i in range(1, 9)]
    whole = tmp_path / ("whole-" + kind)
    write_archive(whole, files)
    data = whole.read_bytes()
    end = len(data.rstrip(b"\0")) if kind == "a.tar" else len(data) - 1  # before its end mark
    scheme, uri_of = "zip" if kind == "a.zip" else "tar", f"file://{tmp_path / kind}"
    expected = {  # zipfile and tarfile read no archive that is cut
        storage.member_uri(scheme, name, uri_of, by_name=False): content for name, content in files
    }
    for cut in range(1, end, len(data) // 23):
        path = tmp_path / kind
        path.write_bytes(data[:cut])
        read = contents(planned(path))
        reason = read.pop(f"file://{path}")
        assert reason in {"truncated", "unreadable", "empty"}, cut
        if cut > 1000:
            assert reason == "truncated"
        for uri, content in read.items():
            assert content == expected[uri], (cut, uri)
    assert len(read) >= 6
    for uri, content in read.items():
        with fsspec.open(uri) as file:
            assert file.read() == content


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff not an archive" * 100, b"\0" * 5])
def test_no_archive_at_all_is_one_row(tmp_path, kind, content):
    """A file that only has an archive's name costs one row."""
    (tmp_path / kind).write_bytes(content)
    (tmp_path / "z.jpg").write_bytes(b"z")
    table = planned(tmp_path)
    reasons = {"empty"} if not content else {"unreadable"}
    assert set(table["error"].to_pylist()) == {None, *reasons}
    assert table.num_rows == 2


@pytest.mark.parametrize("kind", ["a.tar", "a.zip"])
@settings(max_examples=75, deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8))))
def test_damage_never_raises(tmp_path_factory, kind, damage):
    """Whatever bytes are overwritten, listing and reading end well, one result a row."""
    path = tmp_path_factory.mktemp("damaged") / kind
    write_archive(path, [(f"c/{i}.jpg", b"0123456789" * 40 * i) for i in range(1, 6)], 2)
    data = bytearray(path.read_bytes())
    for at, junk in damage:
        data[at % len(data) : at % len(data) + len(junk)] = junk
    path.write_bytes(data)
    with zipfile.ZipFile(path.with_name("b.zip"), "w") as z:  # so that there is an image
        z.writestr("x.jpg", b"x")
    table = planned(path.parent)
    assert len(contents(table)) == table.num_rows >= 1


def test_tar_specialties(tmp_path):
    """Long and odd names, sizes in base 256, sparse files, links and devices."""
    path = tmp_path / "a.tar"
    long_name = "/".join(["long" * 20] * 5) + ".jpg"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as t:
        for name, kind, data in (
            (long_name, tarfile.REGTYPE, b"long"),
            ("soft.jpg", tarfile.SYMTYPE, b""),
            ("hard.jpg", tarfile.LNKTYPE, b""),
            ("folder", tarfile.DIRTYPE, b""),
            ("pipe.jpg", tarfile.FIFOTYPE, b""),
            ("device.jpg", tarfile.CHRTYPE, b""),
            ("old.jpg", tarfile.AREGTYPE, b"old"),
            ("contiguous.jpg", tarfile.CONTTYPE, b"contiguous"),
            ("empty.jpg", tarfile.REGTYPE, b""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), long_name
            t.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("bad-\udcff\udcfe.jpg")
        info.size = 3
        t.addfile(info, io.BytesIO(b"bad"))
        sparse = tarfile.TarInfo("sparse.jpg")
        sparse.type = tarfile.GNUTYPE_SPARSE
        header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
        header[482] = 1  # one more block of the map follows
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        assert t.fileobj is not None
        t.fileobj.write(bytes(header) + b"\0" * 512)
        t.offset += 1024
        wide = tarfile.TarInfo("wide.jpg")
        wide.size = 4
        header = bytearray(wide.tobuf(tarfile.GNU_FORMAT))
        header[124:136] = b"\x80" + (4).to_bytes(11, "big")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        t.fileobj.write(bytes(header) + b"wide".ljust(512, b"\0"))
        t.offset += 1024
    table = planned(path)
    read = {uri.split("://", 1)[1].split("::")[0]: c for uri, c in contents(table).items()}
    assert read == {
        long_name: b"long",
        "soft.jpg": "unsupported",
        "hard.jpg": "unsupported",
        "old.jpg": b"old",
        "contiguous.jpg": b"contiguous",
        "empty.jpg": "empty",
        "bad-\N{REPLACEMENT CHARACTER}\\xff\N{REPLACEMENT CHARACTER}\\xfe.jpg": "unreadable",
        "sparse.jpg": "unsupported",
        "wide.jpg": b"wide",
    }


def joined(path: Path, parts: list[bytes]) -> None:
    path.write_bytes(b"".join(gzip.compress(p) if path.suffix == ".gz" else p for p in parts))


def tar_of(tmp_path: Path, names: list[str]) -> bytes:
    write_archive(tmp_path / "part.tar", [(name, name.encode()) for name in names])
    return (tmp_path / "part.tar").read_bytes()


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz"])
def test_joined_tars(tmp_path, kind):
    """Of tars joined end to end all members are read, however many zeros lie between."""
    parts = [tar_of(tmp_path, [f"{k}/{i}.jpg" for i in range(3)]) for k in range(3)]
    expected = [f"{k}/{i}.jpg".encode() for k in range(3) for i in range(3)]
    short = [part.rstrip(b"\0") for part in parts]
    short = [part + bytes(-len(part) % 512 + 512) for part in short]  # one zero block
    for way in (parts, short, [parts[0], bytes(1 << 20), *parts[1:]]):
        joined(tmp_path / kind, way)
        assert list(contents(planned(tmp_path / kind)).values()) == expected


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("junk", [b"\n", b"junk" * 500, b"\0" * 700 + b"x"])
def test_what_follows_a_tar_is_never_passed_over(tmp_path, kind, junk):
    """What is behind the end mark and no tar is a row; what comes before is read."""
    path = tmp_path / kind
    data = tar_of(tmp_path, ["1.jpg"]) + junk
    path.write_bytes(gzip.compress(data) if kind != "a.tar" else data)
    assert list(contents(planned(path)).values()) == [b"1.jpg", "unreadable"]


@pytest.mark.parametrize("junk", [b"\n", b"junk" * 500, b"\0" * 700 + b"x"])
def test_what_follows_a_gzip_stream_is_never_passed_over(tmp_path, junk):
    """What is no further stream is a row; zeros are padding."""
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar_of(tmp_path, ["1.jpg"])) + junk)
    assert list(contents(planned(path)).values()) == [b"1.jpg", "unreadable"]
    path.write_bytes(gzip.compress(tar_of(tmp_path, ["1.jpg"])) + bytes(700))
    assert list(contents(planned(path)).values()) == [b"1.jpg"]


def zip_of(names: list[str], content: str = "") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, content or name)
    return stream.getvalue()


def test_joined_zips(tmp_path):
    """Of zips joined end to end all members are read; of one name the last one counts."""
    path = tmp_path / "a.zip"
    parts = [zip_of([f"{k}/{i}.jpg" for i in range(3)]) for k in range(3)]
    path.write_bytes(b"".join(parts))
    expected = [f"{k}/{i}.jpg".encode() for k in range(3) for i in range(3)]
    table = planned(path)
    assert list(contents(table).values()) == expected
    for uri, content in zip(table["uri"].to_pylist(), expected, strict=True):
        with fsspec.open(uri) as file:
            assert file.read() == content
    path.write_bytes(parts[0] + zip_of(["0/1.jpg"], "later"))
    assert sorted(contents(planned(path)).values()) == [b"0/0.jpg", b"0/2.jpg", b"later"]


def test_joined_zips_with_damage(tmp_path):
    """A damaged one before another costs a row; so do more than any join."""
    path = tmp_path / "a.zip"
    first, second = zip_of(["1.jpg"]), zip_of(["2.jpg"])
    path.write_bytes(first[:-30] + second)
    assert list(contents(planned(path)).values()) == [b"1.jpg", b"2.jpg", "truncated"]
    path.write_bytes(first + second * 200)
    assert "too-large" in contents(planned(path)).values()
    path.write_bytes(b"#!/bin/sh\n" + second)
    assert list(contents(planned(path)).values()) == [b"2.jpg"]


def test_joined_tars_with_damage(tmp_path):
    """A cut or damaged tar behind another costs a row; endless zeros as well."""
    path = tmp_path / "a.tar"
    first, second = tar_of(tmp_path, ["1.jpg"]), tar_of(tmp_path, ["2.jpg"])
    joined(path, [first, second[:514]])
    assert list(contents(planned(path)).values()) == [b"1.jpg", "truncated"]
    joined(path, [first, b"3" + second[1:]])
    assert list(contents(planned(path)).values()) == [b"1.jpg", "unreadable"]
    joined(path, [first])
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    assert list(contents(planned(path)).values()) == [b"1.jpg", "too-large"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_path_is_one_image(tmp_path, kind):
    """Names that unpack to one file are one image, the last; the archive's own row stays."""
    path = tmp_path / kind
    files = [("./a.jpg", b"1"), ("a.jpg", b"2"), ("c//b.jpg", b"3"), ("c/./b.jpg", b"4")]
    write_archive(path, [*files, ("C/b.jpg", b"5"), (kind, b"6"), ("end.jpg", b"7")])
    assert [v for v in contents(planned(path)).values() if isinstance(v, bytes)] == [
        *(b"2", b"4", b"5", b"7"),
    ]
    limits = SourceLimits(max_archive_members=6)
    assert planned(path, limits=limits)["error"].to_pylist()[-2:] == ["unsupported", "too-large"]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_names_in_bytes_and_their_spelling_are_two(tmp_path, tar_format):
    """A name that is no UTF-8 has its own row beside the names that spell its bytes."""
    path = tmp_path / "a.tar"
    names = ["bad\udcff.jpg", r"bad\xff.jpg", "bad\N{REPLACEMENT CHARACTER}.jpg", "bad\udcfe.jpg"]
    with tarfile.open(path, "w", format=tar_format, errors="surrogateescape") as t:
        for at, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 1
            t.addfile(info, io.BytesIO(b"%d" % at))
    read = list(contents(planned(path)).values())
    assert read == ["unreadable", b"1", b"2", "unreadable"]


def test_a_zip_name_in_bytes_and_its_spelling_are_two(tmp_path):
    """In zips too, where the flag says UTF-8 of a name that is not."""
    path = tmp_path / "a.zip"
    write_archive(path, [("badXYZ!.jpg", b"1"), (r"bad\xff.jpg", b"2")])
    path.write_bytes(path.read_bytes().replace(b"badXYZ!", b"bad\xff\xff\xff!"))
    data = bytearray(path.read_bytes())
    data[data.find(b"PK\1\2") + 9] |= 8  # "UTF-8"
    path.write_bytes(data)
    assert list(contents(planned(path)).values()) == ["unreadable", b"2"]


def test_enormous_tar_headers_are_not_read(tmp_path):
    """A pax header that claims a terabyte is refused, and takes no memory."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    path = tmp_path / "a.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048)
    assert planned(path)["error"].to_pylist() == ["too-large"]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("left", [0, 1, 200])
def test_a_tar_cut_in_a_long_name_says_so(tmp_path, tar_format, left):
    """What names the next member is whole, or the archive is truncated there."""
    path = tmp_path / "a.tar"
    write_archive(path, [("1.jpg", b"1"), ("n" * 300 + ".jpg", b"2")], tar_format)
    path.write_bytes(path.read_bytes()[: 3 * 512 + left])  # within what follows its header
    row = planned(path).to_pylist()[-1]
    assert row["error"] == "truncated"
    assert row["error_detail"] == "The archive ends inside the header at byte 1,024."


@pytest.mark.parametrize("length", [b"4", b"0", b"-20", b"99999999999999999999"])
def test_a_pax_record_has_the_length_of_one(tmp_path, length):
    """Shorter than the least one, below nothing, or longer than its header: damage, not for ever."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 512
    path = tmp_path / "a.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + (length + b" a=b\n").ljust(512, b"\0"))
    assert planned(path)["error"].to_pylist() == ["unreadable"]


def test_zip_specialties(tmp_path):
    """Encrypted members, other methods, links, zip64, Windows paths and a program in front."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("good.jpg", b"good" * 99, zipfile.ZIP_DEFLATED)
        z.writestr("bz2.jpg", b"x" * 99, zipfile.ZIP_BZIP2)
        link = zipfile.ZipInfo("link.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        z.writestr(link, b"good.jpg")
        z.writestr("secret.jpg", b"secret")
        with z.open("wide.jpg", "w", force_zip64=True) as file:
            file.write(b"wide")
        z.writestr("windows\\cat\\1.jpg", b"cat")
        z.writestr("empty.jpg", b"")
        z.writestr(zipfile.ZipInfo("caf\xe9.jpg"), b"latin")
    data = bytearray(path.read_bytes())
    for at in (data.find(b"secret.jpg") - 30 + 6, data.rfind(b"secret.jpg") - 46 + 8):
        data[at] |= 1  # "encrypted"
    path.write_bytes(b"#!program" * 1000 + data)
    table = planned(path)
    read = {uri.split("://", 1)[1].split("::")[0]: c for uri, c in contents(table).items()}
    assert read == {
        "good.jpg": b"good" * 99,
        "bz2.jpg": "unsupported",
        "link.jpg": "unsupported",
        "secret.jpg": "unsupported",
        "wide.jpg": b"wide",
        "windows\\cat\\1.jpg": b"cat",
        "empty.jpg": "empty",
        "café.jpg": b"latin",
    }
    assert "windows/cat/1.jpg" in table["name"].to_pylist()


def test_streamed_zips(tmp_path):
    """Members whose sizes and checksums come after their data are read, and checked."""
    sink = Unseekable()
    with zipfile.ZipFile(sink, "w") as z:
        z.writestr("stored.jpg", b"stored" * 50)
        z.writestr("deflated.jpg", b"deflated" * 50, zipfile.ZIP_DEFLATED)
    path = tmp_path / "a.zip"
    path.write_bytes(sink.data)
    assert list(contents(planned(path)).values()) == [b"stored" * 50, b"deflated" * 50]
    path.write_bytes(sink.data.replace(b"storedstored", b"storeDstored"))
    assert list(contents(planned(path)).values()) == ["unreadable", b"deflated" * 50]


def test_streamed_zip64_is_read_and_checked(tmp_path):
    """Written to a pipe in zip64 form, stored and deflated members are read; damage is seen."""
    sink = Unseekable()
    with zipfile.ZipFile(sink, "w") as z:
        for name, method in (("stored.jpg", zipfile.ZIP_STORED), ("packed.jpg", 8), ("3.jpg", 0)):
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with z.open(info, "w", force_zip64=True) as file:
                file.write(name.encode() * 50)
    path = tmp_path / "a.zip"
    path.write_bytes(sink.data)
    right = [b"stored.jpg" * 50, b"packed.jpg" * 50, b"3.jpg" * 50]
    assert list(contents(planned(path)).values()) == right
    path.write_bytes(sink.data.replace(b"stored.jpgstored", b"stored.jpgstoreD", 1))
    assert list(contents(planned(path)).values()) == ["unreadable", *right[1:]]


def wide_zip(method: int, size: int, compressed: int, offset: int) -> bytes:
    """A sound member, and one whose directory entry claims these numbers in its zip64 field."""
    body = directory = b""
    for name, numbers in ((b"0.jpg", None), (b"1.jpg", (size, compressed, offset))):
        packed = zlib.compressobj(wbits=-15)
        data = packed.compress(name) + packed.flush() if numbers and method else name
        how = method if numbers else 0
        at, crc, n = len(body), zlib.crc32(name), len(name)
        fields = (45, 0, how, 0, 33, crc, len(data), n, n, 0)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + name + data
        extra = struct.pack("<2H3Q", 1, 24, *numbers) if numbers else b""
        claimed = [0xFFFFFFFF] * 3 if numbers else [n, n, at]
        fields = (45, 45, 0, how, 0, 33, crc, claimed[1], claimed[0], n, len(extra), 0, 0, 0, 0)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields, claimed[2]) + name + extra
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(directory), len(body), 0)
    return body + directory + end


HUGE = [1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("huge", HUGE)
@pytest.mark.parametrize("which", [0, 1, 2, slice(0, 2), slice(0, 3)])
def test_huge_numbers_in_a_zip_cost_one_member(tmp_path, method, huge, which):
    """Whatever a directory entry claims, its member is a row with an error, and others are read."""
    numbers = [5, 7 if method else 5, 40]  # size, compressed size, offset
    path = tmp_path / "a.zip"
    path.write_bytes(wide_zip(method, *numbers))
    assert list(contents(planned(path)).values()) == [b"0.jpg", b"1.jpg"]
    for at in range(3)[which] if isinstance(which, slice) else [which]:
        numbers[at] = huge
    path.write_bytes(wide_zip(method, *numbers))
    sound, broken = contents(planned(path)).values()
    assert sound == b"0.jpg"
    assert broken in {"truncated", "unreadable", "too-large"}


@pytest.mark.parametrize("huge", HUGE)
def test_a_huge_number_where_no_directory_is(tmp_path, huge):
    """Members found by their own headers have bounded numbers too."""
    fields = (45, 0, 8, 0, 33, 0, 0xFFFFFFFF, 0xFFFFFFFF, 5, 20)
    header = struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + b"1.jpg"
    path = tmp_path / "a.zip"
    path.write_bytes(header + struct.pack("<2H2Q", 1, 16, huge, 4) + b"data")
    member, archive = contents(planned(path)).values()
    assert (member, archive) == ("too-large", "truncated")


@pytest.mark.parametrize("huge", HUGE)
def test_a_zip64_directory_claimed_to_be_anywhere(tmp_path, huge):
    """A directory that is claimed to be out of the file, or a locator to it, costs no member."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("1.jpg", b"1")
    data = path.read_bytes()
    end = data.rfind(b"PK\5\6")
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, huge, 1)
    path.write_bytes(data[:end] + locator + data[end:])
    assert list(contents(planned(path)).values()) == [b"1", "unreadable"]
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, huge, huge)
    path.write_bytes(data[:end] + wide + locator + data[end:])
    assert list(contents(planned(path)).values()) == [b"1", "unreadable"]


class RawName(zipfile.ZipInfo):
    """A member whose name is written in these bytes, without the flag of UTF-8."""

    raw = b""

    def _encodeFilenameFlags(self):  # noqa: N802 - zipfile's
        return self.raw, 0


def raw_names_zip(path: Path, names: list[tuple[bytes, bytes]]) -> None:
    """A zip of members with these names and extra fields, whose data are the names."""
    with zipfile.ZipFile(path, "w") as z:
        for raw, extra in names:
            info = RawName(raw.decode("cp437"))
            info.raw, info.extra = raw, extra
            z.writestr(info, raw)


def unicode_path(name: str, raw: bytes, version: int = 1) -> bytes:
    """Info-ZIP's extra field: the true name, and the checksum of the one that it replaces."""
    body = bytes([version]) + struct.pack("<L", zlib.crc32(raw)) + name.encode()
    return struct.pack("<2H", 0x7075, len(body)) + body


@pytest.mark.parametrize("chained", [False, True])
def test_true_names_in_zips(tmp_path, chained):
    """UTF-8 without its flag and Info-ZIP's field give names and labels; fsspec opens the URIs."""
    names: list[tuple[bytes, bytes, str]] = [
        ("café/1.jpg".encode(), b"", "café"),  # Finder
        ("猫/2.jpg".encode(), b"", "猫"),
        (b"na?ve/3.jpg", unicode_path("naïve/3.jpg", b"na?ve/3.jpg"), "naïve"),
        ("猫/4.jpg".encode("cp932"), unicode_path("猫/4.jpg", "猫/4.jpg".encode("cp932")), "猫"),
        ("caf\xe9/5.jpg".encode("cp437"), b"", "café"),  # DOS
        (b"old/6.jpg", unicode_path("new/6.jpg", b"renamed since"), "old"),
        (b"old/7.jpg", unicode_path("new/7.jpg", b"old/7.jpg", version=2), "old"),
        (b"old/8.jpg", struct.pack("<2H", 0x7075, 3) + b"\1ab", "old"),
    ]
    path = tmp_path / "a.zip"
    raw_names_zip(path, [(raw, extra) for raw, extra, _ in names])
    table = planned(path)
    if chained:
        (tmp_path / "list.txt").write_text("\n".join(table["uri"].to_pylist()))
        table = planned(tmp_path / "list.txt")
    expected = [f"{label}/{at}.jpg" for at, (_, _, label) in enumerate(names, 1)]
    assert table["name"].to_pylist() == expected
    assert table["label"].to_pylist() == [label for _, _, label in names]
    for (uri, data), (raw, _, _) in zip(contents(table).items(), names, strict=True):
        assert data == raw
        with fsspec.open(uri) as file:
            assert file.read() == raw


def test_zip64_directories(tmp_path, monkeypatch):
    """The directory of a zip with more members than the plain format counts is found."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as z:
        for i in range(30):
            z.writestr(f"{i}.jpg", b"%d" % i)
        z.comment = b"with a comment"
    assert b"PK\6\6" in path.read_bytes()
    assert list(contents(planned(path)).values()) == [b"%d" % i for i in range(30)]


def test_zip_bombs(tmp_path):
    """Members over the limit, members that lie about their size, and shared bytes are rejected."""
    limits = SourceLimits(max_bytes=1 << 20)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("honest.jpg", bytes(2 << 20))
        z.writestr("liar.jpg", bytes(2 << 20))
        z.writestr("good.jpg", b"good")
    data = path.read_bytes()
    lie = data.rfind(b"liar.jpg") - 46 + 24
    path.write_bytes(data[:lie] + struct.pack("<L", 100) + data[lie + 4 :])
    read = contents(planned(path, limits=limits), limits)
    assert list(read.values()) == ["too-large", "unreadable", b"good"]

    # Two directory records for the same bytes.
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("one.jpg", b"1" * 1000)
        z.writestr("two.jpg", b"2" * 1000)
    data = path.read_bytes()
    second = data.rfind(b"two.jpg") - 46 + 42
    path.write_bytes(data[:second] + struct.pack("<L", 0) + data[second + 4 :])
    assert list(contents(planned(path)).values()) == [b"1" * 1000, "too-large"]


def test_gzip_bombs_end_early(tmp_path, monkeypatch):
    """A tar.gz that expands a thousandfold is left, with what was found before."""
    monkeypatch.setattr(windows, "BOMB_FLOOR_BYTES", 1 << 20)
    path = tmp_path / "a.tar.gz"
    write_archive(path, [("1.jpg", b"good"), ("2.jpg", bytes(30 << 20)), ("3.jpg", b"lost")])
    assert contents(planned(path)) == {
        f"tar://1.jpg::file://{path}": b"good",
        f"file://{path}": "too-large",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_member_limit(tmp_path, kind):
    """Members beyond the limit cost one row together."""
    path = tmp_path / kind
    write_archive(path, [(f"{i}.jpg", b"x") for i in range(10)])
    table = planned(path, limits=SourceLimits(max_archive_members=7))
    assert table["error"].to_pylist() == [None] * 7 + ["too-large"]


def test_gzip_in_several_streams(tmp_path):
    """A tar.gz made of several gzip streams, with zeros behind, is one archive."""
    tar = tmp_path / "a.tar"
    write_archive(tar, [(f"{i}.jpg", bytes([i]) * 5000) for i in range(5)])
    data = tar.read_bytes()
    parts = [gzip.compress(data[at : at + 3000]) for at in range(0, len(data), 3000)]
    path = tmp_path / "b.tar.gz"
    path.write_bytes(b"".join(parts) + b"\0" * 600)
    assert list(contents(planned(path)).values()) == [bytes([i]) * 5000 for i in range(5)]


def test_gzip_damage_spares_what_comes_before(tmp_path):
    """Reading a tar.gz that was damaged after planning rejects the members behind the damage."""
    path = tmp_path / "a.tar.gz"
    files = [(f"{i}.jpg", zlib.compress(bytes([i]) * 99) * 2000) for i in range(6)]
    write_archive(path, files)
    table = planned(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert set(contents(table).values()) == {"changed"}
    # The damage of a disk leaves size and time as they were.
    at = table.schema.get_field_index("stamp")
    stamps = pa.array([storage.stamp_of_status(path.stat())] * table.num_rows)
    values = list(contents(table.set_column(at, "stamp", stamps)).values())
    assert values[:2] == [data for _, data in files[:2]]
    assert values[-1] == "truncated"


def test_wrongly_named_compression_is_explained(tmp_path):
    """Compressed tars under a plain name are refused with a hint, not guessed at."""
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(b"x"))
    assert "name it .tar.gz" in planned(path)["error_detail"][0].as_py()
    path.write_bytes(bz2.compress(b"x" * 600))
    assert planned(path)["error"].to_pylist() == ["unreadable"]


def test_a_span_that_is_too_short_is_truncated():
    """`extract_zip_member` tells a span that ends early from damaged data."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x", bytes(range(256)))
    span = sink.getvalue()[: sink.getvalue().rfind(b"PK\1\2")]
    assert archives.extract_zip_member(span, 256) == bytes(range(256))
    with pytest.raises(ImageRejected) as caught:
        archives.extract_zip_member(span[:-20], 256)
    assert caught.value.code == ErrorCode.TRUNCATED


def test_a_member_is_expanded_to_its_claimed_size_only():
    """One that holds more than it claims costs no more memory than it claims, and is rejected for it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(32 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ImageRejected, match="larger than the 10 bytes"):
            archives.extract_zip_member(stream.getvalue(), 10)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def sealed(header: bytes) -> bytes:
    """A header of a tar with the checksum of what it holds."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def test_a_link_has_no_data_whatever_its_size(tmp_path):
    """The next member begins behind its header."""
    link, good = tarfile.TarInfo("l.jpg"), tarfile.TarInfo("a.jpg")
    link.type, link.size, good.size = tarfile.LNKTYPE, 512, 3
    path = tmp_path / "a.tar"
    path.write_bytes(link.tobuf() + good.tobuf() + b"abc".ljust(512, b"\0") + bytes(1024))
    assert contents(planned(path)) == {
        f"tar://l.jpg::file://{path}": "unsupported",
        f"tar://a.jpg::file://{path}": b"abc",
    }


@pytest.mark.parametrize("size", [b"0o0000000003", b"+00000000003", b"0_0000000003"])
def test_a_size_is_digits_alone(tmp_path, size):
    """What Python takes for a number besides is damage."""
    header = tarfile.TarInfo("a.jpg").tobuf()
    path = tmp_path / "a.tar"
    path.write_bytes(sealed(header[:124] + size + header[136:]) + bytes(2048))
    assert contents(planned(path)) == {f"file://{path}": "unreadable"}


def test_a_size_below_nothing_is_damage(tmp_path):
    """As pax records may spell it."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"size": "-512"}
        archive.addfile(info)
    assert contents(planned(path)) == {f"file://{path}": "unreadable"}


@pytest.mark.parametrize("flaw", ["name", "version", "extra", "path"])
def test_members_of_a_zip_that_zipfile_refuses_open(tmp_path, flaw):
    """One record that it does not understand costs it all members; their URIs open all the same."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.jpg", b"0")
        info = zipfile.ZipInfo("é.jpg" if flaw == "name" else "1.jpg")
        info.extract_version = 99 if flaw == "version" else 20
        # A field that claims more than there is; Info-ZIP's, with another name in it.
        named = struct.pack("<BI", 1, zlib.crc32(b"1.jpg")) + b"2.jpg"
        fields = {"extra": b"\x99\x99\xff\0", "path": b"\x75\x70\x0a\0" + named}
        info.extra = fields.get(flaw, b"")
        archive.writestr(info, b"1")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    found = contents(planned(path))
    assert list(found.values()) == [b"0", "unreadable" if flaw == "name" else b"1"]
    for uri, content in found.items():
        if isinstance(content, bytes):
            with fsspec.open(uri) as file:
                assert file.read() == content


def test_a_record_of_pax_that_claims_too_much_is_damage(tmp_path):
    """What stands behind it is another member's; the ones before open."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, size in (("0.jpg", 1), ("1.jpg", 2)):
            info = tarfile.TarInfo(name)
            info.size = size
            info.pax_headers = {"path": "x.jpg"} if size == 2 else {}
            archive.addfile(info, io.BytesIO(b"x" * size))
    path = tmp_path / "a.tar"
    path.write_bytes(stream.getvalue().replace(b"14 path=x.jpg\n", b"94 path=x.jpg\n"))
    found = contents(planned(path))
    assert list(found.values()) == [b"x", "unreadable"]
    with fsspec.open(next(iter(found))) as file:
        assert file.read() == b"x"


@pytest.mark.parametrize(("method", "name"), [(9, "deflate64"), (12, "bzip2"), (77, "method 77")])
def test_methods_of_compression_are_named(tmp_path, method, name):
    """A row for each member says what it is compressed with."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.jpg", b"0")
        archive.writestr("1.jpg", b"1")
        archive.getinfo("0.jpg").compress_type = method  # in the directory
    rows = planned(path).to_pylist()
    assert [row["error"] for row in rows] == ["unsupported", None]
    assert rows[0]["error_detail"] == f"It is compressed with {name}: only deflate is read."
