"""`--install`: Ray installs catdog's dependencies on the nodes of a cluster that lacks them.

The locks beside this file travel with the package. Each node installs one into an environment over
its own Python, with hashes checked, once: later jobs with the same lock find it. Ray itself is not
in the locks, since a driver's Ray must be the cluster's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

# Ray gives up after ten minutes by default; TensorFlow from a slow mirror takes longer.
INSTALLED_WITHIN_S = 1800
# OpenVINO runs networks on CPUs; TensorFlow, Keras and scikit-learn are more than half of the bytes.
_WITHOUT_TENSORFLOW = "classify.lock"
_ALL = "all.lock"


def runtime_env(job: str, *, tensorflow: bool) -> dict[str, Any]:
    """The runtime environment for Ray: the lock in the job's working directory, each file by its hash.

    `uv` on the node honours the node's own settings of a registry or mirror (`UV_INDEX_URL`).

    Args:
        job: the job's identifier.
        tensorflow: whether the command needs TensorFlow.
    """
    name = _ALL if tensorflow else _WITHOUT_TENSORFLOW
    content = Path(__file__).with_name(name).read_bytes()
    return {
        "uv": {
            "packages": [
                f"-r ${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/catdog/runtime/{name}",
                # Ray up to 2.57 knows an environment by these lines alone, not by the file's content.
                f"# {hashlib.sha256(content).hexdigest()}",
            ],
            "uv_pip_install_options": ["--require-hashes", "--no-deps"],
        },
        "config": {"setup_timeout_seconds": INSTALLED_WITHIN_S},
        # Ray remembers for ten minutes that an installation failed and does not try it again; one
        # that succeeded is found by the lines above, whatever this says.
        "env_vars": {"CATDOG_JOB": job},
    }
