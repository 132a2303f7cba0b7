"""A model folder becomes a function from pixels to scores, on the engine that suits the worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from catdog.errors import UserInputError
from catdog.model import folders
from catdog.runtime import tensorflow_quirks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catdog.runtime import Precision

Engine = Literal["auto", "openvino", "tensorflow"]


@dataclass(frozen=True)
class Arithmetic:
    """How scores are computed, which decides their last bits.

    Attributes:
        engine: `openvino` or `tensorflow`.
        precision: `float32`, `bfloat16` or `float16`.
        device: `cpu` or `gpu`.
    """

    engine: str
    precision: str
    device: str

    @property
    def needs_bfloat16(self) -> bool:
        """Whether CPUs must multiply it natively: without, OpenVINO takes float32 without a word."""
        return (self.engine, self.precision) == ("openvino", "bfloat16")


class Predictor(Protocol):
    """Scores images.

    Attributes:
        precision: what it computes in.
        embedding_size: numbers in an embedding; 0 where none were asked for.
    """

    precision: str
    embedding_size: int

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores (n, classes), float32, of pixels (n, height, width, 3).

        Rows sum to 1, unless an image may have several classes (`ModelMetadata.multi_label`).
        """

    def with_embeddings(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """Scores, and embeddings (n, embedding_size), each of length 1."""


def choose_arithmetic(
    model: folders.Model,
    *,
    engine: Engine = "auto",
    precision: Precision = "auto",
    gpu: bool = False,
    bfloat16: bool | None = None,
) -> Arithmetic:
    """What `auto` means for a model.

    OpenVINO on CPUs: it starts in a fraction of a second where TensorFlow takes about ten, and runs
    `article` 1.5 (float32) to 3.5 (bfloat16) times as fast on one core; scores differ by rounding
    only (docs/results.md). On a GPU, TensorFlow.

    Args:
        model: loaded.
        engine: as asked for.
        precision: as asked for.
        gpu: whether there is one.
        bfloat16: whether the CPUs multiply it natively; this machine's where not given.

    Raises:
        UserInputError: the model folder has no OpenVINO files and `engine` asks for them.
    """
    has_openvino = all(name in model.files for name in folders.OPENVINO_FILES)
    if engine == "openvino" and not has_openvino:
        raise UserInputError(f"--engine openvino: {model.uri} holds no {folders.OPENVINO_FILES[0]}")
    has_keras = folders.KERAS_FILE in model.files
    if engine == "tensorflow" and not has_keras:
        raise UserInputError(f"--engine tensorflow: {model.uri} holds no {folders.KERAS_FILE}")
    openvino = engine == "openvino" or (
        engine == "auto" and has_openvino and not (gpu and has_keras)
    )
    device = "gpu" if gpu and not openvino else "cpu"
    resolved: str = precision
    if precision == "auto" and device == "cpu" and bfloat16 is not None:
        resolved = "bfloat16" if bfloat16 else "float32"
    elif precision == "auto":
        resolved = tensorflow_quirks.resolve_precision(precision, gpu=device == "gpu")
    if openvino and resolved == "float16":
        resolved = "float32"  # a GPU's precision; a CPU computes it through float32
    return Arithmetic("openvino" if openvino else "tensorflow", resolved, device)


def load_predictor(
    model: folders.Model,
    *,
    engine: Engine = "auto",
    precision: Precision = "auto",
    threads: int = 1,
    gpu: bool = False,
    embeddings: bool = False,
) -> Predictor:
    """Prepare a model for scoring in this process; `auto` as `choose_arithmetic` takes it.

    An embedding is what the last dense layer, the head, is given, scaled to length 1.

    Raises:
        UserInputError: the model folder has no files for the engine that is asked for; or
            embeddings are asked for, and the network does not end with a dense layer.
    """
    chosen = choose_arithmetic(model, engine=engine, precision=precision, gpu=gpu)
    if chosen.engine == "openvino":
        return _OpenVinoPredictor(model, chosen.precision, threads, embeddings=embeddings)
    return _TensorFlowPredictor(model, chosen.precision, threads, embeddings=embeddings)


def both_classes(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """A sigmoid (n, 1) gives the second label's probability; add the first label's."""
    if scores.shape[1] > 1:
        return scores
    return np.concatenate([1 - scores, scores], axis=1)


def _unit(features: NDArray[Any]) -> NDArray[np.float16]:
    """Rows scaled to length 1, so that float16 holds them and their product is the cosine."""
    features = features.astype(np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(lengths > 0, lengths, 1)).astype(np.float16)


def _no_head(model: folders.Model) -> UserInputError:
    return UserInputError(
        f"--embeddings: the network of {model.uri} does not end with a dense layer"
    )


class _OpenVinoPredictor:
    def __init__(
        self, model: folders.Model, precision: str, threads: int, *, embeddings: bool
    ) -> None:
        import openvino

        structure, weights = (model.files[name] for name in folders.OPENVINO_FILES)
        core = openvino.Core()
        network = core.read_model(structure, openvino.Tensor(np.frombuffer(weights, np.uint8)))
        self.embedding_size = 0
        if embeddings:
            features = _input_of_head(network)
            if features is None:
                raise _no_head(model)
            self.embedding_size = features.get_partial_shape()[1].get_length()
            network.add_outputs([features])
        hint = "bf16" if precision == "bfloat16" else "f32"
        compiled = core.compile_model(
            network,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": hint,
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,  # several workers share a machine
            },
        )
        self._request = compiled.create_infer_request()
        self.precision = "bfloat16" if hint == "bf16" else "float32"

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        results = self._request.infer(pixels, share_inputs=True)
        return both_classes(np.asarray(results[0], np.float32))

    def with_embeddings(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        results = self._request.infer(pixels, share_inputs=True)
        features = results[1] if self.embedding_size else np.empty((len(pixels), 0))
        return both_classes(np.asarray(results[0], np.float32)), _unit(features)


def _input_of_head(network: Any) -> Any:
    """What the last multiplication by weights is given, (n, features); None where there is none."""
    operation = network.outputs[0].get_node()
    while operation.get_type_name() != "MatMul":
        inputs = [value for value in operation.input_values() if not _is_constant(value.get_node())]
        if len(inputs) != 1:  # the image itself, or where several branches meet
            return None
        operation = inputs[0].get_node()
    features = operation.input_value(0)
    return features if len(features.get_partial_shape()) == 2 else None


def _is_constant(operation: Any) -> bool:
    """Whether it is a constant; one of float16 is converted."""
    kind = operation.get_type_name()
    return kind == "Constant" or (
        kind == "Convert" and _is_constant(operation.input_value(0).get_node())
    )


class _TensorFlowPredictor:
    def __init__(
        self, model: folders.Model, precision: str, threads: int, *, embeddings: bool
    ) -> None:
        keras = tensorflow_quirks.import_keras(threads)
        import tensorflow as tf

        policy = tensorflow_quirks.dtype_policy(precision)  # type: ignore[arg-type]
        network = _with_dtype_policy(keras, model.keras_model(), policy)
        shape = (None, *network.input_shape[1:])
        self.embedding_size = 0
        if embeddings:
            heads = [each for each in network.layers if isinstance(each, keras.layers.Dense)]
            if not heads or len(heads[-1].input.shape) != 2:
                raise _no_head(model)
            self.embedding_size = int(heads[-1].input.shape[1])
            network = keras.Model(network.inputs[0], [*network.outputs, heads[-1].input])
        self._predict: Any = tensorflow_quirks.traced(
            lambda pixels: tf.nest.flatten(network(pixels, training=False)),
            input_signature=[tf.TensorSpec(shape, tf.uint8)],
        )
        self.precision = precision

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.with_embeddings(pixels)[0]

    def with_embeddings(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        results = self._predict(pixels)
        features = results[1].numpy() if self.embedding_size else np.empty((len(pixels), 0))
        return both_classes(results[0].numpy().astype(np.float32)), _unit(features)


def _with_dtype_policy(keras: Any, network: Any, policy: str) -> Any:
    """The same network and weights, its hidden layers computing under `policy`.

    A saved model names each layer's policy; changing the global one leaves a loaded model as it is.
    """
    if policy == "float32":
        return network

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        is_input = isinstance(layer, keras.layers.InputLayer)
        if not is_input and layer is not network.layers[-1]:  # probabilities stay float32
            config["dtype"] = policy
        return type(layer).from_config(config)

    converted = keras.models.clone_model(network, clone_function=clone)
    converted.set_weights(network.get_weights())
    return converted
