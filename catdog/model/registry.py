"""Models that an MLflow registry holds, by the names that MLflow has for them: `models:/name/3`."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from catdog import scratch
from catdog.errors import UserInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEME = "models:/"
# MLflow asks a server that does not answer seven times, for minutes, unless the environment says otherwise.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


@contextlib.contextmanager
def client(flag: str) -> Iterator[Any]:
    """The module `mlflow`; what it raises within the block becomes one line.

    Args:
        flag: with its value, for the message.

    Raises:
        UserInputError: MLflow's client is not installed, or the server has no answer.
    """
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ModuleNotFoundError as error:
        raise UserInputError(
            f"{flag}: needs MLflow's client; `pip install 'catdog-ray[mlflow]'` brings it"
        ) from error
    try:
        yield mlflow
    except mlflow.exceptions.MlflowException as error:
        raise UserInputError(f"{flag}: {error.message.splitlines()[0]}") from error


@contextlib.contextmanager
def fetched(name: str) -> Iterator[str]:
    """A temporary copy of a registered model's folder, from the server at `MLFLOW_TRACKING_URI`.

    Args:
        name: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    Raises:
        UserInputError: there is no such model, or no server.
    """
    with scratch.temporary_folder() as folder:
        with client(f"--model {name}") as mlflow:
            place = mlflow.artifacts.download_artifacts(artifact_uri=name, dst_path=str(folder))
        yield place
