"""S3 for libraries that want a filesystem of fsspec and try nothing again themselves (Ray Train).

The other modules ask `storage`. This one is imported by name where such a filesystem is unpickled,
in Ray's processes, so that what it sets holds there too.
"""

from __future__ import annotations

import botocore.exceptions  # type: ignore[import-untyped]
import s3fs
import s3fs.core


class PatientS3FileSystem(s3fs.S3FileSystem):  # type: ignore[misc]
    """Waits for a store that throttles or refuses connections: half a minute in all."""

    retries = 10  # the pause before each is 1.7 times the one before, from 0.1 s


# By itself s3fs tries again after timeouts and throttling, but not after a refused connection.
s3fs.core.set_custom_error_handler(
    lambda error: isinstance(error, botocore.exceptions.ConnectionError)
)
