"""The one place where TensorFlow's and Keras' quirks are met and explained."""

from __future__ import annotations

import os
from typing import Any, Literal

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def prepare_environment() -> None:
    """Set what must be set before TensorFlow is imported for the first time in a process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # start-up chatter of the C++ runtime
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def import_keras(threads: int) -> Any:
    """Import Keras 3 on TensorFlow with a bounded number of threads.

    Ray's TensorflowTrainer sets `TF_USE_LEGACY_KERAS=1`; `import keras` still gives Keras 3, where
    `tf.keras` would want the old package. So `tf.keras` is used nowhere in this project.

    Args:
        threads: operator threads of this process. Two single-threaded processes are faster than
            one process with two threads on small CNNs (measured), so a worker gets its CPUs only.
    """
    prepare_environment()
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(2)  # compute and collectives
    except RuntimeError:
        pass  # TensorFlow already runs in this process; its threads are what they are
    import keras

    return keras


def resolve_precision(
    precision: Precision, *, gpu: bool
) -> Literal["float32", "bfloat16", "float16"]:
    """What `auto` means on this machine.

    bfloat16 where the CPU multiplies it natively (AVX512-BF16 or AMX: 1.7 times as fast in training,
    3.5 times in inference, measured), float16 on GPUs, float32 elsewhere.
    """
    if precision != "auto":
        return precision
    if gpu:
        return "float16"
    return "bfloat16" if cpu_has_bfloat16() else "float32"


def cpu_has_bfloat16() -> bool:
    """Whether this machine's CPU multiplies bfloat16 natively (Linux on x86; False elsewhere)."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return bool({"amx_bf16", "avx512_bf16"} & set(flags.split()))


def dtype_policy(precision: Literal["float32", "bfloat16", "float16"]) -> str:
    """Keras' name of the policy that computes in `precision` and keeps float32 weights."""
    return "float32" if precision == "float32" else f"mixed_{precision}"


def multi_worker_strategy() -> Any:
    """The strategy for the workers that Ray Train started (it set `TF_CONFIG`).

    A collective that waits for a dead worker waits for ever by default; with a timeout the
    survivors fail, and Ray Train starts the group again.
    """
    import tensorflow as tf

    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=COLLECTIVE_TIMEOUT_S)
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


COLLECTIVE_TIMEOUT_S = 300.0
