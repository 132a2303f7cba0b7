"""Search by embeddings: results with embeddings come in; copies and similar pictures go out.

`duplicates` finds pictures that occur more than once, `leaks` those that two sets share,
`similar` the pictures nearest to an image. Neither Ray nor TensorFlow is loaded here, unless a model has
no OpenVINO files.
"""

from catdog.similarity import collection, neighbours
from catdog.similarity.config import DuplicatesConfig, LeaksConfig, SimilarConfig
from catdog.similarity.job import Copies, Likes, duplicates, leaks, similar

__all__ = [
    "Copies",
    "DuplicatesConfig",
    "LeaksConfig",
    "Likes",
    "SimilarConfig",
    "collection",
    "duplicates",
    "leaks",
    "neighbours",
    "similar",
]
