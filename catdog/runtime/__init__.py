"""The quirks of Ray and TensorFlow, each met and explained in one file.

`ray_quirks` connects to a cluster, `embedded` is the cluster of a command without an address, `fit`
says where one does not fit, `dependencies` brings what its nodes lack, `package` is what is
sent there, `nodes` watches its nodes; `tensorflow_quirks` sets precision and
threads; `all_reduce` sums gradients within a node. Each loads its library when it is first called.
"""

from catdog.runtime import (
    all_reduce,
    dependencies,
    embedded,
    fit,
    nodes,
    package,
    ray_quirks,
    tensorflow_quirks,
)
from catdog.runtime.tensorflow_quirks import Precision

__all__ = [
    "Precision",
    "all_reduce",
    "dependencies",
    "embedded",
    "fit",
    "nodes",
    "package",
    "ray_quirks",
    "tensorflow_quirks",
]
