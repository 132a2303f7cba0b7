"""The commands: one frozen class each, with its job's configuration and its own flags.

The docstrings are the help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import tyro.conf

from catdog.classification import ClassifyConfig
from catdog.demo import DemoConfig
from catdog.diagnosis import DoctorConfig
from catdog.evaluation import EvaluateConfig
from catdog.exchange import ExportConfig, PackageConfig
from catdog.prediction import PredictConfig
from catdog.reporting import ReportConfig
from catdog.reviewing import ReviewConfig
from catdog.similarity import DuplicatesConfig, LeaksConfig, SimilarConfig
from catdog.submission import SubmitConfig
from catdog.training import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Common:
    """The flags of every command.

    Attributes:
        debug: Show the traceback of an internal error.
    """

    debug: bool = False


@dataclass(frozen=True, kw_only=True)
class Summarised(Common):
    """The flags of commands that end with a summary.

    Attributes:
        json: Print only the summary, as one JSON object.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Logged(Summarised):
    """The flags of commands that log their events.

    Attributes:
        log_file: Append one line per event to this local file: shards, counts, seconds, UTC times.
        log_format: Format of the log file: `text`, or `json` with one object per line.
    """

    log_file: str | None = None
    log_format: Literal["text", "json"] = "text"


@dataclass(frozen=True, kw_only=True)
class Demo(DemoConfig, Summarised):
    """Try every step on drawn pictures: train, classify an archive, evaluate, report.

    Example: catdog demo
    """


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig, Logged):
    """Train a CNN on labelled images, data-parallel over the workers.

    Example: catdog train photos/ --output runs/first --test 0.1

    Attributes:
        mlflow: Log parameters, metrics, curves and the model to the MLflow server at this URI.
        mlflow_model: Register the model on that server under this name.
    """

    mlflow: str | None = None
    mlflow_model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Classify(ClassifyConfig, Logged):
    """Classify images in bulk into Parquet files. Run it again to resume.

    Example: catdog classify s3://bucket/archive.zip more/ --model runs/first --output results

    Attributes:
        no_report: Do not write the HTML page into the results folder.
        watch: Run again this many seconds after each end, until Ctrl-C or SIGTERM.
    """

    no_report: bool = False
    watch: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluate(EvaluateConfig, Logged):
    """Measure a model on labelled images: accuracy, confusion, calibration, mistakes.

    Example: catdog evaluate photos/ --model runs/first --part test --output evaluation

    Attributes:
        no_report: Do not write the HTML page.
    """

    no_report: bool = False


@dataclass(frozen=True, kw_only=True)
class Predict(PredictConfig, Common):
    """Score a few images in this process, one line each. Exits 1 if one is rejected.

    Example: catdog predict cat.jpg dog.jpg --model runs/first

    Attributes:
        json: Print one JSON object per line, with the scores of every class.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Report(ReportConfig, Summarised):
    """Make an HTML page of results: counts, pictures, mistakes, rejected files, speed.

    Example: catdog report results
    """


@dataclass(frozen=True, kw_only=True)
class Review(ReviewConfig, Summarised):
    """Serve that page on this machine, for results of any size, and save new labels.

    Example: catdog review results
    """


@dataclass(frozen=True, kw_only=True)
class Duplicates(DuplicatesConfig, Summarised):
    """Find pictures that occur more than once, unchanged or slightly altered.

    Example: catdog duplicates results-embedded
    """


@dataclass(frozen=True, kw_only=True)
class Similar(SimilarConfig, Summarised):
    """Find the pictures in results that the network finds most like given ones.

    Example: catdog similar results-embedded photos/cat/cat.1.jpg
    """


@dataclass(frozen=True, kw_only=True)
class Leaks(LeaksConfig, Summarised):
    """Find pictures that two sets of images share, such as training and test.

    Example: catdog leaks results-embedded results-test
    """


@dataclass(frozen=True, kw_only=True)
class Package(PackageConfig, Summarised):
    """Make a model folder from a network that was trained elsewhere.

    Example: catdog package net.onnx --labels cat dog --height 224 --width 224 --output runs/net
    """


@dataclass(frozen=True, kw_only=True)
class Export(ExportConfig, Summarised):
    """Export a model to another format, and check that its scores stay the same.

    Example: catdog export --model runs/first --format onnx --output exported
    """


@dataclass(frozen=True, kw_only=True)
class Submit(SubmitConfig, Common):
    """Run a command as a job on a remote Ray cluster. Exits with the job's exit code.

    Example: catdog submit classify s3://bucket/in --output s3://bucket/out --address http://h:8265
    """


@dataclass(frozen=True, kw_only=True)
class Doctor(DoctorConfig, Common):
    """Check what a job needs: packages, memory, stores, Ray. Exits 1 if one fails.

    Example: catdog doctor s3://bucket/results

    Attributes:
        json: Print one JSON object per check, one per line.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print a script that makes the shell complete commands, flags and values.

    Example: catdog completion bash > ~/.local/share/bash-completion/completions/catdog

    Attributes:
        shell: Bash, zsh or fish.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]


COMMANDS: Mapping[str, type[Any]] = {
    "demo": Demo,
    "train": Train,
    "classify": Classify,
    "evaluate": Evaluate,
    "predict": Predict,
    "report": Report,
    "review": Review,
    "duplicates": Duplicates,
    "similar": Similar,
    "leaks": Leaks,
    "package": Package,
    "export": Export,
    "submit": Submit,
    "doctor": Doctor,
    "completion": Completion,
}
