"""A model on disk: the folder where training and classification meet.

    model.keras      the Keras model, float32, with its rescaling inside
    model.xml, .bin  the same network for OpenVINO, so that workers classify without TensorFlow;
                     the only copy if `catdog package` made the folder
    metadata.json    labels, preprocessing, training record, the files' digests; written last

Everything that decides a score is in this folder and under one fingerprint, so classification has
no preprocessing flags. A folder whose metadata is missing, or whose files are not the ones that
the metadata names, is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog import scratch, storage
from catdog.errors import CatdogError, UserInputError
from catdog.model import registry
from catdog.pixels import Preprocessing
from catdog.runtime import tensorflow_quirks

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT_VERSION = 1
KERAS_FILE = "model.keras"
OPENVINO_FILES = ("model.xml", "model.bin")
METADATA_FILE = "metadata.json"
RUN_SUBFOLDER = "model"  # where a training run's folder holds its model
SHIPPED = "cats-and-dogs"  # the name of the model that is taken where none is named
SHIPPED_MODELS = (SHIPPED, "cats-and-dogs-large")  # those that come with the package
WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"  # with a folder for each of them
MULTI_LABEL_THRESHOLD = 0.5  # of several classes an image has those with at least this probability
_SHARED_OBJECT = re.compile(rb'("shared_object_id": )(\d+)')
_MAX_FILE_BYTES = 8 * 2**30


@dataclass(frozen=True)
class ModelMetadata:
    """The metadata of a model folder.

    Attributes:
        labels: the classes in the order of the scores.
        preprocessing: how bytes become the network's pixels.
        architecture: the network's name, for people; the network itself is in `model.keras`.
        files: SHA-256 of each file of the folder, by name.
        training: the record of the training run: configuration, best epoch, versions.
        format_version: of this folder's layout.
        multi_label: whether an image may have several classes: the scores are then probabilities
            of their own and do not sum to 1.
    """

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    architecture: str
    files: Mapping[str, str]
    training: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    multi_label: bool = False

    @property
    def parts(self) -> tuple[float, float]:
        """The fractions of its data that training kept for validation and for the test.

        Raises:
            CatdogError: the model does not record them.
        """
        recipe = self.training.get("recipe")
        validation, test = (
            recipe.get(name) if isinstance(recipe, dict) else None
            for name in ("validation", "test")
        )
        if not isinstance(validation, int | float) or not isinstance(test, int | float):
            raise CatdogError("the model does not record how its data was split")
        if not (0 <= validation < 1 and 0 <= test < 1):
            raise CatdogError("the model does not record how its data was split")
        return float(validation), float(test)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything that decides a score: weights, preprocessing, labels."""
        identity = {
            "format_version": self.format_version,
            "labels": list(self.labels),
            "preprocessing": self.preprocessing.to_json_dict(),
            "files": dict(sorted(self.files.items())),
        }
        if self.multi_label:  # older models, which had no such field, keep their fingerprint
            identity["multi_label"] = True
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> str:
        """The text of `metadata.json`."""
        content = dataclasses.asdict(self) | {
            "preprocessing": self.preprocessing.to_json_dict(),
            "fingerprint": self.fingerprint,
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelMetadata:
        """Read `metadata.json`.

        Raises:
            CatdogError: the text is not metadata of this version, or its fingerprint does not fit.
        """
        try:
            content = json.loads(text)
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise CatdogError(
                    f"the model's format version is {version}; this catdog reads {FORMAT_VERSION}"
                )
            if not all(isinstance(label, str) for label in content["labels"]):
                raise TypeError("a label is not text")
            metadata = cls(
                labels=tuple(content["labels"]),
                preprocessing=Preprocessing.from_json_dict(content["preprocessing"]),
                architecture=str(content["architecture"]),
                files={str(name): str(digest) for name, digest in content["files"].items()},
                training=dict(content["training"]),
                multi_label=content.get("multi_label", False) is True,
            )
            recorded = content["fingerprint"]
            "".join(metadata.labels).encode()  # else no row can hold them
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CatdogError(f"{METADATA_FILE} is damaged: {error!r}") from error
        whole = {KERAS_FILE} <= metadata.files.keys() or {*OPENVINO_FILES} <= metadata.files.keys()
        if len(metadata.labels) < 2 or not whole:
            raise CatdogError(f"{METADATA_FILE} is damaged: labels or files are missing")
        if recorded != metadata.fingerprint:
            raise CatdogError(f"{METADATA_FILE} was changed: its fingerprint does not fit")
        return metadata


@dataclass(frozen=True)
class Model:
    """A verified model folder, its files held as bytes so that it can travel to any worker.

    Attributes:
        uri: where it was read from.
        metadata: the content of `metadata.json`.
        files: the content of each file by name, digests checked.
    """

    uri: str
    metadata: ModelMetadata
    files: Mapping[str, bytes]

    def keras_model(self) -> Any:
        """The Keras model, loaded in safe mode. Import Keras by `tensorflow_quirks` first."""
        import keras

        with scratch.temporary_folder() as folder:
            path = folder / KERAS_FILE
            path.write_bytes(self.files[KERAS_FILE])
            # Safe mode refuses Lambda layers: a stranger's model must not run code.
            return keras.saving.load_model(path, compile=False, safe_mode=True)


def describe(
    files: Mapping[str, bytes],
    *,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    architecture: str,
    training: Mapping[str, Any],
    multi_label: bool = False,
) -> ModelMetadata:
    """What a model folder with these files says of itself."""
    return ModelMetadata(
        labels=labels,
        preprocessing=preprocessing,
        architecture=architecture,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        training=training,
        multi_label=multi_label,
    )


def save(
    folder_uri: str,
    files: Mapping[str, bytes],
    *,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    architecture: str,
    training: Mapping[str, Any],
    multi_label: bool = False,
) -> ModelMetadata:
    """Write a model folder (local or S3), the metadata last: without it there is no model."""
    metadata = describe(
        files,
        labels=labels,
        preprocessing=preprocessing,
        architecture=architecture,
        training=training,
        multi_label=multi_label,
    )
    for name, content in files.items():
        storage.write_atomic(storage.join(folder_uri, name), content)
    storage.write_atomic(storage.join(folder_uri, METADATA_FILE), metadata.to_json().encode())
    return metadata


def is_registered(model: str) -> bool:
    """Whether this names a model of MLflow's registry, and no place."""
    return model.startswith(registry.SCHEME)


def load(path_or_uri: str) -> Model:
    """Read and verify a model folder: itself, of a training run, of MLflow's registry, or shipped.

    Neither Keras nor TensorFlow is imported.

    Args:
        path_or_uri: where it is; `models:/NAME/VERSION` asks the server at `MLFLOW_TRACKING_URI`.

    Raises:
        UserInputError: there is no model there.
        CatdogError: the folder is half-written, damaged or was tampered with.
    """
    if is_registered(path_or_uri):
        with registry.fetched(path_or_uri) as folder:
            return dataclasses.replace(load(folder), uri=path_or_uri)
    shipped = path_or_uri in SHIPPED_MODELS
    uri = storage.to_uri(str(WEIGHTS_FOLDER / path_or_uri) if shipped else path_or_uri)
    if storage.exists(storage.join(uri, RUN_SUBFOLDER, METADATA_FILE)):
        uri = storage.join(uri, RUN_SUBFOLDER)
    metadata_uri = storage.join(uri, METADATA_FILE)
    if not storage.exists(metadata_uri):
        raise UserInputError(
            f"--model {path_or_uri}: no finished model there ({METADATA_FILE} is missing); name a "
            f"training run's folder, a model folder, {' or '.join(SHIPPED_MODELS)}"
        )
    try:
        metadata = ModelMetadata.from_json(storage.read_bytes(metadata_uri, 64 * 2**20))
        files: dict[str, bytes] = {}
        for name, digest in metadata.files.items():
            if name not in (KERAS_FILE, *OPENVINO_FILES):
                raise CatdogError(f"{METADATA_FILE} names an unknown file {name!r}")
            content = storage.read_bytes(storage.join(uri, name), _MAX_FILE_BYTES)
            if hashlib.sha256(content).hexdigest() != digest:
                raise CatdogError(f"{name} is not the file that {METADATA_FILE} names")
            files[name] = content
    except OSError as error:
        raise CatdogError(f"--model {path_or_uri}: {error}") from error
    except CatdogError as error:
        raise type(error)(f"--model {path_or_uri}: {error}") from error
    return Model(uri=uri, metadata=metadata, files=files)


def export(model: Any) -> dict[str, bytes]:
    """The files of a trained `keras.Model`: as Keras saves it, and converted for OpenVINO.

    Runs where the model was trained; the model's dtype policy is to be float32.
    """
    with scratch.temporary_folder() as folder, tensorflow_quirks.without_generated_files():
        model.save(folder / KERAS_FILE)
        xml, binary = (folder / name for name in OPENVINO_FILES)
        model.export(str(xml), format="openvino", verbose=False)
        _name_by_place(xml, binary)
        return {
            KERAS_FILE: _reproducible(folder / KERAS_FILE),
            xml.name: xml.read_bytes(),
            binary.name: binary.read_bytes(),
        }


def _name_by_place(xml: Path, binary: Path) -> None:
    """Give operations names that do not count what else this process has converted."""
    import openvino

    network = openvino.Core().read_model(xml)
    for place, operation in enumerate(network.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{place}")
    renamed = [xml.with_name(f"renamed{each.suffix}") for each in (xml, binary)]
    openvino.serialize(network, *renamed)  # not onto the file that it still reads
    for new, old in zip(renamed, (xml, binary), strict=True):
        new.replace(old)


def _reproducible(path: Path) -> bytes:
    """A Keras file without the time of saving and addresses in memory.

    So the same weights have the same fingerprint.
    """
    numbers: dict[bytes, int] = {}

    def numbered(shared: re.Match[bytes]) -> bytes:
        return b"%s%d" % (shared[1], numbers.setdefault(shared[2], len(numbers)))

    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as dated, zipfile.ZipFile(buffer, "w") as undated:
        for name in dated.namelist():
            content = dated.read(name)
            if name == "metadata.json":
                fields = json.loads(content)
                fields.pop("date_saved", None)
                content = json.dumps(fields).encode()
            elif name == "config.json":
                content = _SHARED_OBJECT.sub(numbered, content)
            undated.writestr(zipfile.ZipInfo(name), content)  # dated 1980
    return buffer.getvalue()
