"""The quirks of Ray and TensorFlow, each handled and explained in one file.

`ray_quirks` connects to a cluster; `embedded` starts the cluster of a command without an address;
`fit` reports a cluster that does not fit; `dependencies` installs packages that nodes lack; `package`
packs the code to send; `nodes` watches nodes. `tensorflow_quirks` sets precision and threads, and
`all_reduce` sums gradients within a node. Each loads its library when it is first called.
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
