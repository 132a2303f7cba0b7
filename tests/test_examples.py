"""The programs of examples/ run, and the package's names are where they say."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import catdog
from catdog.pixels import OUTCOME_SCHEMA
from catdog.results import part_files

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    """The names of an example, which it does not run when it is imported."""
    return runpy.run_path(str(EXAMPLES / name), run_name="example")


@pytest.fixture(scope="module")
def made(ray_cluster, tmp_path_factory):
    """The folder that `python_api.py` makes."""
    folder = tmp_path_factory.mktemp("example")
    load("python_api.py")["main"](
        ["--output", str(folder), "--drawings", "80", "--epochs", "1"],
    )
    return folder


@pytest.mark.slow
def test_python_api(made):
    """Training, classifying, evaluating and the page: each leaves what it promises."""
    assert (made / "run" / "model" / "metadata.json").is_file()
    assert (made / "evaluation" / "metrics.json").is_file()
    assert (made / "evaluation" / "report.html").stat().st_size > 10_000
    assert (made / "results" / "_report.html").stat().st_size > 10_000
    table = pq.read_table(made / "results")
    assert {"empty", "truncated", "not-an-image"} <= set(table["error"].to_pylist())


@pytest.mark.slow
def test_digits(ray_cluster, tmp_path, capsys):
    """Another recognition task, with fewer epochs than the documents state the accuracy of."""
    result = load("digits.py")["main"](str(tmp_path), epochs=4)
    assert len(result.labels) == 10
    assert result.accuracy > 0.5
    assert f"of {result.images} digits" in capsys.readouterr().out


@pytest.mark.slow
def test_tour(ray_cluster, tmp_path, monkeypatch):
    """Every cell of the notebook runs in a kernel, and shows its progress and what it found."""
    import nbclient
    import nbformat
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # committed without any
    client = nbclient.NotebookClient(
        notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = "\n".join(map(str, notebook.cells))
    assert re.search(r"epoch 4|starting 1 worker", shown)
    assert re.search(r"\d+ classified, \d+ rejected: {.*'truncated'", shown)
    assert "image/png" in shown
    assert (tmp_path / "tour" / "results" / "_report.html").is_file()


@pytest.mark.slow
def test_pipeline(ray_cluster, tmp_path):
    """The user's filter stands between reading and the model; small broken files are gone."""
    counts = load("pipeline.py")["main"](str(tmp_path), pictures=20)
    assert set(counts) <= {"cat", "dog", None}
    assert 10 < sum(counts.values()) <= 40


@pytest.mark.slow
def test_read_results(made, monkeypatch, capsys):
    """DuckDB, pandas and pyarrow read the results as one table, and say the same of it."""
    rows = pq.read_table(made / "results").num_rows
    monkeypatch.setattr(sys, "argv", ["read_results.py", str(made / "results")])
    load("read_results.py")["main"]()
    output = capsys.readouterr().out
    assert f"{rows} images in" in output
    assert "rejected: truncated" in output
    assert "for Spark: uri string, label string" in output


def test_results_are_in_types_that_spark_reads():
    """Every column has a type of Spark's; one that it lacks is noticed."""
    example = load("read_results.py")
    assert example["spark_schema"](part_files.SCHEMA) == (
        "uri string, label string, probability float, scores array<float>, width int, height int, "
        "format string, size bigint, error string, error_detail string, model string, "
        "source_uri string"
    )
    with pytest.raises(KeyError):
        example["spark_schema"](pa.schema([("count", pa.uint32())]))


def write_results(folder, sizes, embeddings=None, generation=1, unchanged=()):
    """Part files as a finished job has them, one for each size, but of those that are unchanged."""
    for number, size in enumerate(sizes):
        if number in unchanged:
            continue
        rows = part_files.build_rows(
            pa.chunked_array([[f"file:///{number}/{row}.jpg" for row in range(size)]]),
            pa.Table.from_pylist([{}] * size, OUTCOME_SCHEMA),
            np.tile(np.array([[0.25, 0.75]], np.float32), (size, 1)),
            None if embeddings is None else np.ones((size, embeddings), np.float16),
            labels=("cat", "dog"),
            min_probability=0.0,
            model="m",
        )
        folder.mkdir(exist_ok=True)
        stamp = {b"catdog": json.dumps({"revision": generation})}
        rows = rows.replace_schema_metadata((rows.schema.metadata or {}) | stamp)
        pq.write_table(rows, folder / f"part-{number:07d}-x.parquet")
    (folder / "_summary.json").write_text(json.dumps({"generation": generation}))


@pytest.mark.slow
def test_results_become_tables_without_a_copy(tmp_path):
    """Delta and Iceberg read the part files where they lie; a generation is one new version's increment."""
    import deltalake
    from pyiceberg.catalog.sql import SqlCatalog

    example = load("tables.py")
    results, warehouse = tmp_path / "results", tmp_path / "warehouse"
    write_results(results, [3, 4])
    before = example["to_delta"](str(results))
    first = example["to_iceberg"](str(results), str(warehouse))
    assert example["to_delta"](str(results)) == before  # nothing happened since
    assert example["to_iceberg"](str(results), str(warehouse)) == first
    catalogue = SqlCatalog("local", uri=f"sqlite:///{warehouse}/catalogue.db")
    for generation, sizes, unchanged, added, snapshots in (
        (2, [3, 4, 6], (0, 1), 1, 1),  # one new
        (3, [3, 5, 6, 2], (0, 2), 2, 2),  # one replaced, one new
    ):
        write_results(results, sizes, generation=generation, unchanged=unchanged)
        assert example["to_delta"](str(results)) == before + generation - 1
        table = deltalake.DeltaTable(str(results))
        assert len(table.file_uris()) == len(sizes)
        log = results / "_delta_log" / f"{table.version():020d}.json"
        assert sum('"add"' in line for line in log.read_text().splitlines()) == added
        read = table.to_pyarrow_table()
        assert (read.num_rows, set(read["label"].to_pylist())) == (sum(sizes), {"dog"})
        now = example["to_iceberg"](str(results), str(warehouse))
        first, more = now, now - first
        assert more == snapshots
        read = catalogue.load_table("catdog.results").scan().to_arrow()
        assert (read.num_rows, read["scores"][0].as_py()) == (sum(sizes), [0.25, 0.75])
    assert not list(warehouse.rglob("*.parquet"))
    (results / "_summary.json").unlink()
    with pytest.raises(SystemExit, match="not finished"):
        example["to_delta"](str(results))


@pytest.mark.slow
def test_embeddings_become_a_lance_dataset(tmp_path):
    """As vectors of float16, a generation is appended; Delta leaves them out."""
    import deltalake
    import lance

    example = load("tables.py")
    place = str(tmp_path / "a.lance")
    for generation, sizes, unchanged, fragments in (
        (1, [3], (), 1),
        (2, [3, 4], (0,), 2),  # one new
        (3, [3, 6], (0,), 1),  # one replaced: all in a new fragment
    ):
        more = {"embeddings": 16, "generation": generation, "unchanged": unchanged}
        write_results(tmp_path / "results", sizes, **more)
        for _ in range(2):  # nothing happens the second time
            assert example["to_lance"](str(tmp_path / "results"), place) == generation
        read = lance.dataset(place)
        assert read.schema.field("embedding").type == pa.list_(pa.float16(), 16)
        assert (read.count_rows(), len(read.get_fragments())) == (sum(sizes), fragments)
    example["to_delta"](str(tmp_path / "results"))
    columns = deltalake.DeltaTable(str(tmp_path / "results")).to_pyarrow_table().column_names
    assert "embedding" not in columns


@pytest.mark.slow
def test_results_on_s3_become_tables_there(s3, tmp_path, monkeypatch):
    """Delta refers to the objects, Lance copies them; a generation is one version's increment in both."""
    import deltalake
    import fsspec
    import lance

    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    example, store, results = load("tables.py"), fsspec.filesystem("s3"), f"{s3}/results"
    for generation, sizes, unchanged in ((1, [3, 4], ()), (2, [3, 4, 6], (0, 1))):
        write_results(tmp_path / "results", sizes, generation=generation, unchanged=unchanged)
        store.put(f"{tmp_path}/results/", f"{results}/", recursive=True)
        store.invalidate_cache()
        for _ in range(2):  # nothing happens the second time
            assert example["to_delta"](results) == generation
            assert example["to_lance"](results, f"{s3}/a.lance") == generation
        table = deltalake.DeltaTable(results)
        assert (len(table.file_uris()), table.to_pyarrow_table().num_rows) == (
            len(sizes),
            sum(sizes),
        )
        assert lance.dataset(f"{s3}/a.lance").count_rows() == sum(sizes)


def test_every_public_name_is_there():
    """What `catdog.__all__` promises exists, and what it does not promise is an AttributeError."""
    for name in catdog.__all__:
        assert getattr(catdog, name) is not None
        assert name in dir(catdog)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = catdog.no_such_name
