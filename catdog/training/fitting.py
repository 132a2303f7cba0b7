"""The training workers as the driver sees them: started by Ray Train, watched, their epochs shown."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from catdog.ahead import NothingYet, read_ahead
from catdog.errors import CatdogError, UserInputError
from catdog.model import folders
from catdog.runtime import nodes, ray_quirks, tensorflow_quirks
from catdog.training import records
from catdog.training.config import marked
from catdog.training.features import FeatureStore
from catdog.training.worker import TEMPERATURE_FILE, train_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from catdog.observer import Observer
    from catdog.training.config import TrainConfig
    from catdog.training.data import DecodedImages

_POLL_S = 0.5
# How often Ray Train's controller asks each worker what it has to report, which the worker waits for
# at the end of each epoch: every 2 s by default.
POLLS_VARIABLE = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
_POLLS_A_SECOND = 64  # of all workers together
_SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S = 0.25, 2.0


class Fitted(NamedTuple):
    """What the workers leave.

    Attributes:
        history: rows of the metrics, an epoch each.
        files: the model folder's files of the best epoch.
        temperature: what its scores were divided by.
    """

    history: tuple[dict[str, float], ...]
    files: dict[str, bytes]
    temperature: float


def refuse_labels(config: TrainConfig) -> None:
    """Say that this Ray cannot place training workers by label, where that is asked for.

    Raises:
        UserInputError: it cannot.
    """
    if config.node_label is None:
        return
    import ray
    from ray.train import ScalingConfig

    if "label_selector" not in {each.name for each in dataclasses.fields(ScalingConfig)}:
        raise UserInputError(
            f"--node-label {config.node_label}: Ray {ray.__version__} cannot place training workers "
            "by label; Ray 2.53 and newer can"
        )


def fit(
    config: TrainConfig,
    output: str,
    images: DecodedImages,
    labels: tuple[str, ...],
    workers: int,
    observer: Observer,
    check: Callable[[], None],
    *,
    use_gpu: bool,
) -> Fitted:
    """Train on the workers of the connected cluster; writes the metrics after each epoch.

    Raises:
        CatdogError: training failed; by `check`, called twice a second; or nodes are gone and do not return.
    """
    import ray

    # Not on a worker's node, with which it would go.
    board = ray.remote(**nodes.beside_driver())(_Board).remote()
    store = ray.remote(**nodes.beside_driver())(FeatureStore).remote()
    loop = {
        "config": config,
        "images": images,
        "labels": labels,
        "board": board,
        "store": store,
        "use_gpu": use_gpu,
    }
    trainer = _trainer(config, output, loop, workers, use_gpu=use_gpu)
    watch = nodes.NodeWatch(
        workers,
        cpus=config.cpus_per_worker,
        gpus=int(use_gpu),
        label=config.node_label,
        on_lost=observer.phase,
    )
    shown = 0
    with (
        ray_quirks.plain_errors(),  # of the board's, which a node without memory ends, too
        read_ahead(
            _outcome(trainer, workers), 1, name="catdog-trainer", every_s=_POLL_S, patience_s=0.0
        ) as fit,
    ):
        result: Any = None
        for came in fit:
            check()
            watch.check()  # Ray Train waits for nodes without end
            state = ray.get(board.state.remote())
            # Short epochs come several at a time.
            for row, best in itertools.islice(marked(state.history, config.monitor), shown, None):
                observer.epoch(row, best=best)
            if len(state.history) > shown:
                shown = len(state.history)
                records.write_metrics(output, state.history)
            if not isinstance(came, NothingYet):
                result = came
                break
            if state.progress is not None:
                observer.steps(*state.progress)
    if isinstance(result, Exception):
        raise CatdogError(f"training failed: {ray_quirks.root_cause(result)}") from result
    with result.checkpoint.as_directory() as folder:
        files = {
            name: (Path(folder) / name).read_bytes()
            for name in (folders.KERAS_FILE, *folders.OPENVINO_FILES)
        }
        temperature = json.loads((Path(folder) / TEMPERATURE_FILE).read_text())
    return Fitted(tuple(state.history), files, temperature)


def _outcome(trainer: Any, workers: int) -> Iterator[Any]:
    """What training ends with: its result, or why it failed."""
    interval_s = min(max(workers / _POLLS_A_SECOND, _SHORTEST_INTERVAL_S), _LONGEST_INTERVAL_S)
    ours = POLLS_VARIABLE not in os.environ
    os.environ.setdefault(POLLS_VARIABLE, str(interval_s))
    try:
        yield trainer.fit()
    except Exception as error:
        yield error
    finally:
        if ours:
            del os.environ[POLLS_VARIABLE]


def _trainer(
    config: TrainConfig, output: str, loop: dict[str, Any], workers: int, *, use_gpu: bool
) -> Any:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    filesystem, path = ray_quirks.arrow_filesystem(output)
    return DataParallelTrainer(
        train_worker,
        backend_config=tensorflow_quirks.train_backend(),
        train_loop_config=loop,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
            **nodes.on_label(config.node_label),
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=config.max_restarts),
        ),
    )


@dataclass(frozen=True)
class _BoardState:
    progress: tuple[int, int, int, int, float, int] | None
    history: list[dict[str, float]]


class _Board:
    """An actor beside the driver where rank 0 writes how far it is."""

    def __init__(self) -> None:
        self._state = _BoardState(None, [])

    def write(
        self,
        progress: tuple[int, int, int, int, float, int] | None,
        history: list[dict[str, float]],
    ) -> None:
        """Replace the whole state: a restarted worker repeats epochs, each must stand once."""
        self._state = _BoardState(progress, history)

    def state(self) -> _BoardState:
        """What was written last."""
        return self._state
