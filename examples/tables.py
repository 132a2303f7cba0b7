"""Commits finished results of `catdog classify` to a table: Delta, Iceberg or Lance.

    python examples/tables.py results delta
    python examples/tables.py results iceberg --place warehouse
    python examples/tables.py results lance --place results.lance

Delta and Iceberg take the part files as they lie, without a copy: do not delete them afterwards. Lance
has a format of its own. Run it again after the results have changed: that is one new version of the
table, and readers of the one before are not disturbed. Install what you want: `deltalake`,
`pyiceberg[sql-sqlite]` or `pylance`; none is a dependency of catdog.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq


def part_files(results: str) -> list[Path]:
    """The files of finished results."""
    folder = Path(results).resolve()
    if not (folder / "_summary.json").is_file():
        raise SystemExit(f"{results}: is not finished")
    return sorted(folder.glob("part-*.parquet"))


def schema_of(files: list[Path]) -> pa.Schema:
    """The columns that every table format has a type for: embeddings in float16 are left out."""
    fields = [field for field in pq.read_schema(files[0]) if field.name != "embedding"]
    return pa.schema([pa.field(field.name, field.type, field.nullable) for field in fields])


def to_delta(results: str) -> int:
    """A Delta table where the results lie, its log beside them; returns its version."""
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction

    files = part_files(results)
    folder, schema = str(files[0].parent), schema_of(files)
    table = DeltaTable.create(folder, schema, mode="ignore")
    added = [
        AddAction(
            path=file.name,
            size=file.stat().st_size,
            partition_values={},
            modification_time=int(file.stat().st_mtime * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": pq.read_metadata(file).num_rows}),
        )
        for file in files
    ]
    table.create_write_transaction(added, mode="overwrite", schema=schema)
    return DeltaTable(folder).version()


def to_iceberg(results: str, warehouse: str) -> int:
    """The Iceberg table `catdog.results` of a catalogue in SQLite; returns how many snapshots it has.

    Iceberg takes no file with a column that the table lacks, and has no float16: classify without
    `--embeddings`.
    """
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.expressions import AlwaysTrue

    files = part_files(results)
    place = Path(warehouse).resolve()
    place.mkdir(parents=True, exist_ok=True)
    catalogue = SqlCatalog("local", uri=f"sqlite:///{place}/catalogue.db", warehouse=place.as_uri())
    catalogue.create_namespace_if_not_exists("catdog")
    table = catalogue.create_table_if_not_exists("catdog.results", schema_of(files))
    with table.transaction() as change:
        if table.current_snapshot() is not None:
            change.delete(AlwaysTrue())  # of the table's list; the files stay
        change.add_files([str(file) for file in files], check_duplicate_files=False)
    return len(table.refresh().snapshots())


def to_lance(results: str, place: str) -> int:
    """A Lance dataset, embeddings too, as vectors of one size; returns its version."""
    import lance

    files = [str(file) for file in part_files(results)]
    schema = pq.read_schema(files[0])
    if "embedding" in schema.names:
        size = json.loads(schema.metadata[b"embedding"])["size"]
        field = pa.field("embedding", pa.list_(pa.float16(), size))
        schema = schema.set(schema.get_field_index("embedding"), field)
    whole = pa.dataset.dataset(files, schema=schema)
    return lance.write_dataset(whole, place, mode="overwrite").version


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
