"""What a URI is: `file:///absolute/path` or `s3://bucket/key`, raw; `gs://` and `az://` likewise.

Nothing in it is percent-encoded, and `#`, `?` and `%` are plain characters. But URLs of web servers
stay as they are given, and other characters are escaped for the request only. A file in an
archive is `zip://member::archive` or `tar://member::archive`, as fsspec has it. What fsspec cannot
open in these forms, since `::` is in a name or `/` before it, is `catdog://member!file`, both
percent-encoded; fsspec opens that where this package is installed (`odd_names`).
"""

# ruff: noqa: PTH100 - paths are strings here, like URIs

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote

from catdog.errors import has_user, without_secrets

_CLOUDS = {"gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
_HUB = re.compile(r"datasets/[^/@]+/[^/@]+(?:@[^/]+)?(?:/.*)?", re.DOTALL)
_S3 = ("s3", "s3a", "s3n")
_SUPPORTED = ("file", "local", *_S3, *_CLOUDS, "http", "https", "hf")
_ODD = "catdog://"
_ONE_SLASH = re.compile(r"(?i)(file|local|s3[an]?|https?|ftp|gs|gcs|az|abfss?|hf):/(?!/)")
_PRESIGNED = re.compile(r"(?i)[?&](?:x-amz-(?:signature|security-token|credential)|signature)=")
_WEB_HOST = re.compile(r"(?:[^/?#\s\[\]:]+|\[[0-9a-fA-F:.]+\])(?::\d{1,5})?(?:[/?#]|$)")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{1,254}")


def to_uri(path_or_uri: str) -> str:
    """The canonical URI of a local path (absolute or relative), `file://` or `s3://` URI.

    Raises:
        ValueError: another scheme, a slash too few, credentials, or an `s3://` URI without a bucket.
    """
    if lacks_slash(path_or_uri):
        raise ValueError("A URI needs two slashes after its scheme")
    scheme, separator, rest = path_or_uri.partition("://")
    is_path = not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme)
    if (is_path or scheme.lower() in _SUPPORTED) and has_user(path_or_uri):
        raise ValueError("a URI must not hold credentials; set them in the environment")
    if is_path:
        path = os.path.abspath(path_or_uri)
        return "file://" + (path[1:] if path.startswith("//") else path)  # POSIX keeps two slashes
    scheme = scheme.lower()
    if scheme in {"file", "local"}:
        return "file://" + os.path.abspath(
            "/" + re.sub(r"\Alocalhost(?=/|\Z)", "", rest).lstrip("/")
        )
    return _remote_uri(scheme, rest, path_or_uri)


def _remote_uri(scheme: str, rest: str, given: str) -> str:
    bucket, _, key = rest.partition("/")
    if scheme in _S3:
        if _PRESIGNED.search(key):
            raise ValueError(
                "an s3:// URI must not hold a signature; set credentials in the environment"
            )
        if not _BUCKET.fullmatch(bucket):
            raise ValueError("an s3:// URI must name a bucket: s3://bucket/key")
        return f"s3://{bucket}/{key}"
    if scheme in _CLOUDS:
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"the URI must name a bucket: {scheme}://bucket/key")
        return f"{_CLOUDS[scheme]}://{bucket}/{key}"
    if scheme in {"http", "https"}:
        if without_secrets(given) != given:
            raise ValueError(
                "a URL must not hold a signature or token: it would be written into records"
            )
        if not _WEB_HOST.match(rest):
            raise ValueError(f"a URL must name a host: {scheme}://host/file")
        return f"{scheme}://{rest}"
    if scheme == "hf":
        if not _HUB.fullmatch(rest):
            raise ValueError("the URI must name a data set: hf://datasets/OWNER/NAME/path")
        return f"hf://{rest}"
    raise ValueError(
        f"{scheme}:// is not supported; local paths, file://, s3://, gs://, az://, hf://, "
        "https:// and http:// are"
    )


def lacks_slash(text: str) -> bool:
    """Whether a text is a URI with one slash after its scheme, which would look like a path."""
    return _ONE_SLASH.match(text) is not None


def is_local(uri: str) -> bool:
    """Whether the canonical URI is of a local file."""
    return uri.startswith("file://")


def is_web(uri: str) -> bool:
    """Whether the canonical URI is a URL of a web server."""
    return uri.startswith(("https://", "http://"))


def local_path(uri: str) -> str:
    """The absolute local path of a canonical `file://` URI."""
    return uri[len("file://") :]


def join(uri: str, *names: str) -> str:
    """The URI of something below a folder's URI."""
    return "/".join([uri.rstrip("/") if uri != "file:///" else "file://", *names])


def openable(uri: str) -> str:
    """The URI under which fsspec opens a file."""
    return uri if "::" not in uri else _odd("", uri)


def member_uri(scheme: str, name: str, archive: str, *, by_name: bool = True) -> str:
    """The URI under which fsspec opens a file in an archive.

    Args:
        scheme: `zip` or `tar`.
        name: as Python's zipfile or tarfile spells it.
        archive: its canonical URI.
        by_name: whether these find it; not in a tar behind another one in the same file, nor in a zip
            without a sound directory.
    """
    unseen = archive.lower().endswith(".tgz")  # fsspec does not take it for compressed
    if "::" in name or "::" in archive or name.startswith("/") or unseen or not by_name:
        return _odd(name, archive)
    return f"{scheme}://{name}::{archive}"


def page_uri(uri: str, number: int) -> str:
    """The URI under which fsspec opens a page of a TIFF as a file of its own.

    Args:
        uri: of the file, canonical.
        number: of the page, from 0.
    """
    return _odd(f"page={number}", uri).replace("page%3D", "page=", 1)


def parse_odd(uri: str) -> tuple[str, str] | None:
    """The member's name (none of a plain file) and the file's URI in `catdog://member!file`."""
    name, separator, file = uri.removeprefix(_ODD).partition("!")
    if not uri.startswith(_ODD) or not separator:
        return None
    return unquote(name), unquote(file)


def _odd(name: str, uri: str) -> str:
    return f"{_ODD}{quote(name, safe='/')}!{quote(uri, safe='/')}"


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Bucket and key of a canonical `s3://`, `gs://` or `az://` URI."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key
