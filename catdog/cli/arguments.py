"""What can be asked for: one frozen class a command, its job's configuration and flags of its own.

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
    """What every command has.

    Attributes:
        debug: show the traceback of a fault of catdog itself.
    """

    debug: bool = False


@dataclass(frozen=True, kw_only=True)
class Summarised(Common):
    """What every command has that ends with a summary.

    Attributes:
        json: print the summary as one JSON object, and nothing else.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Logged(Summarised):
    """What every command has that logs its events.

    Attributes:
        log_file: append one line per event to this local file: shards, counts, seconds, UTC times.
        log_format: of those lines: `text`, or `json` with one object a line.
    """

    log_file: str | None = None
    log_format: Literal["text", "json"] = "text"


@dataclass(frozen=True, kw_only=True)
class Demo(DemoConfig, Summarised):
    """The whole story on drawn pictures: train, classify an archive, measure, look.

    Example: catdog demo
    """


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig, Logged):
    """Train a CNN on labelled images, data-parallel over the workers.

    Example: catdog train photos/ --output runs/first --test 0.1

    Attributes:
        mlflow: log parameters, metrics, curves and the model to the MLflow server at this URI.
        mlflow_model: register the model there under this name.
    """

    mlflow: str | None = None
    mlflow_model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Classify(ClassifyConfig, Logged):
    """Classify images in bulk into Parquet. Run it again to go on where it stopped.

    Example: catdog classify s3://bucket/archive.zip more/ --model runs/first --output results

    Attributes:
        no_report: write no HTML page into the results folder at the end.
        watch: run again this many seconds after each end, until Ctrl-C or SIGTERM.
    """

    no_report: bool = False
    watch: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluate(EvaluateConfig, Logged):
    """Measure a model on labelled images: accuracy, confusion, calibration, mistakes.

    Example: catdog evaluate photos/ --model runs/first --part test --output evaluation

    Attributes:
        no_report: write no HTML page.
    """

    no_report: bool = False


@dataclass(frozen=True, kw_only=True)
class Predict(PredictConfig, Common):
    """Score a few images in this process, a line each. Code 1 if one is rejected.

    Example: catdog predict cat.jpg dog.jpg --model runs/first

    Attributes:
        json: print one JSON object a line, with the scores of every class.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Report(ReportConfig, Summarised):
    """One HTML page to look at: counts, pictures, mistakes, rejected files, speed.

    Example: catdog report results
    """


@dataclass(frozen=True, kw_only=True)
class Review(ReviewConfig, Summarised):
    """Serve the page on this machine, for results of any size; labels are saved.

    Example: catdog review results
    """


@dataclass(frozen=True, kw_only=True)
class Duplicates(DuplicatesConfig, Summarised):
    """Pictures that are there more than once, equal or altered a little.

    Example: catdog duplicates results-embedded
    """


@dataclass(frozen=True, kw_only=True)
class Similar(SimilarConfig, Summarised):
    """The pictures of results that the network sees most like others.

    Example: catdog similar results-embedded photos/cat/cat.1.jpg
    """


@dataclass(frozen=True, kw_only=True)
class Leaks(LeaksConfig, Summarised):
    """Pictures that two sets of images share, such as training and test.

    Example: catdog leaks results-embedded results-test
    """


@dataclass(frozen=True, kw_only=True)
class Package(PackageConfig, Summarised):
    """Make a model folder of a network that others made.

    Example: catdog package net.onnx --labels cat dog --height 224 --width 224 --output runs/net
    """


@dataclass(frozen=True, kw_only=True)
class Export(ExportConfig, Summarised):
    """Write a model for another runtime, and see that it says the same there.

    Example: catdog export --model runs/first --format onnx --output exported
    """


@dataclass(frozen=True, kw_only=True)
class Submit(SubmitConfig, Common):
    """Run a command as a job on a remote Ray cluster; ends with the job's exit code.

    Example: catdog submit classify s3://bucket/in --output s3://bucket/out --address http://h:8265
    """


@dataclass(frozen=True, kw_only=True)
class Doctor(DoctorConfig, Common):
    """Check what a job needs: packages, memory, stores, Ray. Code 1 if one fails.

    Example: catdog doctor s3://bucket/results

    Attributes:
        json: print one JSON object a line, one line a check.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print what makes the shell complete commands, flags and their values.

    Example: catdog completion bash > ~/.local/share/bash-completion/completions/catdog

    Attributes:
        shell: bash, zsh or fish.
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
