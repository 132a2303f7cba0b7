"""Trains, classifies, evaluates and reports on drawn pictures, without network or data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog import storage
from catdog.classification import ClassifySummary
from catdog.errors import UserInputError
from catdog.results import Folder, ledger

if TYPE_CHECKING:
    from catdog.evaluation import Evaluation
    from catdog.observer import Observer
    from catdog.training import TrainResult


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The size of the demonstration.

    Attributes:
        output: New local folder for everything that the demo writes.
        drawings: Drawn pictures to train on.
        unseen: Drawn pictures to classify.
        epochs: Passes over the training pictures.
        seed: Random seed of the drawings and the training.
        workers: Training workers.
    """

    output: str = "demo"
    drawings: int = 1200
    unseen: int = 400
    epochs: int = 8
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        for name, least in (("drawings", 40), ("unseen", 20), ("epochs", 1), ("workers", 1)):
            if getattr(self, name) < least:
                raise UserInputError(f"--{name} must be at least {least}")


@dataclass(frozen=True)
class DemoResult:
    """The results of the demonstration.

    Attributes:
        trained: result of the training run.
        classified: summary of the classify job on unseen pictures.
        evaluated: metrics of these labels, with the pictures' folders as true classes.
        rejected: name, reason and sentence of each rejected file.
    """

    trained: TrainResult
    classified: ClassifySummary
    evaluated: Evaluation
    rejected: tuple[tuple[str, str, str], ...]


def run(config: DemoConfig, observer: Observer) -> DemoResult:
    """Draw, train on data-parallel workers, classify archives with broken files in them, measure.

    The same call with the same output resumes it; if it is finished, nothing is drawn, trained or
    classified again.

    Raises:
        UserInputError: the output folder holds something else.
        CatdogError: a job failed.
    """
    from catdog.demo.archives import Archives, undrawn, write_archives, write_dataset
    from catdog.evaluation import RESULTS_FOLDER, EvaluateConfig, evaluate
    from catdog.training import TrainConfig, train

    folder = Path(config.output)
    record, wanted = folder / "demo.json", json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    if record.exists() and record.read_text() != wanted:
        raise UserInputError(f"--output {config.output}: holds another demonstration")
    if not record.exists() and folder.exists() and any(folder.iterdir()):
        raise UserInputError(f"--output {config.output}: the folder is not empty; name another one")
    if not record.exists():
        storage.write_atomic(storage.to_uri(str(record)), wanted.encode())
    archives = Archives.of(folder / "unseen", config.unseen)
    if undrawn(folder / "drawings", config.drawings) or not archives.are_there():
        observer.phase(f"drawing {config.drawings + config.unseen:,} cats and dogs")
        write_dataset(folder / "drawings", config.drawings, config.seed)
        write_archives(folder / "unseen", config.unseen, config.seed + 1)
    trained = train(
        TrainConfig(
            images=(str(folder / "drawings"),),
            output=str(folder / "run"),
            architecture="article",
            workers=config.workers,
            epochs=config.epochs,
            learning_rate=5e-4,
            seed=config.seed,
            resume=(folder / "run").exists(),
        ),
        observer,
    )
    results = Folder(storage.to_uri(str(folder / RESULTS_FOLDER)))
    before = ledger.read_json(results, ledger.SUMMARY_FILE)
    evaluated = evaluate(
        EvaluateConfig(
            images=(str(archives.tar), str(archives.zip)),
            output=str(folder),
            model=str(folder / "run"),
            max_rejected=1.0,
        ),
        observer,
    )
    after = ledger.read_json(results, ledger.SUMMARY_FILE)
    assert after is not None  # noqa: S101 - `evaluate` came to its end
    complete = after == before
    if complete and not trained.seconds:
        observer.phase("nothing was left to do: this demo is finished")
    classified = ClassifySummary(**after | {"already_complete": complete})
    return DemoResult(trained, classified, evaluated, _rejected(folder / RESULTS_FOLDER))


def _rejected(folder: Path) -> tuple[tuple[str, str, str], ...]:
    """Name, reason and sentence of each rejected file, from the Parquet files."""
    rows = pq.read_table(
        folder, columns=["uri", "error", "error_detail"], filters=pc.field("error").is_valid()
    )
    return tuple(
        sorted((_member(row["uri"]), row["error"], row["error_detail"]) for row in rows.to_pylist())
    )


def _member(uri: str) -> str:
    """An archive's name and its member's: both archives have a `cat/broken/cut.jpg`."""
    member, _, archive = uri.partition("::")
    return f"{archive.rpartition('/')[2]}: {member.partition('://')[2]}"
