"""The model as a part of other programs: pictures come in, `Prediction`s go out.

`load` returns a `LoadedModel`, which scores pictures in this process without Ray. `Classifier` and
`read_images` are for users' own Ray Data pipelines; they load Ray when they are used.
"""

from catdog.prediction.config import PredictConfig
from catdog.prediction.loaded_model import LoadedModel, Prediction, load
from catdog.prediction.ray_data import Classifier, read_images

__all__ = ["Classifier", "LoadedModel", "PredictConfig", "Prediction", "load", "read_images"]
