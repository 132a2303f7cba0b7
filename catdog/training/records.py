"""The records of a run: `metrics.csv`, curves, TensorBoard's events, rejected images."""

from __future__ import annotations

import csv
import io
from typing import Any

from catdog import scratch, storage
from catdog.errors import CatdogError, counted

METRICS_FILE = "metrics.csv"
CURVES_FILE = "curves.png"
TENSORBOARD_FILE = "tensorboard/events.out.tfevents.catdog"
REJECTED_FILE = "rejected.csv"
_MAX_METRICS_BYTES = 1 << 26
METRICS_COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "images_per_s",
    "seconds",
)


def write_metrics(output: str, history: Any) -> None:
    """Write the epochs until now, whole files each time: a resumed run has each epoch once."""
    text = io.StringIO()
    table = csv.DictWriter(text, METRICS_COLUMNS)
    table.writeheader()
    table.writerows(history)
    storage.write_atomic(storage.join(output, METRICS_FILE), text.getvalue().encode())
    storage.write_atomic(storage.join(output, TENSORBOARD_FILE), _events(history))


def epochs_done(output: str) -> int:
    """How many epochs the run in this folder has finished, as far as its metrics say."""
    try:
        text = storage.read_bytes(storage.join(output, METRICS_FILE), _MAX_METRICS_BYTES)
    except FileNotFoundError:
        return 0
    return max(0, len(text.splitlines()) - 1)


def _events(history: Any) -> bytes:
    """A TensorBoard event file; its scalars are the columns of `metrics.csv`."""
    from tensorboardX import SummaryWriter  # Ray's own dependency; needs no TensorFlow

    with scratch.temporary_folder() as folder:
        with SummaryWriter(str(folder)) as writer:
            for row in history:
                for name in METRICS_COLUMNS[1:]:
                    writer.add_scalar(name, row[name], global_step=row["epoch"])
        (file,) = folder.iterdir()
        return file.read_bytes()


def write_curves(output: str, history: Any, best: dict[str, float]) -> None:
    """Draw loss and accuracy over the epochs as a PNG."""
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [row[name] for row in history], marker=".", label="training")
        axes.plot(epochs, [row[f"val_{name}"] for row in history], marker=".", label="validation")
        axes.axvline(
            best["epoch"], color="grey", linestyle=":", label=f"best: epoch {best['epoch']}"
        )
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    storage.write_atomic(storage.join(output, CURVES_FILE), buffer.getvalue())


def write_rejected(
    output: str, rejected: tuple[tuple[str, str, str], ...], total: int, limit: float
) -> None:
    """Write which images could not be decoded, if any.

    Raises:
        CatdogError: they exceed the fraction `limit` of all images.
    """
    if rejected:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(("uri", "error", "error_detail"))
        table.writerows(rejected)
        storage.write_atomic(storage.join(output, REJECTED_FILE), text.getvalue().encode())
    if len(rejected) > limit * total:
        uri, error, detail = rejected[0]
        raise CatdogError(
            f"{len(rejected)} of {counted(total, 'image')} were rejected, more than --max-rejected "
            f"{limit}; the first is {uri}: {error}, {detail}"
        )
