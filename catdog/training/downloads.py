"""Checks before the start that the initial weights can be had: a file, or what Keras downloads."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import storage
from catdog.errors import UserInputError
from catdog.model import APPLICATIONS

if TYPE_CHECKING:
    from catdog.training.config import TrainConfig

_HOST = "https://storage.googleapis.com"  # where Keras has its weights
_TIMEOUT_S = 3.0
# In its own process: nothing else can end a name lookup that no server answers.
_ASK = (
    "import sys, urllib.error, urllib.request\n"
    "try:\n"
    "    urllib.request.urlopen(sys.argv[1], timeout=2.5)\n"
    "except urllib.error.HTTPError:\n"
    "    pass\n"  # it answers
)


def with_located_weights(config: TrainConfig) -> TrainConfig:
    """The same, with a relative path to a file of initial weights made absolute.

    Workers run in another folder. A `file://` URI is not looked for: only the nodes may have it.

    Raises:
        UserInputError: the file does not exist, or Keras has no such format.
    """
    weights = config.initial_weights
    if weights is None or weights == "imagenet":
        return config
    flag = f"--weights {weights}"
    if not weights.endswith((".h5", ".keras")):
        raise UserInputError(f"{flag}: name imagenet, none, or a .weights.h5 or .keras file")
    with storage.blamed_on(flag):
        uri = storage.to_uri(weights)
        if not uri.startswith("file://") or "://" not in weights:
            storage.size_and_stamp(uri)
    return (
        config if "://" in weights else dataclasses.replace(config, weights=storage.local_path(uri))
    )


def refuse_unreachable(config: TrainConfig) -> None:
    """Check that Keras can load the initial weights: they are in its cache, or its server answers.

    Raises:
        UserInputError: neither, after at most `_TIMEOUT_S` seconds.
    """
    if config.initial_weights != "imagenet" or config.architecture not in APPLICATIONS:
        return
    if _is_cached(config.architecture):
        return
    command = [sys.executable, "-c", _ASK, _HOST]
    try:
        reachable = not subprocess.run(
            command, capture_output=True, timeout=_TIMEOUT_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        reachable = False
    if not reachable:
        raise UserInputError(
            f"--weights imagenet: the weights of {config.architecture} cannot be downloaded, "
            f"{_HOST} does not answer; name a file with --weights, or take --architecture "
            "EfficientNetLite0, whose weights are a package"
        )


def _is_cached(architecture: str) -> bool:
    """Whether Keras' folder has that network's weights without the last layer."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    plain = [path.name.lower().replace("_", "") for path in home.glob("models/*")]
    return any(architecture.lower() in name and "notop" in name for name in plain)
