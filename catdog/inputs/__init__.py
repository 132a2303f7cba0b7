"""The inputs: paths and URIs come in, entries (URI, name, label, byte range) go out.

Entries come as record batches of `PLAN_SCHEMA`; `read_images` takes such entries and returns
their bytes. Neither Ray nor TensorFlow is loaded here.
"""

from catdog.inputs import splits
from catdog.inputs.entries import PLAN_SCHEMA, Columns, SourceLimits
from catdog.inputs.folders import is_glob
from catdog.inputs.frames import FRAMES_FOLDER, Frame, is_frame, store_frame
from catdog.inputs.given_labels import GivenLabels
from catdog.inputs.kept import KEPT
from catdog.inputs.listing import kept_type, list_images
from catdog.inputs.names import collection_as
from catdog.inputs.reading import read_images
from catdog.inputs.skipped import Skips
from catdog.inputs.splits import Part
from catdog.inputs.table_columns import SEVERAL, classes_of, joined
from catdog.inputs.unique import hashes

__all__ = [
    "FRAMES_FOLDER",
    "KEPT",
    "PLAN_SCHEMA",
    "SEVERAL",
    "Columns",
    "Frame",
    "GivenLabels",
    "Part",
    "Skips",
    "SourceLimits",
    "classes_of",
    "collection_as",
    "hashes",
    "is_frame",
    "is_glob",
    "joined",
    "kept_type",
    "list_images",
    "read_images",
    "splits",
    "store_frame",
]
