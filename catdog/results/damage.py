"""The errors that a damaged file of a job raises: Arrow's, and those that unlikely JSON leads to."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pyarrow as pa

from catdog import storage
from catdog.errors import CatdogError

if TYPE_CHECKING:
    from collections.abc import Iterator

ERRORS = (
    pa.ArrowException,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class DamagedError(CatdogError):
    """A file of the job is not what the job wrote."""


@contextlib.contextmanager
def named(file: str) -> Iterator[None]:
    """Make the error of a damaged file name the file.

    Args:
        file: its URI.

    Raises:
        DamagedError: in place of an error that means damage. Errors of a disk or a store stay.
    """
    try:
        yield
    except (*ERRORS, OSError) as error:
        if storage.is_of_disk(error):
            raise
        raise DamagedError(f"{file} is damaged: {error!r:.200}") from error
