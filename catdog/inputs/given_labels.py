"""Labels from a table that the user gives, in the place of the images' own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.compute as pc

from catdog.inputs.entries import PLAN_SCHEMA
from catdog.inputs.listing import list_images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from catdog.inputs.entries import SourceLimits


class GivenLabels:
    """Labels by the URI of their image.

    Args:
        table: columns `uri` and `label`, both strings without nulls.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.select(["uri", "label"]).combine_chunks()
        self._uris, self._labels = map(_whole, self.table.columns)

    @classmethod
    def read(cls, table: str, limits: SourceLimits) -> Self:
        """The labels in a table with columns `uri` and `label`, such as the one that a report saves.

        Raises:
            UserInputError: as `list_images`.
        """
        listed = pa.Table.from_batches(list(list_images([table], limits)), PLAN_SCHEMA)
        return cls(listed.filter(listed["label"].is_valid()))

    def over(
        self, uris: pa.Array | pa.ChunkedArray, own: pa.Array | pa.ChunkedArray
    ) -> tuple[pa.Array, NDArray[np.bool_]]:
        """The labels of images, and which of them are given, bool (n,).

        Args:
            uris: of the images.
            own: their own labels, which the others keep.
        """
        at = pc.index_in(_whole(uris), value_set=self._uris)
        return pc.coalesce(self._labels.take(at), _whole(own)), at.is_valid().to_numpy(
            zero_copy_only=False
        )


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
