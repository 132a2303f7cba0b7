"""Reads the results of `catdog classify` with DuckDB, pandas, pyarrow and, if installed, Spark.

    python examples/read_results.py results

The folder may be on S3 too; Spark then needs its own S3 connector. DuckDB and pandas are not
dependencies of catdog: install those that you want.
"""

from __future__ import annotations

import argparse
import importlib.util
import json

import pyarrow as pa
import pyarrow.dataset

from catdog import storage

# The Spark type of each Arrow type. Spark has no unsigned, no large and no view types.
SPARK_TYPES = {
    pa.string(): "string",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
}


def open_dataset(results: str) -> pyarrow.dataset.Dataset:
    """The part files as one table. Names that begin with `_` are left out by all readers."""
    filesystem, path = storage.filesystem(storage.to_uri(results))
    return pa.dataset.dataset(path, filesystem=filesystem, format="parquet")


def with_duckdb(dataset: pyarrow.dataset.Dataset) -> None:
    """Counts by label and reason. DuckDB reads the Arrow dataset, or the files by their names."""
    import duckdb

    connection = duckdb.connect()
    connection.register("results", dataset)
    connection.sql(
        """
        select coalesce(label, 'rejected: ' || error) as outcome, count(*) as images,
               round(avg(probability), 3) as mean_probability
        from results group by outcome order by images desc, outcome
        """
    ).show()


def with_pandas(dataset: pyarrow.dataset.Dataset) -> None:
    """The least certain images. Arrow types, so that an integer that is missing stays an integer."""
    import pandas as pd

    columns = ["uri", "label", "probability"]
    found = dataset.to_table(columns=columns, filter=pa.dataset.field("error").is_null())
    frame = found.to_pandas(types_mapper=pd.ArrowDtype)
    print(frame.nsmallest(5, "probability").to_string(index=False))


def with_pyarrow(dataset: pyarrow.dataset.Dataset) -> None:
    """Scores as a table with one column a class: their order is in the schema's metadata."""
    labels = json.loads(dataset.schema.metadata[b"labels"])
    batch = dataset.head(3, columns=["uri", "scores"])
    for row in batch.to_pylist():
        scores = dict(zip(labels, row["scores"] or [None] * len(labels), strict=True))
        print(row["uri"], scores)


def spark_type(kind: pa.DataType) -> str:
    """An Arrow type as Spark declares it.

    Raises:
        KeyError: Spark does not read it.
    """
    if pa.types.is_list(kind):
        return f"array<{spark_type(kind.value_type)}>"
    return SPARK_TYPES[kind]


def spark_schema(schema: pa.Schema) -> str:
    """The schema as Spark declares it."""
    return ", ".join(f"{field.name} {spark_type(field.type)}" for field in schema)


def with_spark(results: str) -> None:
    """The same counts in Spark, on this machine."""
    from pyspark.sql import SparkSession

    with SparkSession.builder.master("local[1]").appName("catdog").getOrCreate() as spark:
        spark.read.parquet(results).groupBy("label", "error").count().show(truncate=False)


def main() -> None:
    """Read one results folder in every way that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", help="the --output folder of `catdog classify`")
    results = parser.parse_args().results
    dataset = open_dataset(results)
    print(f"{dataset.count_rows():,} images in {results}\n")
    if importlib.util.find_spec("duckdb"):
        with_duckdb(dataset)
    if importlib.util.find_spec("pandas"):
        with_pandas(dataset)
    with_pyarrow(dataset)
    print(f"\nfor Spark: {spark_schema(dataset.schema)}")
    if importlib.util.find_spec("pyspark"):
        with_spark(results)


if __name__ == "__main__":
    main()
