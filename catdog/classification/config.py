"""The configuration of the bulk job."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import tyro.conf

from catdog import storage
from catdog.classification import thresholds
from catdog.errors import UserInputError
from catdog.inputs import Columns, Part, SourceLimits
from catdog.model import Arithmetic, Engine, folders
from catdog.pixels import DecodeLimits
from catdog.runtime import Precision, nodes


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """What to classify, with which model, and where the results go.

    Attributes:
        images: Images, folders, globs, archives (.tar, .tar.gz, .zip), lists (.txt), tables
            (.parquet, .csv, .tsv, .jsonl); local or S3.
        output: Folder for the results; local, S3, Google Cloud Storage or Azure.
        model: A training run's folder or a model folder, local or S3. `cats-and-dogs` and
            `cats-and-dogs-large` come with the package.
        workers: Classifying workers. (default: one per GPU of the cluster, else one per CPU)
        batch_size: Images per forward pass. Small batches stay in the CPU cache.
        precision: Number format of the arithmetic. `auto` is bfloat16 on CPUs with hardware for it,
            float16 on GPUs, float32 elsewhere.
        engine: Library that runs the network. `auto` is OpenVINO on CPUs and TensorFlow on GPUs.
        min_probability: Label images below this probability `uncertain`.
        thresholds: A `thresholds.json` that `catdog evaluate` wrote for this model; local or S3. It
            has a probability for each class, below which the label becomes `uncertain`.
        top: Add columns with the labels and probabilities of this many best classes.
        scores: `no` leaves out the column with the scores of all classes, which is wide for many
            classes; needs `--top`.
        embeddings: Add the column `embedding`, the network's features of each image, for `catdog
            similar` and `catdog duplicates`.
        max_rejected: Exit with code 1 if a larger fraction of the images is rejected.
        part: Classify only the images of this part of the model's data, split by the rule of its
            training.
        retry_rejected: Retry the rejected images of a finished job.
        no_new: Keep to the images that the results know. Without it, a rerun lists the inputs again
            and classifies what is new or changed.
        drop_gone: Remove the rows of images that the inputs no longer hold.
        decode_limits: Limits for one image.
        source_limits: Limits for files and archives.
        keep: Columns of input tables to copy into the results, with their types; `all` copies every
            column that neither names nor holds the images. Each table row then becomes a row of the
            results, even where two rows name the same image. Takes columns of an image folder's
            `metadata.csv` too, and `txt`, `json` or `cls`, the texts of a WebDataset sample.
        columns: Columns of tables.
        stores: Access to the stores of images, results and model.
        address: Address of a Ray cluster. (default: `RAY_ADDRESS`, else a new local cluster)
        wait_s: Seconds to wait while other jobs use all CPUs (or GPUs) of the cluster.
        install: Have each node install the locked dependencies once, and send catdog along. For
            clusters with nothing but Ray. With `submit`, use the `--install` of `submit`.
        node_label: `KEY=VALUE`: run only on nodes with this label (`ray start --labels`).
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    output: str
    model: str = folders.SHIPPED
    workers: int | None = None
    batch_size: int = 16
    precision: Precision = "auto"
    engine: Engine = "auto"
    min_probability: float = 0.0
    thresholds: str | None = None
    top: int | None = None
    scores: Literal["yes", "no"] = "yes"
    embeddings: bool = False
    max_rejected: float = 0.1
    part: Part | None = None
    retry_rejected: bool = False
    no_new: bool = False
    drop_gone: bool = False
    keep: tuple[str, ...] = ()
    decode_limits: tyro.conf.OmitArgPrefixes[DecodeLimits] = field(default_factory=DecodeLimits)
    source_limits: tyro.conf.OmitArgPrefixes[SourceLimits] = field(default_factory=SourceLimits)
    columns: tyro.conf.OmitArgPrefixes[Columns] = field(default_factory=Columns)
    stores: tyro.conf.OmitArgPrefixes[storage.Stores] = field(default_factory=storage.Stores)
    address: str | None = None
    wait_s: float = 900.0
    install: bool = False
    node_label: str | None = None

    def __post_init__(self) -> None:
        if not self.images:
            raise UserInputError("IMAGES: name at least one folder, archive, list or table")
        if self.workers is not None and self.workers < 1:
            raise UserInputError("--workers must be at least 1")
        if self.batch_size < 1:
            raise UserInputError("--batch-size must be at least 1")
        if self.no_new and self.drop_gone:
            raise UserInputError(
                "--drop-gone and --no-new exclude each other: only --drop-gone lists the inputs again"
            )
        if self.top is not None and self.top < 1:
            raise UserInputError("--top must be at least 1")
        if self.scores == "no" and self.top is None:
            raise UserInputError("--scores no: needs --top, the number of best classes to write")
        if self.thresholds is not None and self.min_probability:
            raise UserInputError("--thresholds and --min-probability exclude each other")
        if self.wait_s < 0:
            raise UserInputError("--wait-s must be 0 or more seconds")
        nodes.check_placing(self.address, self.node_label, install=self.install)
        for name in ("max_rejected", "min_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserInputError(f"--{name.replace('_', '-')} must be a fraction from 0 to 1")

    def least_probabilities(self, metadata: folders.ModelMetadata) -> tuple[float, ...]:
        """The probability of each class below which its label becomes `uncertain`, in the model's order.

        Raises:
            UserInputError: the file of thresholds cannot be read, or is of another model.
        """
        if self.thresholds is None:
            return (self.min_probability,) * len(metadata.labels)
        return thresholds.read(self.thresholds, metadata)

    def label_thresholds(self, metadata: folders.ModelMetadata) -> tuple[float, ...] | None:
        """The probability from which an image has each class; None if images have one class.

        Raises:
            UserInputError: as `least_probabilities`.
        """
        if not metadata.multi_label:
            return None
        if self.thresholds is None:
            return (folders.MULTI_LABEL_THRESHOLD,) * len(metadata.labels)
        return self.least_probabilities(metadata)

    def question(
        self, model_fingerprint: str, arithmetic: Arithmetic, least: tuple[float, ...]
    ) -> dict[str, Any]:
        """Everything that decides the answers; a rerun on the same output must have the same.

        Args:
            model_fingerprint: of the model.
            arithmetic: what `precision` and `engine` mean here.
            least: from `least_probabilities`.
        """
        return {
            "model": model_fingerprint,
            "min_probability": self.min_probability,
            "thresholds": ", ".join(f"{each:g}" for each in least) if self.thresholds else None,
            "top": self.top,
            "scores": self.scores,
            "embeddings": self.embeddings,
            "part": self.part,
            **dataclasses.asdict(arithmetic),
            "decode_limits": dataclasses.asdict(self.decode_limits),
            "source_limits": dataclasses.asdict(self.source_limits),
        }
