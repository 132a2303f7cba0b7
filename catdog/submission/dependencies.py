"""`--install`: the nodes of a cluster without catdog's dependencies get them from Ray.

The locks beside this file travel with the package. Each node installs one into an environment over
its own Python, with hashes checked, once: later jobs with the same lock find it. Ray itself is not
in the locks, since a driver's Ray must be the cluster's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# `classify` runs OpenVINO; TensorFlow, Keras and scikit-learn are more than half of the bytes.
_LOCKS = {"classify": "classify.lock"}
_ALL = "all.lock"


def lock_for(command: Sequence[str]) -> str:
    """Name of the lock that a command needs, beside this file."""
    runs_tensorflow = "tensorflow" in command or "--engine=tensorflow" in command
    return _ALL if runs_tensorflow else _LOCKS.get(command[0], _ALL)


def runtime_env(command: Sequence[str]) -> dict[str, Any]:
    """What Ray is told: the lock within the job's working directory, each file by its hash.

    `uv` on the node honours the node's own settings of a registry or mirror (`UV_INDEX_URL`).
    """
    lock = f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/catdog/submission/{lock_for(command)}"
    return {
        "uv": {
            "packages": [f"-r {lock}"],
            "uv_pip_install_options": ["--require-hashes", "--no-deps"],
        },
        # Ray gives up after ten minutes by default; TensorFlow from a slow mirror takes longer.
        "config": {"setup_timeout_seconds": 1800},
    }
