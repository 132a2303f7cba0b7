"""What is used of s3fs without its promise that it stays, because nothing public does it.

Each name with what it is needed for; a test looks for each of them in the installed version.
"""

from __future__ import annotations

S3FS = {
    "s3fs.S3FileSystem._call_s3": "single requests: ranges, listings by page, conditional writes"
}
