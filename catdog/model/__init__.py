"""Networks: uint8 pixels come in, scores of every class go out.

`architectures` builds them; `folders` is the model on disk, where training and classification meet;
`registry` fetches models from MLflow; `inference` turns a model into a function from pixels to
scores. Keras is loaded when it is needed.
"""

from catdog.model import architectures, efficientnet_lite, folders, inference, registry
from catdog.model.architectures import APPLICATIONS, ARCHITECTURES, PRETRAINED
from catdog.model.folders import MULTI_LABEL_THRESHOLD
from catdog.model.inference import Arithmetic, Engine

__all__ = [
    "APPLICATIONS",
    "ARCHITECTURES",
    "MULTI_LABEL_THRESHOLD",
    "PRETRAINED",
    "Arithmetic",
    "Engine",
    "architectures",
    "efficientnet_lite",
    "folders",
    "inference",
    "registry",
]
