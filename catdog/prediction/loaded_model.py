"""A model that scores pictures in this process: for notebooks, services and small scripts.

Pixels and scores come from the same code as in `catdog classify`. But no child process contains
hostile files, so score files from strangers with `catdog.classify`.
"""

from __future__ import annotations

import functools
import io
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from catdog import inputs, machine, storage
from catdog.errors import ErrorCode, ImageRejected, UserInputError
from catdog.inputs import SourceLimits
from catdog.model import folders, inference
from catdog.pixels import DecodeLimits, Preprocessing, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from catdog.model import Engine
    from catdog.runtime import Precision

Picture: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | Any"
)
"""A path or URI, an encoded file's bytes, a `PIL.Image.Image`, or uint8 (H, W), (H, W, 3 or 4)."""

_BATCH_SIZE = 16  # small batches stay in the CPU's caches
_decoding = threading.Lock()  # Pillow's settings are the process's


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one picture.

    Attributes:
        label: the class; None if the picture was rejected.
        probability: the label's probability, 0 to 1; None if rejected.
        scores: the probability of every class, in the order of the model's labels; None if
            rejected.
        error: the reason of a rejection, as a code of the results; else None.
        error_detail: the same as a sentence.
        embedding: the features before the last layer, scaled to length 1, if the model was loaded
            with `embeddings=True`; else None, and None if rejected.
        labels: all classes with a score of 0.5 or more, if the model is one of `train
            --multi-label`; else None, and None if rejected.
    """

    label: str | None
    probability: float | None
    scores: tuple[float, ...] | None
    error: str | None = None
    error_detail: str | None = None
    embedding: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None


class LoadedModel:
    """A model ready to score pictures.

    Safe to use from several threads; scoring takes one of them at a time.

    Args:
        model: a verified model folder.
        precision: number format of the arithmetic, as for `catdog classify`.
        engine: library that runs the network, as for `catdog classify`.
        threads: threads of the engine; by default one for each CPU that this process may use.
        embeddings: also return embeddings, as `catdog classify --embeddings`.
    """

    def __init__(
        self,
        model: folders.Model,
        *,
        precision: Precision = "auto",
        engine: Engine = "auto",
        threads: int | None = None,
        embeddings: bool = False,
    ) -> None:
        self._model = model
        self._settings: dict[str, Any] = {
            "precision": precision,
            "engine": engine,
            "threads": threads,
            "embeddings": embeddings,
        }
        self._scoring = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # What an engine holds stays in its process.
        return functools.partial(LoadedModel, **self._settings), (self._model,)

    def with_threads(self, threads: int | None) -> LoadedModel:
        """The same model with another number of threads; None for one per CPU of the process."""
        return LoadedModel(self._model, **self._settings | {"threads": threads})

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of the scores."""
        return self.metadata.labels

    @property
    def metadata(self) -> folders.ModelMetadata:
        """The metadata in the model folder."""
        return self._model.metadata

    @property
    def uri(self) -> str:
        """Where the model was read from."""
        return self._model.uri

    def predict(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        decode_limits: DecodeLimits | None = None,
        source_limits: SourceLimits | None = None,
    ) -> list[Prediction]:
        """Score pictures; returns one answer per picture, in order.

        A picture that cannot be read or decoded gets an answer with `error`. Pixels and bytes are
        limited; memory and decoding time are not.

        Args:
            pictures: one picture or several; see `Picture`.
            decode_limits: limits of one picture; those of time and memory do not apply.
            source_limits: limits of one file.

        Raises:
            UserInputError: the type or the array's shape is not that of a picture.
            StorageDownError: a store is unreachable.
        """
        wanted = _as_list(pictures)
        decode = functools.partial(
            _decoded,
            preprocessing=self.metadata.preprocessing,
            decode_limits=decode_limits or DecodeLimits(),
            source_limits=source_limits or SourceLimits(),
        )
        batches = [wanted[at : at + _BATCH_SIZE] for at in range(0, len(wanted), _BATCH_SIZE)]
        answers: list[Prediction] = []
        for decoded in _one_ahead(lambda batch: [decode(each) for each in batch], batches):
            answers += self._answers(decoded)
        return answers

    def best(self, answer: Prediction, count: int) -> list[tuple[str, float]]:
        """The most probable classes with their scores, best first; empty for a rejected picture."""
        scores = zip(self.labels, answer.scores or (), strict=False)
        return sorted(scores, key=lambda each: -each[1])[:count]

    @functools.cached_property
    def _score(self) -> inference.Predictor:
        threads = self._settings["threads"] or machine.usable_cpus()
        return inference.load_predictor(self._model, **self._settings | {"threads": threads})

    def _answers(self, decoded: list[NDArray[np.uint8] | ImageRejected]) -> list[Prediction]:
        pixels = [each for each in decoded if not isinstance(each, ImageRejected)]
        rows: Iterator[tuple[NDArray[np.float32], NDArray[np.float16]]] = iter(())
        if pixels:
            with self._scoring:
                rows = zip(*self._score.with_embeddings(np.stack(pixels)), strict=True)
        return [
            Prediction(None, None, None, each.code.value, each.detail)
            if isinstance(each, ImageRejected)
            else self._answer(*next(rows))
            for each in decoded
        ]

    def _answer(self, scores: NDArray[np.float32], embedding: NDArray[np.float16]) -> Prediction:
        best = int(scores.argmax())
        several = None
        if self.metadata.multi_label:
            has = np.flatnonzero(scores >= folders.MULTI_LABEL_THRESHOLD)
            several = tuple(self.labels[number] for number in has)
        return Prediction(
            self.labels[best],
            float(scores[best]),
            tuple(scores.tolist()),
            embedding=tuple(embedding.tolist()) or None,
            labels=several,
        )


def load(
    path_or_uri: str | os.PathLike[str] = folders.SHIPPED,
    *,
    precision: Precision = "auto",
    engine: Engine = "auto",
    threads: int | None = None,
    embeddings: bool = False,
) -> LoadedModel:
    """Load a model folder, a training run's folder, or by default the model that ships.

    This does not import Ray, nor TensorFlow if the model has OpenVINO files.

    ```python
    import catdog

    model = catdog.load_model("runs/first")
    for answer in model.predict(["photos/cat/cat.1.jpg", "photos/dog/dog.1.jpg"]):
        print(answer.label, answer.probability)
    ```

    Args:
        path_or_uri: the folder, local or S3, or the name of a model that ships.
        precision: number format of the arithmetic; `auto` is bfloat16 if the CPU has hardware for
            it, else float32.
        engine: library that runs the network; `auto` is OpenVINO.
        threads: threads of the engine; by default one for each CPU that this process may use.
        embeddings: also return embeddings, as `catdog classify --embeddings`.

    Raises:
        UserInputError: there is no model there.
        CatdogError: the folder is incomplete, damaged, or was changed.
    """
    model = folders.load(os.fspath(path_or_uri))
    return LoadedModel(
        model, precision=precision, engine=engine, threads=threads, embeddings=embeddings
    )


def _as_list(pictures: Picture | Iterable[Picture]) -> list[Picture]:
    from PIL import Image

    one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    if isinstance(pictures, np.ndarray):
        # Four axes are a batch; an array of objects is a column of paths or of bytes.
        several = pictures.ndim == 4 or pictures.dtype == object
        return list(pictures) if several else [pictures]
    if isinstance(pictures, one):
        return [pictures]
    if isinstance(pictures, Iterable):
        return list(pictures)
    raise UserInputError(_no_picture(pictures))


def _no_picture(thing: object) -> str:
    return f"{type(thing).__name__}: is not a picture; give a path, bytes, a PIL image or a uint8 array"


def _one_ahead(work: Any, items: Sequence[Any]) -> Iterator[Any]:
    """`work` of each item; a thread works on the next one meanwhile, unless there is only one."""
    if len(items) < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(1, "catdog-decode") as pool:
        ahead = pool.submit(work, items[0])
        for item in items[1:]:
            ready, ahead = ahead, pool.submit(work, item)
            yield ready.result()
        yield ahead.result()


def _decoded(
    picture: Picture,
    *,
    preprocessing: Preprocessing,
    decode_limits: DecodeLimits,
    source_limits: SourceLimits,
) -> NDArray[np.uint8] | ImageRejected:
    try:
        data = _encoded(picture, source_limits)
        if len(data) > source_limits.max_bytes:
            return ImageRejected(
                ErrorCode.TOO_LARGE, f"It has more than {source_limits.max_bytes:,} bytes."
            )
        with _decoding:
            return decode(data, preprocessing, decode_limits).pixels
    except ImageRejected as rejected:
        return rejected


def _encoded(picture: Picture, limits: SourceLimits) -> bytes:
    """A picture's file."""
    from PIL import Image

    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return _read(os.fspath(picture), limits)
    if isinstance(picture, np.ndarray):
        return _saved(_image_of(picture))
    if isinstance(picture, Image.Image):
        return _file_of(picture) or _saved(picture)
    raise UserInputError(_no_picture(picture))


def _read(text: str, limits: SourceLimits) -> bytes:
    if "::" in text:  # a member of an archive, named as in the results
        try:
            entries = next(inputs.list_images([text], limits))
        except UserInputError as error:
            raise ImageRejected(ErrorCode.UNSUPPORTED, f"{error}.") from error
        (found,) = inputs.read_images(_table(entries), limits, 1)
        if isinstance(found, ImageRejected):
            raise found
        return found
    try:
        return storage.read_bytes(storage.to_uri(text), limits.max_bytes)
    except ValueError as error:  # it is no URI: one row of a table, as in a list
        raise ImageRejected(ErrorCode.UNSUPPORTED, f"{error}.") from error
    except OSError as error:
        raise storage.rejection(error) from error


def _image_of(array: NDArray[Any]) -> Any:
    from PIL import Image

    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not fits or not array.size:
        raise UserInputError(
            f"an array of {array.dtype} {array.shape}: is not a picture; "
            "give uint8 of (height, width), (height, width, 3) or (height, width, 4)"
        )
    return Image.fromarray(array)


def _file_of(image: Any) -> bytes | None:
    """The file that an image was opened from; None if its pixels may have been changed.

    A JPEG is decoded at a scale that suits the network, so only the same bytes give the same pixels
    as in `classify`.
    """
    file = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None):  # made in memory, or loaded already
        return None
    place = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(place)
    return data


def _saved(image: Any) -> bytes:
    """An image's pixels as a lossless file; TIFF supports every mode of Pillow."""
    buffer = io.BytesIO()
    try:
        image.save(buffer, "TIFF")
    except (OSError, ValueError, KeyError) as error:
        raise ImageRejected(
            ErrorCode.UNSUPPORTED, f"A PIL image of mode {image.mode} cannot be read ({error})."
        ) from None
    return buffer.getvalue()


def _table(entries: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches([entries])
