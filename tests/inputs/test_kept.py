"""Columns of the user's own tables go with their images."""

from __future__ import annotations

import datetime as dt
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import inputs
from catdog.errors import UserInputError
from catdog.inputs import KEPT, Columns, SourceLimits, kept

LIMITS = SourceLimits()


def listed(*given, keep, **columns):
    texts = [str(each) for each in given]
    kind = inputs.kept_type(texts, keep, LIMITS, Columns(**columns))
    batches = inputs.list_images(texts, LIMITS, Columns(**columns), once=False, keep=kind)
    return pa.Table.from_batches(batches)


@pytest.fixture
def table(tmp_path):
    """Two images and one of them again, with columns of several types."""
    day = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    columns = {
        "path": ["a.jpg", "b.jpg", "a.jpg"],
        "price": pa.array([1, None, 3], pa.int16()),
        "taken": pa.array([day, None, day], pa.timestamp("ns", "UTC")),
        "tags": pa.array([["x"], [], None], pa.list_(pa.string())),
        "kind": pa.array(["k", "k", None]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_columns_keep_their_types(table):
    """All but the one that names the images, each row with its own values, nulls among them."""
    found = listed(table, keep=["all"])
    kept = found[KEPT].combine_chunks()
    assert kept.type.field("taken").type == pa.timestamp("ns", "UTC")
    assert [field.name for field in kept.type] == ["price", "taken", "tags", "kind"]
    assert pa.Table.from_struct_array(kept).select(["price", "tags", "kind"]).to_pylist() == [
        {"price": 1, "tags": ["x"], "kind": "k"},
        {"price": None, "tags": [], "kind": "k"},
        {"price": 3, "tags": None, "kind": None},
    ]


def test_other_inputs_have_nulls(table, tmp_path):
    """A folder and a table without the column; a folder that a table names has the row's values."""
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "1.jpg").write_bytes(b"1")
    (tmp_path / "t.csv").write_text("uri,price\nsome/,\n")
    (tmp_path / "u.csv").write_text("uri,shelf,note\nsome/,7,x\nb.jpg\n")
    found = listed(tmp_path / "u.csv", tmp_path / "some", tmp_path / "t.csv", keep=["shelf"])
    assert found[KEPT].to_pylist() == [{"shelf": "7"}, {"shelf": None}, None, {"shelf": None}]


def test_values_of_json_lines(tmp_path):
    """Whole numbers and fractions are fractions; what one line lacks is null."""
    rows = [{"uri": "a.jpg", "n": 1, "ok": True}, {"uri": "b.jpg", "n": 1.5}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = listed(tmp_path / "t.jsonl", keep=["ok", "n"])[KEPT]
    assert found.type.field("n").type == pa.float64()
    assert found.to_pylist() == [{"n": 1.0, "ok": True}, {"n": 1.5, "ok": None}]


def test_tables_of_images(tmp_path):
    """Rows that hold the images themselves, found by a glob."""
    columns = {"bytes": [b"1", b"2"], "shelf": [4, 5]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = listed(tmp_path / "*.parquet", keep=["all"])
    assert found[KEPT].to_pylist() == [{"shelf": 4}, {"shelf": 5}]


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (["colour"], "--keep colour: no table among the inputs has such a column"),
        (["price"], "--keep price: is string in "),
    ],
)
def test_what_cannot_be_kept_is_said(table, tmp_path, keep, said):
    """A name that is in no table; one with another type in a second table."""
    (tmp_path / "t.csv").write_text("uri,price\na.jpg,4\n")
    with pytest.raises(UserInputError, match=said):
        listed(table, tmp_path / "t.csv", keep=keep)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
@pytest.mark.parametrize("place", ["named", "beside"])
def test_a_table_that_the_disk_does_not_give(tmp_path, name, place):
    """It is not called damaged, nor passed over: the message has the disk's words."""
    (tmp_path / name).symlink_to(name)  # leads nowhere but to itself, for root as well
    given = {
        "uris": [],
        "beside": [],
        place.replace("named", "uris"): [f"file://{tmp_path}/{name}"],
    }
    with pytest.raises(UserInputError, match=f"{name}: Too many levels of symbolic links"):
        kept.type_of_tables(given["uris"], ["all"], Columns(), LIMITS, beside=given["beside"])


def test_values_of_several_types_are_refused(tmp_path):
    """The line names the table and the column."""
    (tmp_path / "t.jsonl").write_text('{"uri": "a", "n": 1}\n{"uri": "b", "n": "x"}\n')
    with pytest.raises(UserInputError, match=r"t\.jsonl.*column n has values of several types"):
        listed(tmp_path / "t.jsonl", keep=["n"])
