"""Commits finished results of `catdog classify` to a table: Delta, Iceberg or Lance.

    python examples/tables.py results delta
    python examples/tables.py results iceberg --place warehouse
    python examples/tables.py results lance --place results.lance
    python examples/tables.py s3://bucket/results delta

Delta and Iceberg refer to the part files without a copy: do not delete them afterwards. Lance has a
format of its own. Run it again after the results have grown: the generations since become one new
version of the table; without new generations nothing happens. For Iceberg the results must be local.
Install what you want: `deltalake`, `pyiceberg[sql-sqlite]` or `pylance`; none is a dependency of catdog.
Delta and Lance read AWS's usual variables, and `AWS_ALLOW_HTTP=true` for a server without TLS.
"""

from __future__ import annotations

import argparse
import json
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

GENERATION, FILES = "catdog-generation", "catdog-files"  # where a table notes what it has


@dataclass
class Results:
    """Finished results: the part files by path, and the number of the latest generation."""

    uri: str
    filesystem: Any  # fsspec's, of a disk or of S3
    files: list[str]
    generation: int

    @classmethod
    def at(cls, place: str) -> Results:
        """Those in a folder or under an S3 prefix."""
        filesystem, folder = fsspec.url_to_fs(place)
        if not filesystem.exists(f"{folder}/_summary.json"):
            raise SystemExit(f"{place}: is not finished")
        summary = json.loads(filesystem.cat_file(f"{folder}/_summary.json"))
        files = sorted(filesystem.glob(f"{folder}/part-*.parquet"))
        uri = place if "://" in place else folder
        return cls(uri, filesystem, files, int(summary["generation"]))

    def since(self, generation: int) -> list[str]:
        """The files of later generations: new ones, and ones with changed images."""
        stamps = (json.loads(self.metadata(file).metadata[b"catdog"]) for file in self.files)
        return [
            file
            for file, stamp in zip(self.files, stamps, strict=True)
            if stamp["revision"] > generation
        ]

    def metadata(self, file: str) -> Any:
        """A file's footer."""
        return pq.read_metadata(file, filesystem=self.filesystem)

    def schema(self) -> pa.Schema:
        """The schema with its metadata."""
        return pq.read_schema(self.files[0], filesystem=self.filesystem)

    def plain_schema(self) -> pa.Schema:
        """The columns that every table format has a type for: no embeddings in float16."""
        fields = [field for field in self.schema() if field.name != "embedding"]
        return pa.schema([pa.field(field.name, field.type, field.nullable) for field in fields])


def to_delta(place: str) -> int:
    """A Delta table in the folder of the results, with its log beside them; returns its version."""
    from deltalake import CommitProperties, DeltaTable, Transaction
    from deltalake.transaction import AddAction

    results = Results.at(place)
    schema = results.plain_schema()
    table = DeltaTable.create(results.uri, schema, mode="ignore")
    committed = table.transaction_version(GENERATION) or 0
    added = [
        AddAction(
            path=posixpath.basename(file),
            size=results.filesystem.size(file),
            partition_values={},
            modification_time=int(results.filesystem.modified(file).timestamp() * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": results.metadata(file).num_rows}),
        )
        for file in results.since(committed)
    ]
    if added:
        # A file that was replaced has the same name, so its new entry takes the place of the old one.
        done = CommitProperties(app_transactions=[Transaction(GENERATION, results.generation)])
        table.create_write_transaction(added, "append", schema, commit_properties=done)
    return DeltaTable(results.uri).version()


def to_iceberg(place: str, warehouse: str) -> int:
    """The Iceberg table `catdog.results` of a catalogue in SQLite; returns its number of snapshots.

    Iceberg refuses a file with a column that the table lacks, and has no float16: classify without
    `--embeddings`. It removes files from a table only by their rows: if one was replaced, all files are
    listed again.
    """
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.expressions import AlwaysTrue

    results = Results.at(place)
    folder = Path(warehouse).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    catalogue = SqlCatalog(
        "local", uri=f"sqlite:///{folder}/catalogue.db", warehouse=folder.as_uri()
    )
    catalogue.create_namespace_if_not_exists("catdog")
    table = catalogue.create_table_if_not_exists("catdog.results", results.plain_schema())
    snapshot = table.current_snapshot()
    committed = int(snapshot.summary[GENERATION]) if snapshot and snapshot.summary else 0
    added = results.since(committed)
    there = set(table.inspect.files()["file_path"].to_pylist()) if snapshot else set()
    if added:
        with table.transaction() as change:
            if there.intersection(added):
                change.delete(AlwaysTrue())  # of the table's list; the files stay
                added = results.files
            noted = {GENERATION: str(results.generation)}
            change.add_files(added, noted, check_duplicate_files=False)
    return len(table.refresh().snapshots())


def to_lance(place: str, output: str) -> int:
    """A Lance dataset with the embeddings as vectors of one size; returns its version.

    New rows are appended; if a file was replaced, all rows are written again.
    """
    import lance

    results = Results.at(place)
    filesystem, path = fsspec.url_to_fs(output)
    there = lance.dataset(output) if filesystem.exists(path) else None
    noted = there.read_transaction(there.version).transaction_properties if there else {}
    added = results.since(int(noted.get(GENERATION, 0)))
    if there and not added:
        return there.version
    before = int(noted.get(FILES, 0))
    more = before > 0 and not set(results.files[:before]).intersection(added)
    schema = results.schema()
    if "embedding" in schema.names:
        size = json.loads(schema.metadata[b"embedding"])["size"]
        field = pa.field("embedding", pa.list_(pa.float16(), size))
        schema = schema.set(schema.get_field_index("embedding"), field)
    rows = pa.dataset.dataset(
        added if more else results.files, schema=schema, filesystem=results.filesystem
    )
    told = {GENERATION: str(results.generation), FILES: str(len(results.files))}
    mode = "append" if more else "overwrite"
    return lance.write_dataset(rows, output, mode=mode, transaction_properties=told).version


def main() -> None:
    """Commit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("format", choices=["delta", "iceberg", "lance"])
    parser.add_argument("--place", help="of the warehouse or of the dataset")
    asked = parser.parse_args()
    if asked.format == "delta":
        version = to_delta(asked.results)
    elif asked.format == "iceberg":
        version = to_iceberg(asked.results, asked.place or "warehouse")
    else:
        version = to_lance(asked.results, asked.place or f"{asked.results.rstrip('/')}.lance")
    print(f"{asked.format}: version {version}")


if __name__ == "__main__":
    main()
