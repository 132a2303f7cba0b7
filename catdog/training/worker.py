"""What runs on each training worker: the loop over epochs.

`train_worker` reads the worker's share of each global batch from the object store; the gradients are
summed over the workers, through shared memory on one node and by TensorFlow's collectives beyond;
rank 0 reports a checkpoint each epoch.
"""

from __future__ import annotations

import itertools
import json
import math
import secrets
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog import scratch
from catdog.errors import CatdogError, naming_full_disk
from catdog.training import checkpoint, data, features, placement, reader
from catdog.training.config import best_row, learning_rate
from catdog.training.network import Network
from catdog.training.step import TrainingStep, class_weights
from catdog.training.validation import AVERAGE_STEPS, AverageWeights, calibrated, validation_step

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from catdog.training.config import TrainConfig
    from catdog.training.data import DecodedImages

_VALIDATED_AHEAD = 1024  # images of each worker that are decoded before they are validated with
TEMPERATURE_FILE = "temperature.json"


def train_worker(loop: dict[str, Any]) -> None:
    """Training loop of one worker; Ray Train runs it on all of them.

    Args:
        loop: `config`, `images`, `labels`, `board`, `store`, `use_gpu` as `fitting.fit` passes them.
    """
    import ray.train

    epochs = _Epochs(loop)
    restored = ray.train.get_checkpoint()
    if restored is not None:
        with restored.as_directory() as folder:
            epochs.restore(Path(folder))
    with closing(epochs.training_batches()) as training:
        while not epochs.finished():
            epochs.run_one(training)
    epochs.report_model()


class _Epochs:
    """The epochs of one worker: what was done, what is best, what comes next."""

    def __init__(self, loop: dict[str, Any]) -> None:
        import ray
        import ray.train
        import ray.train.collective

        context = ray.train.get_context()
        self._worker, self._workers = context.get_world_rank(), context.get_world_size()
        self._config: TrainConfig = loop["config"]
        self._images: DecodedImages = loop["images"]
        self._board = loop["board"]
        self._recipe = self._config.hyperparameters
        self._targets = None if self._images.targets is None else ray.get(self._images.targets)
        classes = len(loop["labels"])
        one_node = context.get_local_world_size() == self._workers
        self._network = Network(
            self._config,
            classes,
            worker=self._worker,
            workers=self._workers,
            one_node=one_node,
            use_gpu=loop["use_gpu"],
        )
        if self._network.trunk is not None:
            self._images = features.of_images(
                self._images, self._network.trunk, loop["store"], self._worker, self._workers
            )
        self._step = TrainingStep(
            self._network,
            self._recipe,
            class_weights(
                self._config.class_weights, self._images.classes[self._images.train], classes
            ),
        )
        self._validation_step = validation_step(self._network)
        self._average = AverageWeights(self._network, self._recipe.weight_average)
        self._history: list[dict[str, float]] = []
        self._best = self._network.weights()
        group = ray.train.collective.broadcast_from_rank_zero(secrets.token_hex(8))
        # A window's end and the next.
        self._kept_images = self._images.window_images + self._images.window_images // 2
        self._lenders = reader.Lenders(
            group,
            self._images,
            reader.kept_blocks(self._images, self._kept_images),
            context.get_local_world_size() * self._config.cpus_per_worker,
        )
        self._placement = placement.placed(
            len(self._images.blocks),
            self._images.block_of[self._images.train],
            self._worker_nodes(one_node=one_node),
        )
        batch_size = self._recipe.batch_size
        self._steps = self._config.steps_per_epoch or math.ceil(
            len(self._images.train) / batch_size
        )

    def _worker_nodes(self, *, one_node: bool) -> list[str]:
        """Ray's id of each worker's node, the same list on all."""
        import ray

        mine = ray.get_runtime_context().get_node_id()
        if one_node:
            return [mine] * self._workers
        own = np.frombuffer(bytes.fromhex(mine), np.uint8)
        table = np.zeros((self._workers, len(own)), np.float32)
        table[self._worker] = own
        found = self._network.global_sums(table.ravel()).astype(np.uint8)
        return [row.tobytes().hex() for row in found.reshape(table.shape)]

    def _reader(self, kept_images: int) -> reader.PixelReader:
        return reader.PixelReader(
            self._images, kept_images, self._placement, self._worker, self._lenders
        )

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        state = checkpoint.restore(folder, self._network)
        self._history, self._average.values, self._best = state
        self._step.forget_learning_rate()

    def finished(self) -> bool:
        """Whether all epochs are done, or too many passed without a better one."""
        history, patience = self._history, self._config.patience
        if len(history) >= self._recipe.epochs:
            return True
        if patience is None or not history:
            return False
        return history[-1]["epoch"] - best_row(history, self._config.monitor)["epoch"] >= patience

    def training_batches(self) -> Generator[tuple[Any, ...], None, None]:
        """The batches of all epochs that are left, as `reader.read` yields them."""
        config, batch_size = self._config, self._recipe.batch_size
        window = self._images.window_images
        stream = data.training_batches(
            self._images,
            data.shuffled_passes(self._images, config.seed, window),
            batch_size,
            self._worker,
            self._placement,
        )
        # A resumed run goes on where the interrupted one was in the order of images.
        done, all_steps = len(self._history) * self._steps, self._recipe.epochs * self._steps
        return reader.read(
            self._reader(self._kept_images),
            itertools.islice(stream, done, all_steps),
            lambda batch: batch.uniforms(config.seed, batch_size, self._network.uniforms),
            self._targets,
            announced=window // batch_size,
        )

    def _validation_batches(self) -> Generator[tuple[Any, ...], None, None]:
        batches = data.validation_batches(
            self._images,
            self._recipe.batch_size,
            self._config.validation_steps,
            self._config.seed,
            self._worker,
            self._placement,
        )
        # One block after another.
        announced = _VALIDATED_AHEAD * self._workers // self._recipe.batch_size
        answers = self._targets if self._config.multi_label else None  # a teacher's are not true
        return reader.read(self._reader(0), batches, targets=answers, announced=announced)

    def run_one(self, training: Iterator[tuple[Any, ...]]) -> None:
        """Train for one more epoch, validate, report."""
        epoch = len(self._history) + 1
        started = time.monotonic()
        self._step.begin(epoch)
        train_loss, train_accuracy = self._network.run(
            self._step,
            self._scheduled(itertools.islice(training, self._steps), epoch),
            lambda step, rate: self._publish(epoch, step, rate),
        )
        train_seconds = time.monotonic() - started
        if not math.isfinite(train_loss):
            raise CatdogError(
                f"the loss of epoch {epoch} is {train_loss}; try a lower --learning-rate"
            )
        with self._average.in_place():
            with closing(self._validation_batches()) as batches:
                val_loss, val_accuracy = self._network.run(self._validation_step, batches)
            row = {
                "epoch": epoch,
                "loss": train_loss,
                "accuracy": train_accuracy,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
                "learning_rate": self._step.learning_rate,
                "images_per_s": round(self._steps * self._recipe.batch_size / train_seconds, 1),
                "seconds": round(time.monotonic() - started, 2),
            }
            self._history.append(row)
            if best_row(self._history, self._config.monitor) is row:
                self._best = self._network.weights()
        self._publish(epoch, self._steps, row["images_per_s"])
        state = checkpoint.Restored(self._history, self._average.values, self._best)
        self._report(row, lambda folder: checkpoint.save(folder, self._network, state))

    def _scheduled(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        """The batches of an epoch; sets the learning rate before each, averages after some."""
        for number, batch in enumerate(batches, start=(epoch - 1) * self._steps):
            self._step.learning_rate = learning_rate(self._recipe, number, self._steps)
            yield batch
            if (number + 1) % AVERAGE_STEPS == 0:
                self._average.update(number + 1)

    def _publish(self, epoch: int, step: int, images_per_s: float) -> None:
        if self._worker == 0:
            progress = (epoch, self._recipe.epochs, step, self._steps, images_per_s, self._workers)
            self._board.write.remote(progress, self._history)

    def report_model(self) -> None:
        """Report the files of the best epoch's model, its scores calibrated where that is wanted."""
        weights, temperature = self._best, 1.0
        if self._recipe.calibration == "temperature":
            with closing(self._validation_batches()) as batches:
                weights, temperature = calibrated(self._network, weights, batches)

        def write(folder: Path) -> None:
            for name, content in self._network.export(weights).items():
                (folder / name).write_bytes(content)
            (folder / TEMPERATURE_FILE).write_text(json.dumps(temperature))

        self._report(best_row(self._history, self._config.monitor), write)

    def _report(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        """Report an epoch to Ray Train, rank 0 with a checkpoint. Every rank must call it."""
        import ray.train

        with scratch.temporary_folder() as folder:
            reported = None
            if self._worker == 0:
                write(folder)
                reported = ray.train.Checkpoint.from_directory(str(folder))
            with naming_full_disk(self._config.output):  # Ray Train copies the files there
                ray.train.report(metrics, checkpoint=reported)
