"""Initial weights that would have to be downloaded, without a network."""

from __future__ import annotations

import subprocess
import sys

import pytest

from catdog.errors import UserInputError
from catdog.training import downloads
from catdog.training.config import TrainConfig

NETWORK = {"architecture": "MobileNetV2", "weights": "imagenet"}


def config(**changes):
    return TrainConfig(images=("photos",), output="run", **NETWORK | changes)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No server answers, and Keras' cache is empty; gives the cache."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras" / "models").mkdir(parents=True)
    return tmp_path / "keras" / "models"


def test_weights_that_cannot_be_had_are_refused_and_nothing_is_left(offline, tmp_path):
    """The command ends with exit code 2 and one line, before it makes a folder."""
    (tmp_path / "photos").mkdir()
    command = [sys.executable, "-m", "catdog", "train", str(tmp_path / "photos")]
    command += ["--output", str(tmp_path / "run"), "--architecture", "MobileNetV2"]
    done = subprocess.run(
        [*command, "--weights", "imagenet"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "catdog train:" in line]
    assert "--weights imagenet" in line
    assert not (tmp_path / "run").exists()


def test_a_server_that_never_answers_is_not_waited_for(offline, monkeypatch):
    """The question has an end, whatever holds it up."""
    monkeypatch.setattr(downloads, "_ASK", "import time; time.sleep(600)")
    monkeypatch.setattr(downloads, "_TIMEOUT_S", 0.5)
    with pytest.raises(UserInputError, match="does not answer"):
        downloads.refuse_unreachable(config())


@pytest.mark.parametrize(
    ("architecture", "file"),
    [
        ("MobileNetV2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"),
        ("EfficientNetB0", "efficientnetb0_notop.h5"),
        ("MobileNetV3Small", "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"),
    ],
)
def test_weights_in_keras_cache_need_no_network(offline, architecture, file):
    """They are found under the names that Keras gives them."""
    with pytest.raises(UserInputError):
        downloads.refuse_unreachable(config(architecture=architecture))
    (offline / file).write_bytes(b"x")
    downloads.refuse_unreachable(config(architecture=architecture))


def test_a_file_of_weights_is_found_before_anything_starts(tmp_path, monkeypatch):
    """Workers run elsewhere, so they get an absolute path; what is not there is one line."""
    monkeypatch.chdir(tmp_path)
    for wrong, said in (
        ("none.keras", "--weights none.keras: No such file"),
        (".", "--weights .: name imagenet, none, or a"),
        ("weights.pt", "--weights weights.pt: name imagenet, none, or a"),
        ("folder.keras", "--weights folder.keras: "),
    ):
        (tmp_path / "folder.keras").mkdir(exist_ok=True)
        with pytest.raises(UserInputError, match=said):
            downloads.with_located_weights(config(weights=wrong))
    (tmp_path / "body.weights.h5").write_bytes(b"x")
    found = downloads.with_located_weights(config(weights="body.weights.h5"))
    assert found.weights == str(tmp_path / "body.weights.h5")
    for other in ("imagenet", "none", found.weights, "file:///elsewhere/body.keras"):
        same = config(weights=other)
        assert downloads.with_located_weights(same) == same


def test_what_downloads_nothing_asks_nobody(offline):
    """Random weights, and weights from a file or a package."""
    downloads.refuse_unreachable(config(weights="none"))
    downloads.refuse_unreachable(config(weights="body.weights.h5"))
    downloads.refuse_unreachable(config(architecture="EfficientNetLite0"))
