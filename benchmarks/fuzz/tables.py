"""Lists and tables as strangers write them: text, CSV, JSON Lines, Parquet."""

from __future__ import annotations

import functools
import io
import json
import struct
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz import thrift
from benchmarks.fuzz.archives import compressed
from benchmarks.fuzz.mutation import damage, odd_json, splice

if TYPE_CHECKING:
    import random

_TEXT = (
    *(b"", b"\0", b"\xff", b'"', b"'", b",", b";", b"\t", b"\r", b"\n", b"\\", b"::", b"..", b"{"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"uri,uri\n", b"label", b"bytes", b"x" * 70_000, b"*", b"?"),
    *(b"zip://a.jpg::a.zip", b"zip://a::b", b"tar://::", b"catdog://a!b", b"catdog://%ff!"),
    *(b"parquet://0::t.parquet", b"parquet://99999999999999999::t.parquet", b"parquet://1e3::t"),
    *(b"a.zip\n", b"t.parquet\n", b"folder/\n", b"case.txt\n", b"s3://a:b/c@d", b"file://"),
    *(b"C:\\a.jpg", b"null", b"[1]", b"1e999", b"9" * 5000, b"\xed\xa0\x80", b"\xf4\x90\x80\x80"),
    *(b'"\n' * 3, b"sep=;\n", b"#", b"[" * 5000, b'{"uri":' * 2000),
)


def list_file(chance: random.Random, _: bytes) -> bytes:
    """A list of paths and URIs."""
    return _encoded(splice(b"sound.jpg\n# note\nnone.jpg\na.zip\n", chance, _TEXT), chance)


def csv_file(chance: random.Random, _: bytes) -> bytes:
    """A table in CSV."""
    text = b"uri,label\nsound.jpg,cat\nnone.jpg,dog\n"
    return _encoded(splice(text, chance, _TEXT), chance)


def compressed_csv_file(chance: random.Random, sound: bytes) -> bytes:
    """The same in gzip."""
    return compressed(csv_file(chance, sound), chance)


def json_file(chance: random.Random, _: bytes) -> bytes:
    """A table in JSON Lines."""
    rows: list[Any] = [{"uri": "sound.jpg", "label": "cat"}, {"uri": "none.jpg", "label": 3}]
    if chance.random() < 0.5:
        rows = [odd_json(row, chance) for row in rows]
        text = "\n".join(json.dumps(row) for row in rows).encode()
        return _encoded(text, chance)
    text = b'{"uri": "sound.jpg", "label": "cat"}\n{"uri": "none.jpg"}\n'
    return _encoded(splice(text, chance, _TEXT), chance)


def _encoded(text: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        encoding = chance.choice(("utf-16", "utf-16-le", "utf-32"))
        text = text.decode("latin-1").encode(encoding)
    return damage(text, chance, times=1) if chance.random() < 0.1 else text


def parquet_file(chance: random.Random, sound: bytes) -> bytes:
    """A table in Parquet, numbers of its footer or of its pages' headers changed."""
    columns = _columns(sound)
    names = chance.sample(list(columns), chance.randrange(1, 5)) + ["uri"] * (chance.random() < 0.1)
    table = pa.Table.from_arrays([chance.choice(columns[name]) for name in names], names)
    stream = io.BytesIO()
    pq.write_table(
        table,
        stream,
        compression=chance.choice(("none", "none", "zstd", "snappy", "gzip")),
        use_dictionary=chance.random() < 0.5,
        row_group_size=chance.choice((1, 2, 100)),
        data_page_version=chance.choice(("1.0", "2.0")),
        write_page_index=chance.random() < 0.3,
        store_schema=chance.random() < 0.7,
    )
    return damaged_parquet(stream.getvalue(), chance)


@functools.cache
def _columns(sound: bytes) -> dict[str, list[pa.Array[Any]]]:
    """Arrays that a column of a name may have."""
    text = pa.array(["sound.jpg", "none.jpg", None])
    image = pa.array(
        [{"bytes": sound, "path": "a.jpg"}, {"bytes": None, "path": "sound.jpg"}, None]
    )
    nothing = pa.array([{"bytes": None, "path": "sound.jpg"}] * 3, image.type)
    columns: dict[str, list[pa.Array[Any]]] = {
        "uri": [text, text.cast(pa.binary()), text.dictionary_encode(), pa.nulls(3)],
        "label": [
            text,
            pa.array([1, 2, 3]),
            pa.array([b"\xff", b"", None]),
            text.cast("large_utf8"),
            pa.array([True, False, None]),
            pa.array([["a"], [], None]),
        ],
        "bytes": [pa.array([sound, b"", None]), pa.array([[1], [], None]), pa.array([1.5, 2, 3])],
        "name": [text, pa.array([1, 2, 3])],
    }
    columns["image"] = [image, nothing, *columns["bytes"], text]
    return columns


def damaged_parquet(data: bytes, chance: random.Random) -> bytes:
    """A Parquet file with other numbers in its footer, its page headers, or damage anywhere."""
    for _ in range(chance.choice((0, 1, 1, 2))):
        footer_at = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
        where = chance.random()
        try:
            if where < 0.6:
                footer = thrift.mutated(data[footer_at:-8], 0, chance)
                data = data[:footer_at] + footer + struct.pack("<I", len(footer)) + data[-4:]
            elif where < 0.8:
                data = thrift.mutated(data, 4, chance)  # of the first page
            else:
                changed = bytearray(data)
                changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                data = bytes(changed)
        except (ValueError, IndexError):
            return data  # damaged already
    return damage(data, chance) if chance.random() < 0.05 else data
