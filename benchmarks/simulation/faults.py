"""Faults, put back into the code one at a time: the simulation has to find each."""

# ruff: noqa: SLF001 - it replaces parts of the package

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pyarrow as pa

from benchmarks.simulation import classification, training
from benchmarks.simulation.world import SimulatedFolder
from catdog import storage
from catdog.errors import UserInputError
from catdog.results import changes, drafts, ledger, part_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from catdog.results import Plan


def _identity_without_precision(question: Mapping[str, Any]) -> str:
    return hashlib.sha256(str(question["model"]).encode()).hexdigest()


def _refuses_other_models_only(self: classification.Job, recorded: Mapping[str, Any]) -> None:
    if recorded["model"] != self._question["model"]:
        raise UserInputError("the folder is another job's")


def _read_then_write(folder: Any, question: Any, about: Any) -> dict[str, Any]:
    if folder.read(ledger.RUN_FILE) is None:
        with folder.write(ledger.RUN_FILE) as file:
            file.write(ledger.as_json({**about, "question": question}))
    return dict(question)


def _digest_of_buffers(rows: pa.Table, columns: Sequence[str]) -> str:
    sha = hashlib.sha256()
    for name in columns:
        for chunk in rows[name].chunks:
            for buffer in chunk.buffers():
                sha.update(buffer or b"")
    return sha.hexdigest()[:32]


def _hashes_of_four_bits(texts: Any) -> Any:
    found = [
        int(hashlib.sha256(str(text).encode()).hexdigest()[0], 16) for text in texts.to_pylist()
    ]
    return np.array([found, found], np.uint64).T.reshape(-1, 2)


def _without_etag(stamp: str | None) -> tuple[int | None, str]:
    return _parts_of(stamp)[0], ""


def _without_size(stamp: str | None) -> tuple[int | None, str]:
    return None, _parts_of(stamp)[1]


_parts_of = storage.s3._parts_of


def _blind_replace(self: SimulatedFolder, name: str, data: bytes, version: str) -> bool:  # noqa: ARG001
    self.world.operation(lambda: self.world.set_file(name, data))
    return True


def _counts_alone(self: Any, plan: Plan, shard: int, model: str | None = None) -> str | None:  # noqa: ARG001
    return (
        None if self.counts.images == plan.shard_images[shard] else "holds another number of rows"
    )


def _blind_create(self: SimulatedFolder, name: str, data: bytes) -> bool:
    self.world.operation(lambda: self.world.set_file(name, data))
    return True


def _nothing_left(self: Any, sizes: Sequence[int]) -> list[int]:  # noqa: ARG001
    return [] if self.done.mean() >= 0.5 else np.flatnonzero(~self.done).tolist()


def _written_when_absent(self: training.Store, uri: str, data: bytes) -> bool:
    if self.exists(uri):
        return False
    name = self._name(uri)
    with self._folder.write(name) as file:
        file.write(data)
    return True


MUTATIONS: dict[str, list[Any]] = {
    "1 precision is not in the identity": [
        mock.patch.object(ledger, "identity", _identity_without_precision),
        mock.patch.object(classification.Job, "refuse_another", _refuses_other_models_only),
    ],
    "2 the record is read, then written": [mock.patch.object(ledger, "begin", _read_then_write)],
    "3 identifiers hash Arrow's buffers": [mock.patch.object(drafts, "digest", _digest_of_buffers)],
    "4 images are told apart by four bits": [
        mock.patch.object(changes.inputs, "hashes", _hashes_of_four_bits)
    ],
    "5 reading does not look at the source's version": [
        mock.patch.object(storage.s3, "_parts_of", _without_etag)
    ],
    "6 a part is replaced whatever is there": [
        mock.patch.object(SimulatedFolder, "replace", _blind_replace)
    ],
    "6 a part is checked by its number of rows": [
        mock.patch.object(part_files.Part, "fault", _counts_alone)
    ],
    "8 a training looks for a record, then writes its own": [
        mock.patch.object(training.Store, "write_new", _written_when_absent)
    ],
    "9 reading does not look at the source's size": [
        mock.patch.object(storage.s3, "_parts_of", _without_size)
    ],
    "files are written without looking whether there are any": [
        mock.patch.object(SimulatedFolder, "create", _blind_create)
    ],
    "half of the shards are enough": [mock.patch.object(part_files.Survey, "todo", _nothing_left)],
}


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """The code with one fault put back in."""
    with contextlib.ExitStack() as stack:
        for patch in MUTATIONS[name]:
            stack.enter_context(patch)
        yield
