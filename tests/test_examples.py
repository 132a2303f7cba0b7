"""The programs of examples/ run, and the package's names are where they say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import catdog
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
        "format string, size bigint, error string, error_detail string, model string"
    )
    with pytest.raises(KeyError):
        example["spark_schema"](pa.schema([("count", pa.uint32())]))


def test_every_public_name_is_there():
    """What `catdog.__all__` promises exists, and what it does not promise is an AttributeError."""
    for name in catdog.__all__:
        assert getattr(catdog, name) is not None
        assert name in dir(catdog)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = catdog.no_such_name
