"""Commits finished results of `catdog classify` to a table: Delta, Iceberg or Lance.

    python examples/tables.py results delta
    python examples/tables.py results iceberg --place warehouse
    python examples/tables.py results lance --place results.lance

Delta and Iceberg take the part files as they lie, without a copy: do not delete them afterwards. Lance
has a format of its own. Run it again after the results have grown: what came with the
generations since is one new version of the table, and nothing where there was none. Install what you want: `deltalake`,
`pyiceberg[sql-sqlite]` or `pylance`; none is a dependency of catdog.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

GENERATION, FILES = "catdog-generation", "catdog-files"  # where a table notes what it has


def part_files(results: str) -> tuple[list[Path], int]:
    """The files of finished results, and the number of their latest generation."""
    folder = Path(results).resolve()
    if not (folder / "_summary.json").is_file():
        raise SystemExit(f"{results}: is not finished")
    summary = json.loads((folder / "_summary.json").read_text())
    return sorted(folder.glob("part-*.parquet")), int(summary["generation"])


def since(files: list[Path], generation: int) -> list[Path]:
    """Those that were written for later generations: new ones, and ones with changed images."""
    stamps = (json.loads(pq.read_metadata(file).metadata[b"catdog"]) for file in files)
    return [
        file for file, stamp in zip(files, stamps, strict=True) if stamp["revision"] > generation
    ]


def schema_of(files: list[Path]) -> pa.Schema:
    """The columns that every table format has a type for: embeddings in float16 are left out."""
    fields = [field for field in pq.read_schema(files[0]) if field.name != "embedding"]
    return pa.schema([pa.field(field.name, field.type, field.nullable) for field in fields])


def to_delta(results: str) -> int:
    """A Delta table where the results lie, its log beside them; returns its version."""
    from deltalake import CommitProperties, DeltaTable, Transaction
    from deltalake.transaction import AddAction

    files, generation = part_files(results)
    folder, schema = str(files[0].parent), schema_of(files)
    table = DeltaTable.create(folder, schema, mode="ignore")
    committed = table.transaction_version(GENERATION) or 0
    added = [
        AddAction(
            path=file.name,
            size=file.stat().st_size,
            partition_values={},
            modification_time=int(file.stat().st_mtime * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": pq.read_metadata(file).num_rows}),
        )
        for file in since(files, committed)
    ]
    if added:
        # A file that was there before takes the place of itself: it is known by its name.
        done = CommitProperties(app_transactions=[Transaction(GENERATION, generation)])
        table.create_write_transaction(added, "append", schema, commit_properties=done)
    return DeltaTable(folder).version()


def to_iceberg(results: str, warehouse: str) -> int:
    """The Iceberg table `catdog.results` of a catalogue in SQLite; returns how many snapshots it has.

    Iceberg takes no file with a column that the table lacks, and has no float16: classify without
    `--embeddings`. It can take files out of a table only by their rows: where one was replaced, all are
    listed anew.
    """
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.expressions import AlwaysTrue

    files, generation = part_files(results)
    place = Path(warehouse).resolve()
    place.mkdir(parents=True, exist_ok=True)
    catalogue = SqlCatalog("local", uri=f"sqlite:///{place}/catalogue.db", warehouse=place.as_uri())
    catalogue.create_namespace_if_not_exists("catdog")
    table = catalogue.create_table_if_not_exists("catdog.results", schema_of(files))
    snapshot = table.current_snapshot()
    committed = int(snapshot.summary[GENERATION]) if snapshot and snapshot.summary else 0
    added = [str(file) for file in since(files, committed)]
    there = set(table.inspect.files()["file_path"].to_pylist()) if snapshot else set()
    if added:
        with table.transaction() as change:
            if there.intersection(added):
                change.delete(AlwaysTrue())  # of the table's list; the files stay
                added = [str(file) for file in files]
            noted = {GENERATION: str(generation)}
            change.add_files(added, noted, check_duplicate_files=False)
    return len(table.refresh().snapshots())


def to_lance(results: str, place: str) -> int:
    """A Lance dataset, embeddings too, as vectors of one size; returns its version.

    New rows are appended; where a file was replaced, all are written anew.
    """
    import lance

    files, generation = part_files(results)
    there = lance.dataset(place) if Path(place).exists() else None
    noted = there.read_transaction(there.version).transaction_properties if there else {}
    added = since(files, int(noted.get(GENERATION, 0)))
    if there and not added:
        return there.version
    before = int(noted.get(FILES, 0))
    more = before > 0 and not set(files[:before]).intersection(added)
    schema = pq.read_schema(files[0])
    if "embedding" in schema.names:
        size = json.loads(schema.metadata[b"embedding"])["size"]
        field = pa.field("embedding", pa.list_(pa.float16(), size))
        schema = schema.set(schema.get_field_index("embedding"), field)
    rows = pa.dataset.dataset([str(file) for file in (added if more else files)], schema=schema)
    told = {GENERATION: str(generation), FILES: str(len(files))}
    mode = "append" if more else "overwrite"
    return lance.write_dataset(rows, place, mode=mode, transaction_properties=told).version


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
