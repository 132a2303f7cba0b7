"""The networks, their augmentation and their normalisation, in this process' TensorFlow."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import numpy as np
import pytest

from catdog.model import architectures
from catdog.pixels import Preprocessing
from catdog.runtime import tensorflow_quirks
from catdog.training.config import COMPACT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keras():
    """Keras on TensorFlow, with random numbers that are the same each time."""
    module = tensorflow_quirks.import_keras(2)
    module.utils.set_random_seed(0)
    return module


def square(side: int) -> Preprocessing:
    return Preprocessing(height=side, width=side, resize="stretch")


def operations(model) -> int:
    """Floating-point operations for one image, as TensorFlow's own profiler counts them."""
    import tensorflow as tf

    signature = tf.TensorSpec((1, *model.input_shape[1:]), "uint8")
    graph = (
        tf.function(lambda pixels: model(pixels, training=False))
        .get_concrete_function(signature)
        .graph
    )
    profiler = tf.compat.v1.profiler
    options = (
        profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
        .with_empty_output()
        .build()
    )
    return profiler.profile(graph=graph, options=options).total_float_ops


def test_article_is_the_articles_network(keras):
    """3,453,121 parameters, and the 472 million operations that others are compared with."""
    article = architectures.build("article", square(150), 2, "float32")
    assert article.count_params() == 3_453_121
    assert operations(article) == pytest.approx(472e6, rel=0.01)


def test_compact_needs_a_quarter_of_its_arithmetic(keras):
    """Counted by the same tool, at the sizes that their recipes train at."""
    article = architectures.build("article", square(150), 2, "float32")
    compact = architectures.build("compact", square(COMPACT.height), 2, "float32")
    assert operations(compact) <= operations(article) / 4
    assert compact.count_params() < 1e6


@pytest.mark.parametrize(("height", "width", "classes"), [(32, 32, 10), (96, 160, 2), (33, 47, 3)])
def test_compact_takes_any_size_and_any_number_of_classes(keras, height, width, classes):
    """Probabilities of every class in float32, whatever precision the layers have."""
    preprocessing = Preprocessing(height=height, width=width, resize="stretch")
    model = architectures.build("compact", preprocessing, classes, "mixed_bfloat16")
    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8)
    scores = np.asarray(model(pixels))
    assert scores.dtype == np.float32
    assert scores.shape == (3, 1 if classes == 2 else classes)
    assert ((scores >= 0) & (scores <= 1)).all()
    if classes > 2:
        assert scores.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_the_names_are_those_of_keras_applications(keras):
    """The list that refuses wrong names at once is the installed Keras' list."""
    offered = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(architectures.APPLICATIONS) == offered


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "DenseNet121", "EfficientNetB0"])
def test_each_network_gets_its_own_preprocessing(keras, name):
    """The layer gives what the network's `preprocess_input` gives: all four kinds there are."""
    function = getattr(keras.applications, name)
    preprocess = sys.modules[function.__module__].preprocess_input
    pixels = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 3)).astype(np.float32)
    expected = np.asarray(preprocess(pixels.copy()))
    assert np.asarray(architectures._layer_like(preprocess)(pixels)) == pytest.approx(
        expected, abs=1e-3
    )


def test_an_application_travels_as_any_model(keras, tmp_path):
    """Saved, loaded in safe mode and asked again, it gives the same probabilities."""
    model = architectures.build("MobileNetV3Small", square(64), 3, "float32")
    pixels = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), np.uint8)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    assert np.asarray(loaded(pixels)) == pytest.approx(np.asarray(model(pixels)), abs=1e-5)


def test_initial_weights_come_from_a_file(keras, tmp_path):
    """`weights` names a file: the body's weights are the file's, the head is new."""
    source = keras.applications.MobileNetV3Small(include_top=False, weights=None, pooling="avg")
    source.save_weights(tmp_path / "body.weights.h5")
    model = architectures.build(
        "MobileNetV3Small", square(64), 2, "float32", weights=str(tmp_path / "body.weights.h5")
    )
    (body,) = [layer for layer in model.layers if hasattr(layer, "layers")]
    for ours, theirs in zip(body.get_weights(), source.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "classes", "size"),
    [
        ("article", 2, 512),
        pytest.param(
            "EfficientNetLite0", 3, 1280, marks=pytest.mark.long
        ),  # nested, like those of Keras
    ],
)
def test_every_network_has_embeddings(keras, name, classes, size):
    """What the head is given is found in Keras' file and in OpenVINO's, nested networks too."""
    from catdog.model import folders, inference

    network = architectures.build(name, square(64), classes, "float32")
    metadata = folders.ModelMetadata(tuple("abc"[:classes]), square(64), name, {})
    model = folders.Model("memory", metadata, folders.export(network))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    asked = {"precision": "float32", "embeddings": True}
    found = [
        inference.load_predictor(model, engine=engine, **asked).with_embeddings(pixels)[1]
        for engine in ("openvino", "tensorflow")
    ]
    assert found[0].shape == (3, size)
    np.testing.assert_allclose(*found, atol=2e-3)


def test_augmentation_follows_from_its_random_numbers(keras):
    """The same numbers give the same pixels, in any company; other numbers give others."""
    from catdog.training.augmentation import UNIFORMS, Augmentation

    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (6, 40, 30, 3), np.uint8)
    uniforms = random.random((6, UNIFORMS), np.float32)
    layer = Augmentation()
    whole = np.asarray(layer((pixels, uniforms)))
    assert whole.dtype == np.uint8
    assert whole.shape == pixels.shape
    halves = [np.asarray(layer((pixels[part], uniforms[part]))) for part in (slice(3), slice(3, 6))]
    assert np.array_equal(np.concatenate(halves), whole)
    other = np.asarray(layer((pixels, random.random((6, UNIFORMS), np.float32))))
    assert all((a != b).any() for a, b in zip(whole, other, strict=True))


def middle_of_the_ranges():
    """Random numbers for one image under which augmentation leaves it as it is."""
    from catdog.training.augmentation import UNIFORMS

    uniforms = np.full((1, UNIFORMS), 0.5, np.float32)
    uniforms[0, 8] = 0.55  # the middle of the strengths of colour, beside the tenth of grey
    uniforms[0, 2] = 0.8  # a crop as large as the image
    uniforms[0, 9] = 0.0  # nothing blanked
    return uniforms


def test_augmentation_in_the_middle_of_its_ranges_changes_little(keras):
    """No turn, no stretch, no change of light: what is left is a crop around the centre."""
    from catdog.training.augmentation import Augmentation

    uniforms = middle_of_the_ranges()
    pixels = np.random.default_rng(4).integers(0, 256, (1, 32, 32, 3), np.uint8)
    changed = np.asarray(Augmentation()((pixels, uniforms)))
    assert np.abs(changed.astype(int) - pixels).max() <= 1
    uniforms[0, 0] = 0.4  # the lower half of the first number flips
    flipped = np.asarray(Augmentation()((pixels, uniforms)))
    assert np.abs(flipped.astype(int) - pixels[:, :, ::-1]).max() <= 1


def test_light_changes_are_small_and_blank_nothing(keras):
    """A picture of one colour keeps it about, whatever the numbers; `standard` blanks and fades."""
    from catdog.training.augmentation import UNIFORMS, Augmentation

    pixels = np.full((64, 32, 32, 3), (120, 90, 60), np.uint8)
    uniforms = np.random.default_rng(12).random((64, UNIFORMS), np.float32)
    light, standard = (
        np.abs(np.asarray(Augmentation(light=light)((pixels, uniforms))).astype(int) - pixels)
        for light in (True, False)
    )
    assert 0 < light.max() <= 0.25 * 120
    assert standard.max() > 60
    changed = np.asarray(Augmentation(light=True)((pixels[:1], middle_of_the_ranges())))
    assert np.abs(changed.astype(int) - pixels[:1]).max() <= 1


def test_muon_makes_every_direction_equally_long(keras):
    """Of a gradient with strong and weak directions; biases and the last layer move as with AdamW."""
    from catdog.training.muon import Muon

    random = np.random.default_rng(7)
    gradient = random.normal(size=(3, 3, 8, 16)) * np.geomspace(1e-2, 1, 16)
    gradients = [gradient.astype(np.float32), random.normal(size=(16, 2)).astype(np.float32)]
    moved = []
    for kind in (Muon, keras.optimizers.AdamW):
        weights = [keras.Variable(np.zeros_like(each)) for each in gradients]
        optimizer = kind(0.01, weight_decay=0.0)
        optimizer.build(weights)
        optimizer.apply([keras.ops.convert_to_tensor(each) for each in gradients], weights)
        moved.append([np.asarray(weight) for weight in weights])
    (kernel, dense), (_, dense_of_adamw) = moved
    lengths = np.linalg.svd(kernel.reshape(-1, 16), compute_uv=False)
    assert lengths.max() / lengths.min() < 2  # of the gradient: above a hundred
    assert 0.05 < lengths.max() < 0.15  # ten times the learning rate
    assert np.array_equal(dense, dense_of_adamw)


def test_smaller_augmented_images_show_the_same(keras):
    """At half the side each pixel is the mean of the four that it lies between."""
    from catdog.training.augmentation import Augmentation

    pixels = np.random.default_rng(10).integers(0, 256, (1, 32, 48, 3), np.uint8)
    changed = np.asarray(Augmentation(scale=0.5)((pixels, middle_of_the_ranges())))
    expected = pixels.reshape(1, 16, 2, 24, 2, 3).mean(axis=(2, 4))
    assert changed.shape == (1, 16, 24, 3)
    assert np.abs(changed - expected).max() <= 1.5


def test_images_are_sampled_as_scipy_does(keras):
    """Between four pixels linearly, mirrored at the edges, compiled or not."""
    from scipy import ndimage

    from catdog.training import augmentation

    random = np.random.default_rng(9)
    pixels = random.integers(0, 256, (3, 20, 30, 3), np.uint8)
    x, y = random.uniform(-30, 60, (3, 20, 30)), random.uniform(-20, 40, (3, 20, 30))
    places = x.astype(np.float32), y.astype(np.float32)
    expected = [
        ndimage.map_coordinates(image[..., colour].astype(float), [y, x], order=1, mode="reflect")
        for image, x, y in zip(pixels, *places, strict=True)
        for colour in range(3)
    ]
    expected = np.moveaxis(np.reshape(expected, (3, 3, 20, 30)), 1, -1)
    for sampled in (augmentation._sampled, tensorflow_quirks.compiled(augmentation._sampled)):
        assert np.asarray(sampled(pixels, *places)) == pytest.approx(expected, abs=0.02)


def test_fused_normalisation_is_keras_normalisation(keras):
    """Outputs, gradients and moving statistics are those of Keras' own layers, up to rounding.

    The fused operation keeps the unbiased variance, n/(n-1) of Keras'; n is 2 * 8 * 8 and more here.
    """
    import tensorflow as tf

    pixels = np.random.default_rng(5).integers(0, 256, (8, 64, 64, 3), np.uint8)
    models = [architectures.build("compact", square(64), 3, "float32") for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    tensorflow_quirks.fuse_batch_norm(models[1], 1, lambda sums: sums)
    gradients = []
    for model in models:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(pixels, training=True)))
        gradients.append(tape.gradient(loss, model.trainable_variables))
    for ours, theirs in zip(*gradients, strict=True):
        scale = float(tf.reduce_max(tf.abs(theirs))) + 1e-6
        assert np.asarray(ours) == pytest.approx(np.asarray(theirs), abs=0.01 * scale)
    for ours, theirs in zip(models[1].get_weights(), models[0].get_weights(), strict=True):
        assert ours == pytest.approx(theirs, rel=0.01, abs=1e-4)
    assert np.asarray(models[1](pixels)) == pytest.approx(np.asarray(models[0](pixels)), abs=0.01)


def test_the_articles_network_needs_its_smallest_size(keras):
    """A pixel less leaves a layer nothing to work on; the flags' check knows the same size."""
    least = architectures.smallest_side("article")
    for side in (least, least - 1):
        preprocessing = Preprocessing(height=side, width=2 * least)
        fails = (
            pytest.raises(ValueError, match="zero or negative") if side < least else nullcontext()
        )
        with fails:
            architectures.build("article", preprocessing, 2, "float32")


def test_relu_after_pooling_is_relu_before_it(keras):
    """The outputs of `article` and its gradients are Keras' own to the bit, in what it computes with too.

    Where a network uses the ReLU's own output elsewhere as well, it stays where it is.
    """
    import tensorflow as tf

    preprocessing = Preprocessing(height=46, width=48, resize="stretch")
    models = [architectures.build("article", preprocessing, 2, "mixed_bfloat16") for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    tensorflow_quirks.pool_before_relu(models[1])
    convolutions = [layer for layer in models[1].layers if "conv" in layer.name]
    assert {layer.activation.__name__ for layer in convolutions} == {"linear"}
    pixels = np.random.default_rng(8).integers(0, 256, (5, 46, 48, 3), np.uint8)
    results = []
    for model in models:
        with tf.GradientTape() as tape:
            scores = model(pixels, training=True)
            loss = tf.reduce_sum(tf.square(scores - 0.3))
        results.append([scores, *tape.gradient(loss, model.trainable_variables)])
    for ours, theirs in zip(*results, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        assert np.asarray(ours).any()

    shared = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(shared)
    pooled = keras.layers.MaxPooling2D(2)(x)
    model = keras.Model(shared, [x, pooled])
    before = [np.asarray(output) for output in model(np.ones((1, 8, 8, 3)))]
    tensorflow_quirks.pool_before_relu(model)
    for ours, theirs in zip(model(np.ones((1, 8, 8, 3))), before, strict=True):
        assert np.array_equal(np.asarray(ours), theirs)


@pytest.mark.parametrize("classes", [2, 5])
def test_calibration_finds_the_temperature_that_was_put_in(keras, classes):
    """Scores sharpened by a known factor are cooled by that factor, whatever the classes."""
    from catdog.training import validation

    random = np.random.default_rng(6)
    logits = random.normal(size=(4000, classes)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(classes, p=row) for row in true])
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(axis=1, keepdims=True)
    scores = (sharp[:, 1:] if classes == 2 else sharp).astype(np.float32)
    temperatures = np.linspace(1, 5, 81).astype(np.float32)
    losses = validation.scaled_losses(scores, labels, temperatures).sum(axis=0)
    assert temperatures[losses.argmin()] == pytest.approx(3, abs=0.3)


def test_calibration_of_several_labels_finds_the_temperature_that_was_put_in():
    """The same where each class has a sigmoid."""
    from catdog.training import validation

    random = np.random.default_rng(6)
    logits = random.normal(size=(4000, 3)) * 2
    answers = (random.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    scores = (1 / (1 + np.exp(-3 * logits))).astype(np.float32)
    temperatures = np.linspace(1, 5, 81).astype(np.float32)
    losses = validation.scaled_label_losses(scores, answers, temperatures).sum(axis=0)
    assert temperatures[losses.argmin()] == pytest.approx(3, abs=0.3)


def test_normalisation_over_workers_has_the_gradients_of_one_batch(keras):
    """The gradient written down for several workers is TensorFlow's own where there is one.

    That two workers equal one is shown on real workers in test_training.py.
    """
    import tensorflow as tf

    random = np.random.default_rng(7)
    arguments = [
        tf.constant(random.normal(1, 2, (4, 5, 6, 3)).astype(np.float32)),
        tf.constant([1.0, 2.0, 0.5]),
        tf.constant([0.0, 1.0, -1.0]),
    ]
    weights = random.normal(size=(4, 5, 6, 3)).astype(np.float32)
    results = []
    for normalize in (
        lambda *inputs: tensorflow_quirks._normalized(*inputs, 1e-3)[:3],
        lambda *inputs: tensorflow_quirks._globally_normalized(*inputs, 1e-3, 1, lambda sums: sums),
    ):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            output, mean, variance = normalize(*arguments)
            loss = tf.reduce_sum(output * weights) + tf.reduce_sum(output**3)
        results.append([output, mean, variance, *tape.gradient(loss, arguments)])
    for ours, theirs in zip(*results, strict=True):
        assert np.asarray(ours) == pytest.approx(np.asarray(theirs), rel=1e-3, abs=1e-4)
