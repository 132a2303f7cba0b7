"""The model and the inputs as parts of a user's own Ray Data pipeline."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from catdog import inputs
from catdog.errors import UserInputError
from catdog.inputs import Columns, SourceLimits
from catdog.model import folders
from catdog.prediction import loaded_model
from catdog.runtime import nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catdog.model import Engine
    from catdog.prediction.loaded_model import LoadedModel
    from catdog.runtime import Precision

_COLUMNS = ("bytes", "uri")  # where pictures are looked for, first one first
_BLOCK_ROWS = 256
_READING_THREADS = 8


class Classifier:
    """Scores the pictures of a Ray Dataset.

    ```python
    import catdog

    model = catdog.load_model("runs/first")
    scored = catdog.read_images("photos/").map_batches(
        catdog.Classifier, fn_constructor_kwargs={"model": model}, concurrency=1
    )
    print(scored.select_columns(["uri", "label", "probability"]).take(3))
    ```

    It takes batches with a column of encoded files (`bytes`) or of paths and URIs (`uri`). Relative
    paths start from the folder in which the worker runs. It adds the columns `label` (string),
    `probability` (float32), `scores` (list of float32, in the order of the model's labels) and
    `error` (string), each null if it has no value. A model of `train --multi-label` adds `labels`
    (list of string): all classes with a score of 0.5 or more. No row is lost: a null gives the error
    `missing`, a text that is no URI gives `unsupported`, and rows with an `error` keep it. A file
    that crashes a decoder ends its actor, so use `catdog.classify` for files from strangers.

    Args:
        model: a model folder or training run's folder, which each worker reads; or a loaded model,
            which is sent to the workers.
        column: the column with the pictures; by default `bytes`, else `uri`.
        precision: number format of the arithmetic, as for `catdog classify`.
        engine: library that runs the network, as for `catdog classify`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | LoadedModel = folders.SHIPPED,
        *,
        column: str | None = None,
        precision: Precision = "auto",
        engine: Engine = "auto",
    ) -> None:
        self._column = column
        if not isinstance(model, loaded_model.LoadedModel):
            model = loaded_model.load(model, precision=precision, engine=engine)
        self._model = model.with_threads(_own_cpus())

    def __call__(self, batch: dict[str, Any] | pa.Table) -> pa.Table:
        """Score a batch, given as a table or as a dictionary of arrays.

        Raises:
            UserInputError: the batch has no column of pictures.
        """
        table = batch if isinstance(batch, pa.Table) else pa.table(self._listed(batch))
        column = self._column or next((n for n in _COLUMNS if n in table.column_names), None)
        empty = not table.num_columns  # Ray gives a block without rows no columns either
        if not empty and (column is None or column not in table.column_names):
            raise UserInputError(
                f"no column {column or ' or '.join(_COLUMNS)}; there are: {table.column_names}"
            )
        given = [] if empty else table[column].to_pylist()
        errors = (
            table["error"].to_pylist() if "error" in table.column_names else [None] * len(given)
        )
        wanted = [
            place for place, each in enumerate(given) if each is not None and errors[place] is None
        ]
        answers = [
            loaded_model.Prediction(None, None, None, error or "missing") for error in errors
        ]
        scored = self._model.predict([given[place] for place in wanted])
        for place, answer in zip(wanted, scored, strict=True):
            answers[place] = answer
        added = {
            "label": pa.array([each.label for each in answers], pa.string()),
            "probability": pa.array([each.probability for each in answers], pa.float32()),
            "scores": pa.array([each.scores for each in answers], pa.list_(pa.float32())),
            "error": pa.array([each.error for each in answers], pa.string()),
        }
        if self._model.metadata.multi_label:
            several = [each.labels for each in answers]
            added["labels"] = pa.array(several, pa.list_(pa.string()))
        return pa.table({name: table[name] for name in table.column_names} | added)

    def _listed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Arrays as lists; what NumPy's batches make of nulls in text or bytes becomes null again."""
        texts = {*_COLUMNS, "error", self._column}
        return {
            name: [None if each != each else each for each in column.tolist()]  # noqa: PLR0124 - NaN
            if name in texts and isinstance(column, np.ndarray)
            else column
            for name, column in batch.items()
        }


def read_images(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    limits: SourceLimits | None = None,
    columns: Columns | None = None,
) -> Any:
    """A `ray.data.Dataset` of pictures, from whatever `catdog classify` takes.

    Args:
        images: one or several images, folders, globs, archives, lists or tables; local or S3.
        limits: limits of one file and one archive.
        columns: names of the columns of tables.

    Returns:
        A lazy dataset, which reads the bytes when its rows are consumed. Columns: `uri`, `name`,
        `label` (string; null if there is none), `bytes` (binary; null if reading failed) and
        `error` (string: the reason; else null).

    Raises:
        UserInputError: an input does not exist, may not be read, or contains no images.
    """
    import ray.data

    limits = limits or SourceLimits()
    given = [images] if isinstance(images, str | os.PathLike) else list(images)
    batches = inputs.list_images([os.fspath(each) for each in given], limits, columns)
    found = pa.Table.from_batches(batches, inputs.PLAN_SCHEMA)
    blocks = [
        found.slice(start, _BLOCK_ROWS) for start in range(0, max(1, len(found)), _BLOCK_ROWS)
    ]
    return ray.data.from_arrow(blocks).map_batches(
        _with_bytes, fn_kwargs={"limits": limits}, batch_format="pyarrow", batch_size=_BLOCK_ROWS
    )


def _with_bytes(entries: pa.Table, limits: SourceLimits) -> pa.Table:
    read = list(inputs.read_images(entries, limits, _READING_THREADS))
    data = [each if isinstance(each, bytes) else None for each in read]
    errors = [None if isinstance(each, bytes) else each.code.value for each in read]
    return pa.table(
        {name: entries[name] for name in ("uri", "name", "label")}
        | {"bytes": pa.array(data, pa.binary()), "error": pa.array(errors, pa.string())}
    )


def _own_cpus() -> int | None:
    """The logical CPUs of this Ray actor; None outside of one."""
    import ray

    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return None
    return nodes.worker_cpus()
