"""Reads finished results with embeddings into arrays: each image's place and vector."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog import storage
from catdog.errors import UserInputError
from catdog.inputs import PLAN_SCHEMA
from catdog.results import Folder, ledger, part_files, plans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from catdog.results import Plan

_READ_THREADS = 8
_NONE = "has no embeddings; classify with --embeddings"
_COLUMNS = ["uri", "size", "label", part_files.EMBEDDING]


@dataclass(frozen=True)
class Collection:
    """The classified images of one or several results.

    Attributes:
        names: the results folders as the user named them.
        plans: the plan of each folder.
        runs: the content of `_run.json` of each folder.
        model: the model's fingerprint, the same in all folders.
        uris: the images' URIs.
        labels: the images' labels.
        sizes: the images' sizes in bytes, int64 (n,).
        vectors: embeddings, float16 (n, size), each of length 1.
        places: number of the folder, shard, and row within it, int32 (n, 3).
        rejected: number of images that were left out because they have no embedding or one with NaN.
    """

    names: tuple[str, ...]
    plans: tuple[Plan, ...]
    runs: tuple[dict[str, Any], ...]
    model: str
    uris: pa.ChunkedArray
    labels: pa.ChunkedArray
    sizes: NDArray[np.int64]
    vectors: NDArray[np.float16]
    places: NDArray[np.int32]
    rejected: int

    def __len__(self) -> int:
        return len(self.vectors)

    def entries(self, images: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """What the plans know of images, shard by shard.

        Yields:
            Numbers of images, and their entries in the same order.
        """
        images = images[np.lexsort(self.places[images].T[::-1])]
        shards = self.places[images, :2]
        edges = np.flatnonzero((np.diff(shards, axis=0) != 0).any(axis=1)) + 1
        for members in np.split(images, edges):
            if len(members):
                results, shard, _ = self.places[members[0]].tolist()
                rows = pa.array(self.places[members, 2])
                entries = self.plans[results].read_shard(shard).select(PLAN_SCHEMA.names)
                yield members, entries.take(rows)


def read(names: Sequence[str], flag: str = "RESULTS") -> Collection:
    """Read finished results that have embeddings.

    Args:
        names: folders, local or S3.
        flag: the flag that errors name.

    Raises:
        UserInputError: a folder has no finished results or no embeddings, two folders are of
            different models, or no image has an embedding.
    """
    found = [_open(name, flag) for name in names]
    models = [summary["model"] for _, _, summary in found]
    for name, model in zip(names, models, strict=True):
        if model != models[0]:
            raise UserInputError(
                f"{flag} {name}: was made by another model than {names[0]}; embeddings of two models "
                "cannot be compared"
            )
    columns: list[pa.Table] = []
    places: list[NDArray[np.int32]] = []
    rejected = 0
    for number, (plan, _, _) in enumerate(found):
        with ThreadPoolExecutor(_READ_THREADS, "catdog-read") as pool:
            parts = pool.map(_reader(plan, names[number], flag), range(plan.shards))
            for shard, rows in enumerate(parts):
                good = _usable(rows[part_files.EMBEDDING])
                row = np.flatnonzero(good).astype(np.int32)
                rejected += len(rows) - len(row)
                columns.append(rows.filter(pa.array(good)))
                place = np.empty((len(row), 3), np.int32)
                place[:, 0], place[:, 1], place[:, 2] = number, shard, row
                places.append(place)
    if not any(map(len, columns)):
        told = f"none of {rejected:,} images has an embedding" if rejected else "holds no images"
        raise UserInputError(f"{flag} {' '.join(names)}: {told}; there is nothing to compare")
    table = pa.concat_tables(columns)
    size = json.loads(table.schema.metadata[part_files.EMBEDDING.encode()])["size"]
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["embedding"].chunks]
    return Collection(
        tuple(names),
        tuple(plan for plan, _, _ in found),
        tuple(run for _, run, _ in found),
        models[0],
        table["uri"],
        table["label"],
        table["size"].to_numpy(),
        np.concatenate(flat).reshape(-1, size),
        np.concatenate(places),
        rejected,
    )


def _usable(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which embeddings exist and are finite; a single NaN would spoil all distances."""
    good: NDArray[np.bool_] = column.is_valid().to_numpy().copy()
    if good.any():
        vectors = pc.list_flatten(column).to_numpy().reshape(int(good.sum()), -1)
        good[good] = np.isfinite(vectors).all(axis=1)
    return good


def join(one: Collection, other: Collection) -> Collection:
    """Both as one, the images of `other` after those of `one`.

    Raises:
        UserInputError: they are not of the same model.
    """
    if one.model != other.model:
        raise UserInputError(
            f"{other.names[0]}: was made by another model than {one.names[0]}; embeddings of two models "
            "cannot be compared"
        )
    moved = other.places + np.array([len(one.plans), 0, 0], np.int32)
    return dataclasses.replace(
        one,
        names=one.names + other.names,
        plans=one.plans + other.plans,
        runs=one.runs + other.runs,
        uris=pa.chunked_array([*one.uris.chunks, *other.uris.chunks]),
        labels=pa.chunked_array([*one.labels.chunks, *other.labels.chunks]),
        sizes=np.concatenate([one.sizes, other.sizes]),
        vectors=np.concatenate([one.vectors, other.vectors]),
        places=np.concatenate([one.places, moved]),
        rejected=one.rejected + other.rejected,
    )


def _open(name: str, flag: str) -> tuple[Plan, dict[str, Any], dict[str, Any]]:
    with storage.blamed_on(f"{flag} {name}"):
        folder = Folder(storage.to_uri(name))
        plan = plans.read(folder)
        run = ledger.read_json(folder, ledger.RUN_FILE)
        summary = ledger.read_json(folder, ledger.SUMMARY_FILE)
    whole = plan is not None and summary is not None and summary["generation"] == plan.generation
    if plan is None or run is None or summary is None or not whole:
        raise UserInputError(
            f"{flag} {name}: holds no finished results; `catdog classify IMAGES --embeddings "
            f"--output {name}` makes them"
        )
    if not run["question"].get("embeddings"):
        raise UserInputError(f"{flag} {name}: {_NONE}")
    return plan, run, summary


def _reader(plan: Plan, name: str, flag: str) -> Any:
    def read_shard(shard: int) -> pa.Table:
        rows = part_files.read_part(plan, shard, _COLUMNS)
        if part_files.EMBEDDING not in rows.column_names:
            raise UserInputError(f"{flag} {name}: {_NONE}")
        described = (rows.schema.metadata or {}).get(part_files.EMBEDDING.encode(), b"{}")
        if json.loads(described).get("normalisation") != "L2":
            raise UserInputError(f"{flag} {name}: its embeddings are not of length 1")
        return rows

    return read_shard
