"""The networks, by name. They use `keras.*` only, so that they run on every Keras backend.

Every network takes uint8 RGB pixels (n, height, width, 3) and gives probabilities in float32:
(n, 1) with a sigmoid for two classes (of the second label), (n, classes) with a softmax beyond, and
(n, classes) with sigmoids where an image may have several.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.model import efficientnet_lite

if TYPE_CHECKING:
    from catdog.pixels import Preprocessing

ARCHITECTURES = ("compact", "article")
PRETRAINED = efficientnet_lite.NAME
"""The network whose ImageNet weights an extra of this package brings: no network is needed."""
_FORMER_NAMES = {"seed": "article"}  # in old commands and run records; unrelated to `--seed`
# Networks of keras.applications 3.15, named here so that a wrong name is refused without a wait.
APPLICATIONS = tuple(
    """
    ConvNeXtBase ConvNeXtLarge ConvNeXtSmall ConvNeXtTiny ConvNeXtXLarge DenseNet121 DenseNet169
    DenseNet201 EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetB3 EfficientNetB4
    EfficientNetB5 EfficientNetB6 EfficientNetB7 EfficientNetV2B0 EfficientNetV2B1 EfficientNetV2B2
    EfficientNetV2B3 EfficientNetV2L EfficientNetV2M EfficientNetV2S InceptionResNetV2 InceptionV3
    MobileNet MobileNetV2 MobileNetV3Large MobileNetV3Small NASNetLarge NASNetMobile ResNet50
    ResNet101 ResNet152 ResNet50V2 ResNet101V2 ResNet152V2 VGG16 VGG19 Xception
    """.split()
)
# Smaller images leave a layer without padding nothing to work on. 32 is what Keras documents for all
# networks of keras.applications; most of these would take less.
_SMALLEST_SIDES = dict.fromkeys(APPLICATIONS, 32) | {
    "article": 46,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
}


def current_name(architecture: str) -> str:
    """The present name of an architecture; other names stay."""
    return _FORMER_NAMES.get(architecture, architecture)


def smallest_side(architecture: str) -> int:
    """The smallest height and width in pixels that a network takes."""
    return _SMALLEST_SIDES.get(architecture, 1)


def build(
    architecture: str,
    preprocessing: Preprocessing,
    classes: int,
    dtype_policy: str,
    *,
    weights: str | None = None,
    any_size: bool = False,
    multi_label: bool = False,
) -> Any:
    """A fresh `keras.Model` of the named architecture.

    Args:
        architecture: the name, of `ARCHITECTURES` or `APPLICATIONS`, or `PRETRAINED`.
        preprocessing: gives the height and width of the input.
        classes: two or more.
        dtype_policy: Keras' dtype policy of the hidden layers; the output is float32 always.
        weights: a local file; or `imagenet` for `PRETRAINED` or a network of keras.applications; or
            None for random. Of `ARCHITECTURES` the file has the whole network, of others all but the
            last layer.
        any_size: whether it takes images of any size, which all but `article` can.
        multi_label: whether an image may have several classes, each with a sigmoid.

    Raises:
        UserInputError: the weights of `PRETRAINED` are not installed.
        ValueError, OSError: as Keras does for weights that do not fit or cannot be had.
    """
    import keras

    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype_policy)
    try:
        size = (None, None) if any_size else (preprocessing.height, preprocessing.width)
        pixels = keras.Input((*size, 3), dtype="uint8", name="pixels")
        if architecture == "article":
            features = _article(pixels)
        elif architecture == "compact":
            features = _compact(pixels)
        elif architecture == PRETRAINED:
            features = efficientnet_lite.features(pixels, weights)
        else:
            features = _application(architecture, weights)(pixels)
        scores = keras.layers.Dense(
            1 if classes == 2 and not multi_label else classes,
            activation="sigmoid" if classes == 2 or multi_label else "softmax",
            # Pretrained features mean something already, so random directions must be unlearned first:
            # from 100 photos a class they cost half a percent of accuracy.
            kernel_initializer="zeros" if weights else "glorot_uniform",
            dtype="float32",
            name="scores",
        )(features)
        network = keras.Model(pixels, scores, name=architecture)
        if weights is not None and architecture in ARCHITECTURES:
            network.load_weights(weights)
        return network
    finally:
        keras.config.set_dtype_policy(previous)


def _article(pixels: Any) -> Any:
    """The article's CNN: 3,453,121 parameters at 150x150 with two classes."""
    from keras import layers

    x = layers.Rescaling(1 / 255)(pixels)
    for filters in (32, 64, 128, 128):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    return layers.Dense(512, activation="relu")(x)


def _compact(pixels: Any) -> Any:
    """A small residual network: 0.93 million parameters, 117 million operations at 160x160.

    Dense 3x3 convolutions and few layers: on CPUs depthwise layers and long chains of
    normalisations take far more time than their arithmetic says. Global pooling at the end takes
    images of any size.
    """
    from keras import layers

    def convolution(x: Any, filters: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.95)(x)

    x = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    for filters in (16, 32):
        x = layers.ReLU()(convolution(x, filters, strides=2))
    for filters in (32, 96, 176):
        x = layers.ReLU()(convolution(x, filters, strides=2))
        inner = layers.ReLU()(convolution(x, filters))
        x = layers.ReLU()(layers.Add()([x, convolution(inner, filters)]))
    return layers.GlobalAveragePooling2D()(x)


def _application(name: str, weights: str | None) -> Any:
    """A network of keras.applications without its head, from pixels to pooled features."""
    import keras

    function = getattr(keras.applications, name)
    network = function(include_top=False, weights=weights, pooling="avg")
    # Each has its own preprocessing, a function beside it.
    preprocess = sys.modules[function.__module__].preprocess_input

    def features(pixels: Any) -> Any:
        x = _layer_like(preprocess)(keras.layers.Rescaling(1.0, dtype="float32")(pixels))
        return network(x)

    return features


def _layer_like(preprocess: Any) -> Any:
    """A frozen layer with the effect of a `preprocess_input` of keras.applications.

    All of these functions are affine in the colours, and some swap red and blue. So four colours
    determine the function, and a 1x1 convolution, unlike a function, can be part of the model.
    """
    import keras

    colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).astype(np.float32)
    seen = np.asarray(preprocess(colours.reshape(4, 1, 1, 3).copy())).reshape(4, 3)
    layer = keras.layers.Conv2D(3, 1, dtype="float32", trainable=False, name="preprocessing")
    layer.build((None, None, None, 3))
    layer.set_weights([((seen[1:] - seen[0]) / 255).reshape(1, 1, 3, 3), seen[0]])
    return layer
