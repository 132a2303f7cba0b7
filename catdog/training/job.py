"""Data-parallel training: Keras under TensorFlow's strategy on workers that Ray Train starts.

The flow: `train` (the driver) claims the run's folder, lists the images and has Ray Data decode them;
`train_worker` runs on every worker and reports a checkpoint each epoch; the driver shows the progress
and writes the run's folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catdog import storage
from catdog.errors import counted
from catdog.inputs import SourceLimits
from catdog.model import folders
from catdog.observer import Observer
from catdog.pixels import DecodeLimits
from catdog.runtime import fit, nodes, ray_quirks
from catdog.training import choice, claims, decoding, downloads, fitting, records, teacher
from catdog.training.config import AUTO, TrainConfig, best_row
from catdog.training.labelled import TEST, TRAIN, list_labelled
from catdog.training.records import METRICS_COLUMNS

if TYPE_CHECKING:
    from catdog.training.data import DecodedImages
    from catdog.training.labelled import LabelledImages

__all__ = ["METRICS_COLUMNS", "TrainConfig", "TrainResult", "train"]

_COUNTED = ("train", "validation", "rejected")  # images of a run, in the order of its summary
_WINDOW_SHARE = 4  # of a node's object store: one window is read, the next comes, results pass


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        output: URI of the run's folder.
        model: URI of the model folder, the best epoch's.
        fingerprint: of the model.
        best: the best epoch's row of the metrics.
        history: one row per epoch, with the columns of `METRICS_COLUMNS`.
        labels: the classes.
        images: numbers of images by part, and rejected.
        seconds: wall time of the whole job.
        decoding_s: wall time of the decoding within it.
        decoded_images_per_s: its rate, the rejected images among them.
    """

    output: str
    model: str
    fingerprint: str
    best: dict[str, float]
    history: tuple[dict[str, float], ...]
    labels: tuple[str, ...]
    images: dict[str, int]
    seconds: float
    decoding_s: float
    decoded_images_per_s: float


def train(config: TrainConfig, observer: Observer | None = None) -> TrainResult:
    """Train as configured; runs on the driver, connects to Ray and disconnects.

    An interrupted run in the same folder continues; a finished one stays as it is.

    Raises:
        UserInputError: the input is wrong: no images, no labels, an output that is in use.
        CatdogError: training failed; the same call continues from the last checkpoint.
    """
    started = time.monotonic()
    observer = observer or Observer()
    output = storage.to_uri(config.output)
    claims.refuse_other_stores(config.output)
    config = downloads.with_located_weights(config)
    downloads.refuse_unreachable(config)
    labelled = None
    config = choice.recorded(config, output)
    if config.architecture == AUTO:
        labelled = _listed(config, observer)
        config, line = choice.chosen(config, labelled)
        observer.phase(line)
    with claims.claimed(config, output, versions()) as claim:
        if claim.finished:
            observer.phase("nothing to do: the run is complete")
            return _finished_result(output)
        labelled = labelled or _listed(config, observer)
        of_teacher = config.teacher and teacher.load(config.teacher, labelled.labels)
        if done := records.epochs_done(output):
            epochs = counted(config.hyperparameters.epochs, "epoch")
            observer.phase(f"resuming: {done} of {epochs} done")
        observer.phase("starting Ray")
        with ray_quirks.connect(
            config.address,
            minimum_cpus=config.workers,
            packages=("keras", "tensorflow"),
            labels=(config.node_label, config.decoding_label),
            install=config.install,
        ):
            return _on_cluster(
                config, output, labelled, of_teacher or None, claim, observer, started
            )


def _listed(config: TrainConfig, observer: Observer) -> LabelledImages:
    observer.phase("listing images")
    labelled = list_labelled(
        config.images,
        SourceLimits(),
        config.columns,
        validation=config.validation,
        test=config.test,
        split_by_folder=config.split_by_folder == "auto",
        given_labels=config.labels,
        unlabelled=config.teacher is not None,
        multi_label=config.multi_label,
    )
    for line in labelled.notices:
        observer.phase(line)
    return labelled


def _on_cluster(
    config: TrainConfig,
    output: str,
    labelled: LabelledImages,
    of_teacher: folders.Model | None,
    claim: claims.Claim,
    observer: Observer,
    started: float,
) -> TrainResult:
    fitting_run = config.for_images(int((labelled.parts == TRAIN).sum()))
    if fitting_run != config:
        observer.phase("using the recipe for short runs (docs/train.md)")
    config = fitting_run
    fitting.refuse_labels(config)
    label = config.node_label
    shape: dict[str, Any] = {"cpus": config.cpus_per_worker, "label": label}
    shape["gpus"] = config.gpus_per_worker or 0
    nodes.wait_for_room(config.workers or 1, **shape, on_wait=observer.phase)
    _, gpus = nodes.cluster_resources(label)
    use_gpu = gpus > 0 if config.gpus_per_worker is None else config.gpus_per_worker > 0
    shape["gpus"] = int(use_gpu)
    workers = config.workers or config.workers_of(nodes.room(**shape))
    nodes.wait_for_room(workers, **shape, on_wait=observer.phase)
    nodes.wait_until_free(workers, **shape, on_wait=observer.phase, timeout_s=config.wait_s)
    decoders = nodes.room(cpus=1, label=config.decoding_label)
    if not use_gpu and config.workers and nodes.is_shared(config.address):
        decoders = min(decoders, workers * config.cpus_per_worker)  # the rest is for others
    decoded, images = _prepared(config, output, labelled, of_teacher, decoders, observer)
    total = len(decoded.images.train) + len(decoded.images.validation) + len(images.rejected)
    observer.phase(
        f"starting {counted(workers, 'worker')}"
        + (", which compute features first" if config.trains_head_only else "")
    )
    fitted = fitting.fit(
        config.on_workers(workers),
        output,
        images,
        labelled.labels,
        workers,
        observer,
        claim.check,
        use_gpu=use_gpu,
    )
    observer.phase("saving the model")
    numbers = (len(images.train), len(images.validation), len(images.rejected))
    counts = dict(zip(_COUNTED, numbers, strict=True))
    return _saved(
        config.on_workers(workers),
        output,
        fitted,
        labelled.labels,
        counts,
        workers,
        of_teacher,
        decoding_s=decoded.seconds,
        decoded_images_per_s=total / max(decoded.seconds, 1e-9),
        started=started,
    )


def _prepared(
    config: TrainConfig,
    output: str,
    labelled: LabelledImages,
    of_teacher: folders.Model | None,
    decoders: int,
    observer: Observer,
) -> tuple[decoding.Decoded, DecodedImages]:
    """The result of decoding, and its images with a teacher's targets, if there is one."""
    import ray

    decoders = max(1, decoders)
    each_epoch = _decodes_each_epoch(config, labelled.entries.num_rows, observer)
    wanted = int((labelled.parts != TEST).sum())
    observer.phase(f"decoding {counted(wanted, 'image')}")
    decoded = decoding.decode_all(
        labelled,
        config,
        DecodeLimits(),
        SourceLimits(),
        actors=decoders,
        window_images=_window_images(config, output),
        each_epoch=each_epoch,
        observer=observer,
    )
    images = decoded.images
    total = len(images.train) + len(images.validation) + len(images.rejected)
    records.write_rejected(output, images.rejected, total, config.max_rejected)
    if of_teacher is not None:
        observer.phase("the teacher scores the images")
        scores = teacher.scores_of(
            of_teacher,
            labelled,
            output,
            actors=decoders,
            label=config.decoding_label,
            observer=observer,
        )
        images = teacher.taught(images, scores)
    elif labelled.answers is not None:
        images = dataclasses.replace(images, targets=ray.put(labelled.answers))
    decoding.refuse_empty(images, labelled)
    cached = config.cache is not None
    for line in decoding.notices(decoded, parts_given=labelled.parts_given, cached=cached):
        observer.phase(line)
    return decoded, images


def _decodes_each_epoch(config: TrainConfig, images: int, observer: Observer) -> bool:
    """Whether images are decoded again in each epoch; tells the observer why."""
    import ray

    room = fit.object_room(ray.nodes())
    for line in room.notices:
        observer.phase(line)
    needed = images * math.prod((config.preprocessing.height, config.preprocessing.width, 3))
    each_epoch = config.decode == "each-epoch"
    if config.decode == "auto":
        each_epoch = not room.holds(needed)
    store, disk = fit.gigabytes(room.store_bytes), fit.gigabytes(room.disk_bytes)
    line = f"the decoded images take {fit.gigabytes(needed)} and the object stores of the nodes hold {store}"
    if each_epoch:
        observer.phase(f"{line}, their disks {disk}: each epoch decodes them again")
    elif needed > room.store_bytes:
        observer.phase(
            f"{line}: the rest goes to disk and is slower to read "
            "(`ray start --object-store-memory` sets a node's)"
        )
    return each_epoch


def _window_images(config: TrainConfig, output: str) -> int:
    """How many images are shuffled together: as many as a node's object store holds beside the rest.

    The order of training depends on it, so it is recorded once, and a resumed run keeps it on any
    nodes.
    """
    uri = storage.join(output, claims.ORDER_FILE)
    if not storage.exists(uri):
        preprocessing = config.preprocessing
        image_bytes = math.prod((preprocessing.height, preprocessing.width, 3))
        images = _object_store_bytes() // _WINDOW_SHARE // image_bytes
        record = {"window_images": max(1, images)}
        storage.write_new(uri, (json.dumps(record) + "\n").encode())
    return int(json.loads(storage.read_bytes(uri, 2**20))["window_images"])


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, for run records."""
    packages = (
        "catdog-ray",
        "ray",
        "tensorflow",
        "keras",
        "openvino",
        "pillow",
        "pyarrow",
        "numpy",
    )
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _finished_result(output: str) -> TrainResult:
    folder = storage.join(output, folders.RUN_SUBFOLDER)
    metadata = folders.load(folder).metadata
    training = metadata.training
    return TrainResult(
        output=output,
        model=folder,
        fingerprint=metadata.fingerprint,
        best=dict(training["best"]),
        history=tuple(training["history"]),
        labels=metadata.labels,
        images={name: training["images"][name] for name in _COUNTED},
        seconds=0.0,
        decoding_s=0.0,
        decoded_images_per_s=0.0,
    )


def _object_store_bytes() -> int:
    """Of the live node that has least."""
    import ray

    live = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return int(min(has["object_store_memory"] for has in live if "object_store_memory" in has))


def _saved(
    config: TrainConfig,
    output: str,
    fitted: fitting.Fitted,
    labels: tuple[str, ...],
    counts: dict[str, int],
    workers: int,
    of_teacher: folders.Model | None,
    *,
    decoding_s: float,
    decoded_images_per_s: float,
    started: float,
) -> TrainResult:
    """Write the run's last files, the model's metadata last of all."""
    history = fitted.history
    best = best_row(history, config.monitor)
    records.write_metrics(output, history)
    records.write_curves(output, history, best)
    seconds = time.monotonic() - started
    model_uri = storage.join(output, folders.RUN_SUBFOLDER)
    metadata = folders.save(
        model_uri,
        fitted.files,
        labels=labels,
        preprocessing=config.preprocessing,
        architecture=config.architecture,
        multi_label=config.multi_label,
        training={
            "recipe": config.recipe(),
            "workers": workers,
            "images": counts,
            "best": best,
            "temperature": fitted.temperature,
            "history": list(history),
            "seconds": round(seconds, 1),
            "decoding_s": round(decoding_s, 1),
            "versions": versions(),
        }
        | ({} if of_teacher is None else {"teacher": of_teacher.metadata.fingerprint}),
    )
    return TrainResult(
        output=output,
        model=model_uri,
        fingerprint=metadata.fingerprint,
        best=best,
        history=history,
        labels=labels,
        images=counts,
        seconds=seconds,
        decoding_s=round(decoding_s, 2),
        decoded_images_per_s=round(decoded_images_per_s, 1),
    )
