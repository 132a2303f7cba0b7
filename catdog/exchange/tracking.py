"""Logs a training run to MLflow: parameters, epochs, files and the model."""

from __future__ import annotations

import contextlib
import math
import posixpath
from typing import TYPE_CHECKING, Any

from catdog import scratch, storage
from catdog.errors import UserInputError
from catdog.model import folders, registry
from catdog.observer import Observer
from catdog.training import CURVES_FILE, METRICS_FILE
from catdog.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catdog.training import TrainResult

_EXPERIMENT = "catdog"  # unless MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID names another
_FOLDER_TAG = "catdog.output"
_MODEL_TAG = "catdog.fingerprint"  # set last: the run has everything
_MODEL = "model"  # the run's folder of artifacts with the model
_MAX_BYTES = 8 << 30


class TrackedRun(Observer):
    """Follows a training into MLflow; its run there begins with the first epoch.

    Args:
        mlflow: the module, with its server and experiment chosen.
        flag: the flag with its value, for messages.
        folder: URI of the training's folder.
    """

    def __init__(self, mlflow: Any, flag: str, folder: str) -> None:
        self._mlflow, self._flag, self._folder = mlflow, flag, folder
        self.begun = False
        # MLflow's filters know no escape: of a folder with a quote in its name none is found.
        self._here = f"tags.`{_FOLDER_TAG}` = '{folder.replace(chr(39), '')}'"
        self._interrupted = self._search(f"{self._here} and attributes.status != 'FINISHED'")

    def _search(self, filter_string: str) -> Any:
        """The newest run that fits, or None."""
        found = self._mlflow.search_runs(
            filter_string=filter_string, max_results=1, output_format="list"
        )
        return found[0] if found else None

    def _begin(self) -> None:
        if self._interrupted is not None:
            self._mlflow.start_run(run_id=self._interrupted.info.run_id)
        else:
            tags = {_FOLDER_TAG: self._folder, "catdog.version": __version__}
            name = posixpath.basename(self._folder.rstrip("/"))
            self._mlflow.start_run(run_name=name, tags=tags)
        self.begun = True

    def epoch(self, row: dict[str, float], *, best: bool) -> None:
        """Log an epoch's metrics; which one was best is logged at the end."""
        del best
        if not self.begun:
            self._begin()
        numbers = {name: value for name, value in row.items() if math.isfinite(value)}
        self._mlflow.log_metrics(numbers, step=int(row["epoch"]))

    def finish(self, result: TrainResult, name: str | None = None) -> None:
        """Log parameters and files, and register the model; only once for each model.

        Args:
            result: the training's result.
            name: name of the registered model; None registers none.

        Raises:
            UserInputError: the server refuses it; the run's folder is complete all the same.
        """
        metadata = folders.load(result.model).metadata
        training = metadata.training
        parameters = {
            "architecture": metadata.architecture,
            "labels": ",".join(metadata.labels),
            "workers": training["workers"],
        }
        parameters |= dict(training["recipe"])
        parameters |= {f"images_{part}": count for part, count in training["images"].items()}
        same = f"{self._here} and tags.`{_MODEL_TAG}` = '{metadata.fingerprint}'"
        with registry.client(self._flag), scratch.temporary_folder() as folder:
            if not self.begun and self._search(same) is not None:
                return  # a finished training was asked for again
            if not self.begun:
                for row in result.history:
                    self.epoch(row, best=False)
            self._mlflow.log_params(parameters)
            best = {f"best_{key}": value for key, value in result.best.items()}
            self._mlflow.log_metrics({k: v for k, v in best.items() if math.isfinite(v)})
            for uri, inside in _files(result, [*metadata.files, folders.METADATA_FILE]):
                copy = folder / posixpath.basename(uri)
                copy.write_bytes(storage.read_bytes(uri, _MAX_BYTES))
                self._mlflow.log_artifact(str(copy), inside)
                copy.unlink()
            if name is not None:
                self._register(name)
            self._mlflow.set_tag(_MODEL_TAG, metadata.fingerprint)

    def _register(self, name: str) -> None:
        client, run = self._mlflow.MlflowClient(), self._mlflow.active_run()
        with contextlib.suppress(
            self._mlflow.exceptions.MlflowException
        ):  # it is there, most often
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/{_MODEL}"
        client.create_model_version(name, source, run_id=run.info.run_id)


def _files(result: TrainResult, model: list[str]) -> Iterator[tuple[str, str | None]]:
    """Each file of a run's folder that MLflow is given, and the folder of artifacts it goes to."""
    for name in (CURVES_FILE, METRICS_FILE):
        yield storage.join(result.output, name), None
    for name in model:
        yield storage.join(result.model, name), _MODEL


@contextlib.contextmanager
def tracked(
    server: str | None, output: str, name: str | None = None
) -> Iterator[TrackedRun | None]:
    """The MLflow run of the training in a folder: a new one, or the unfinished one.

    Args:
        server: MLflow's tracking URI; if None, there is no run.
        output: the training's folder.
        name: name under which the model will be registered.

    Raises:
        UserInputError: MLflow's client is not installed, or no server answers.
    """
    if server is None:
        if name is not None:
            raise UserInputError("--mlflow-model: needs --mlflow, which names the server")
        yield None
        return
    flag, folder = f"--mlflow {server}", storage.to_uri(output)
    with registry.client(flag) as mlflow:
        mlflow.set_tracking_uri(server)
        variables = mlflow.environment_variables
        if not (variables.MLFLOW_EXPERIMENT_NAME.get() or variables.MLFLOW_EXPERIMENT_ID.get()):
            mlflow.set_experiment(_EXPERIMENT)
        run = TrackedRun(mlflow, flag, folder)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        with contextlib.suppress(mlflow.exceptions.MlflowException):  # of the training is told
            mlflow.end_run(status)
