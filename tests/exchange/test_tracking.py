"""A training in MLflow, against a real server: what is logged, what is registered, what is loaded."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from catdog import exchange, storage
from catdog.cli import main
from catdog.errors import UserInputError
from catdog.model import folders
from catdog.training import TrainResult
from tests.conftest import free_ports

pytestmark = pytest.mark.slow  # importing MLflow takes seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One with SQLite and a folder of artifacts that it serves itself."""
    command = os.environ.get("CATDOG_MLFLOW")
    if command is None:
        pytest.skip(
            "CATDOG_MLFLOW names the command `mlflow` of an environment that has the server"
        )
    folder, [port] = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    options = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--port", str(port)]
    options += ["--artifacts-destination", f"{folder}/artifacts", "--host", "127.0.0.1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [command, "server", *options, "--workers", "1"], stdout=log, stderr=log, cwd=folder
        )
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def trained(tiny_model, tmp_path):
    """A training's folder and what it came to, without the hours."""
    run = tmp_path / "a training"
    tiny = folders.load(tiny_model)
    rows = [
        {"epoch": epoch, "loss": 1 / epoch, "val_accuracy": 0.5 + epoch / 10, "val_loss": math.nan}
        for epoch in (1, 2)
    ]
    training = {"recipe": {"optimizer": "sgd", "learning_rate": 0.1}, "workers": 2, "best": rows[1]}
    training |= {"history": rows, "images": {"train": 9, "validation": 3, "rejected": 1}}
    metadata = folders.save(
        storage.to_uri(str(run / "model")),
        tiny.files,
        labels=tiny.metadata.labels,
        preprocessing=tiny.metadata.preprocessing,
        architecture=tiny.metadata.architecture,
        training=training,
    )
    (run / "metrics.csv").write_text("epoch,loss\n")
    (run / "curves.png").write_bytes(b"PNG")
    return TrainResult(
        output=storage.to_uri(str(run)),
        model=storage.to_uri(str(run / "model")),
        fingerprint=metadata.fingerprint,
        best=rows[1],
        history=tuple(rows),
        labels=metadata.labels,
        images=training["images"],
        seconds=1.0,
        decoding_s=1.0,
        decoded_images_per_s=1.0,
    )


def runs(server, trained):
    """Of this training, the newest first."""
    import mlflow

    mlflow.set_tracking_uri(server)
    found = mlflow.search_runs(experiment_names=["catdog"], output_format="list")
    return [run for run in found if run.data.tags["catdog.output"] == trained.output]


def test_a_training_is_one_run(server, trained):
    """One that was interrupted goes on, a finished one stays, with parameters, metrics and files."""
    import mlflow

    def interrupted():
        with exchange.tracked(server, trained.output) as run:
            run.epoch(trained.history[0], best=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [each.info.status for each in runs(server, trained)] == ["FAILED"]
    for _ in range(2):
        with exchange.tracked(server, trained.output, "pets") as run:
            run.finish(trained, "pets")
    [found] = runs(server, trained)
    assert found.info.status == "FINISHED"
    assert found.data.params["optimizer"] == "sgd"
    assert found.data.params["labels"] == ",".join(trained.labels)
    assert found.data.metrics["val_accuracy"] == pytest.approx(0.7)
    assert found.data.metrics["best_epoch"] == trained.best["epoch"]
    client = mlflow.MlflowClient()
    names = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert names == {"curves.png", "metrics.csv", "model"}
    assert len(client.search_model_versions("name='pets'")) == 1


def test_a_registered_model_is_loaded(server, trained, drawings, monkeypatch, capsys):
    """By version and alias, as the folder it was; one that is not there is refused in a line."""
    import mlflow

    with exchange.tracked(server, trained.output, "loaded") as run:
        run.finish(trained, "loaded")
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    capsys.readouterr()  # MLflow says where the run is
    picture = str(next(drawings.rglob("*.jpg")))
    for model in (trained.output, "models:/loaded/1"):
        assert main(["predict", picture, "--model", model, "--json"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == json.loads(second)
    mlflow.MlflowClient().set_registered_model_alias("loaded", "champion", "1")
    assert folders.load("models:/loaded@champion").metadata.fingerprint == trained.fingerprint
    assert main(["predict", picture, "--model", "models:/loaded/7"]) == 2
    assert "models:/loaded/7" in capsys.readouterr().err


def test_no_server(trained, tmp_path, monkeypatch):
    """Is one line that names the flag, before anything is trained."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    [port] = free_ports(1)
    with (
        pytest.raises(UserInputError, match=f"^--mlflow http://127.0.0.1:{port}: "),
        exchange.tracked(f"http://127.0.0.1:{port}", str(tmp_path)),
    ):
        pass


def test_a_name_without_a_server_is_refused(tmp_path):
    """`--mlflow-model` alone does nothing, so it says so."""
    with (
        pytest.raises(UserInputError, match="--mlflow-model: needs --mlflow"),
        exchange.tracked(None, str(tmp_path), "pets"),
    ):
        pass
