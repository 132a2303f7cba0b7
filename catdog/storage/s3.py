"""Objects in S3: ranges, listings, uploads; the one place that knows its and s3fs's quirks.

Endpoint, region and credentials come from the standard AWS environment and files only
(`AWS_ENDPOINT_URL`, `AWS_PROFILE`, ...; `stores` says from which profile). Errors are those of
`failures.retried`.
"""

# ruff: noqa: SLF001 - s3fs offers its single requests as `_call_s3` only
# ruff: noqa: D102 - the methods of io do what io says

from __future__ import annotations

import errno
import io
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from catdog.errors import CatdogError
from catdog.storage import ranges, stores
from catdog.storage.failures import (
    CredentialsError,
    RangeOutsideError,
    changed,
    endless,
    retried,
    said,
)
from catdog.storage.uris import bucket_and_key

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")

_PART_BYTES = 16 << 20  # S3 wants parts of 5 MiB to 5 GiB, 10,000 at most: 156 GiB an object
BLOCK_BYTES = 4 << 20  # one ranged read of a sequential reader
HEAD_BYTES = 1 << 20  # read when a file is opened: most result files have no more
_CONNECTIONS = 64
PAGE_KEYS = 1000  # names in a page of a listing; S3 gives no more
_TRIES = 3  # of a request whose answer has another size than the listing
_EMPTY_PAGES = 1000  # one after the other; behind many deleted objects there are some


def s3_range(uri: str, offset: int, length: int, stamp: str | None = None) -> tuple[bytes, int]:
    """A byte range of an object, and the size of the whole object. Errors as `read_range`."""
    if length <= 0:
        return b"", 0
    size, etag = _parts_of(stamp)
    for _ in range(_TRIES):
        try:
            data, total, _ = _get(uri, offset, length, etag)
        except RangeOutsideError:
            data, total = b"", 0
        except FileExistsError:  # it has another ETag
            break
        if size is None or total == size:
            return data, total
    raise changed()


def size_and_stamp(uri: str) -> tuple[int, str]:
    """The size of an object and its stamp. Errors as `read_range`."""
    try:
        _, total, etag = _get(uri, 0, 1, "")  # HEAD would not say why it is refused
    except RangeOutsideError:
        return 0, _stamp(0, "")
    return total, _stamp(total, etag)


def _stamp(size: int, etag: str) -> str:
    """The stamp of an object; a weak ETag gives none."""
    return f"{size:x}-{'' if etag.startswith('W/') else etag}"


def _parts_of(stamp: str | None) -> tuple[int | None, str]:
    if stamp is None:
        return None, ""
    size, _, etag = stamp.partition("-")
    return int(size, 16), etag


def _get(uri: str, offset: int, length: int, etag: str) -> tuple[bytes, int, str]:
    """A byte range, the size of the whole object, and its ETag, which is the wanted one if any is.

    Raises:
        FileExistsError: the object has another ETag.
        RangeOutsideError: it ends before the range.
        OSError: as `read_range`.
    """
    bucket, key = bucket_and_key(uri)
    read = ranges.read(uri, offset, length, etag)
    if read is not None:
        return read
    request = {"Range": f"bytes={offset}-{offset + length - 1}"}
    if etag:
        request["IfMatch"] = etag

    async def get(fs: Any) -> tuple[bytes, int, str]:
        response = await fs._call_s3("get_object", Bucket=bucket, Key=key, **request)
        async with response["Body"] as body:
            data = await body.read()
        total = response.get("ContentRange", "").rpartition("/")[2]
        if not total.isdigit():  # an answer with the whole object
            return data[offset : offset + length], len(data), response.get("ETag", "")
        if len(data) < min(length, int(total) - offset):
            raise OSError(errno.EIO, "fewer bytes than it said")  # which is tried again
        return data[:length], int(total), response.get("ETag", "")

    answer = _request(uri, get)
    ranges.answered_by_s3fs(uri)
    return answer


def s3_pages(
    uri_prefix: str, *, delimiter: str = "", max_keys: int | None = None
) -> Iterator[tuple[list[tuple[str, int, str]], list[str]]]:
    """Pages of a listing in the server's order: (key, size, stamp) of objects, common prefixes.

    Raises:
        OSError: as `files.read_range`, about the bucket; or the listing does not come to an end.
        StorageDownError: the store does not answer.
    """
    bucket, prefix = bucket_and_key(uri_prefix)
    token: str | None = None
    tokens: set[int] = set()
    before: list[Any] = []
    empty = 0
    while True:
        request = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": max_keys or PAGE_KEYS}
        if delimiter:
            request["Delimiter"] = delimiter
        if token:
            request["ContinuationToken"] = token

        async def page(fs: Any, request: dict[str, Any] = request) -> dict[str, Any]:
            return cast("dict[str, Any]", await fs._call_s3("list_objects_v2", **request))

        answer = _request(uri_prefix, page)
        keys = [
            (item["Key"], item["Size"], _stamp(item["Size"], item.get("ETag", "")))
            for item in answer.get("Contents", [])
        ]
        prefixes = [item["Prefix"] for item in answer.get("CommonPrefixes", [])]
        empty = 0 if keys or prefixes else empty + 1
        if before == [keys, prefixes] != [[], []] or empty > _EMPTY_PAGES:
            raise endless()
        before = [keys, prefixes]
        yield keys, prefixes
        token = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
        if not token:
            return
        if hash(token) in tokens:  # each names another page
            raise endless()
        tokens.add(hash(token))


class Upload(io.RawIOBase):
    """An object being written: one PUT, or a multipart upload if it outgrows one part."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._bucket, self._key = bucket_and_key(uri)
        self._buffer = bytearray()
        self._written = 0
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []

    def writable(self) -> bool:
        return True

    def tell(self) -> int:  # pyarrow asks
        return self._written

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self._buffer += view
        self._written += len(view)
        while len(self._buffer) >= 2 * _PART_BYTES:
            self._send_part(bytes(self._buffer[:_PART_BYTES]))
            del self._buffer[:_PART_BYTES]
        return len(view)

    def _call(self, method: str, **request: Any) -> dict[str, Any]:
        async def call(fs: Any) -> dict[str, Any]:
            answer = await fs._call_s3(method, Bucket=self._bucket, Key=self._key, **request)
            return cast("dict[str, Any]", answer)

        return _request(self._uri, call)

    def _send_part(self, data: bytes) -> None:
        if self._upload_id is None:
            self._upload_id = self._call("create_multipart_upload")["UploadId"]
        number = len(self._parts) + 1
        answer = self._call("upload_part", UploadId=self._upload_id, PartNumber=number, Body=data)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def complete(self) -> None:
        """Make the object appear."""
        if self._upload_id is None:
            self._call("put_object", Body=bytes(self._buffer))
        else:
            try:
                if self._buffer:
                    self._send_part(bytes(self._buffer))
                self._call(
                    "complete_multipart_upload",
                    UploadId=self._upload_id,
                    MultipartUpload={"Parts": self._parts},
                )
            except FileNotFoundError:
                # A completion whose answer was lost: trying again finds no such upload.
                if s3_range(self._uri, 0, 1)[1] != self._written:
                    raise
            except BaseException:
                self.abort()
                raise
        self._buffer = bytearray()
        self.close()

    def put_new(self, data: bytes) -> None:
        """Raises FileExistsError where there is an object."""
        self._call("put_object", Body=data, IfNoneMatch="*")

    def put_over(self, data: bytes, version: str) -> None:
        """Raises FileExistsError where the object has another version."""
        self._call("put_object", Body=data, IfMatch=version)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._upload_id is not None:
            with suppress(OSError, CatdogError):  # the first error is the one to report
                self._call("abort_multipart_upload", UploadId=self._upload_id)
        self._upload_id = None
        self._buffer = bytearray()
        self.close()


def delete_object(uri: str, version: str | None = None) -> None:
    """Delete an object, or only that version of it; nothing happens if there is none."""
    bucket, key = bucket_and_key(uri)
    condition = {} if version is None else {"IfMatch": version}

    async def remove(fs: Any) -> None:
        await fs._call_s3("delete_object", Bucket=bucket, Key=key, **condition)

    with suppress(FileNotFoundError, FileExistsError):
        _request(uri, remove)


def read_object(uri: str) -> tuple[bytes, str]:
    """A whole object and its ETag. Errors as `read_range`."""
    bucket, key = bucket_and_key(uri)

    async def get(fs: Any) -> tuple[bytes, str]:
        response = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        async with response["Body"] as body:
            return await body.read(), response["ETag"]

    return _request(uri, get)


_lock = threading.Lock()
_instances: dict[tuple[int, int, stores.Access], Any] = {}


def _renew_after_fork() -> None:
    # The lock may be held by a thread that a forked child has not. The parent's instances must
    # stay alive there, unused: closing them would take their sockets out of the epoll that the
    # child shares with its parent, whose requests then hang until they time out.
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_after_fork)


def refuse_others(uri: str) -> None:
    """Raise if a URI is not one of S3."""
    if not uri.startswith("s3://"):
        raise OSError(errno.ENOTSUP, said("This can only be written to local folders and to S3."))


def _identity(uri: str) -> tuple[int, int, stores.Access]:
    return os.getpid(), hash(ranges.aws_settings()), stores.access(uri)


def _forget(uri: str, client: Any) -> None:
    with _lock:
        if _instances.get(_identity(uri)) is client:
            del _instances[_identity(uri)]
    ranges.forget(uri)


def client(uri: str) -> Any:
    """The process's S3 filesystem for the store of a URI, shared by all threads.

    fsspec's own cache makes one for each thread, each with its own connections and its own
    reading of the credentials; one serves all, since every request runs on fsspec's loop thread.
    """
    identity = _identity(uri)
    fs = _instances.get(identity)
    if fs is not None:
        return fs
    with _lock:
        if identity not in _instances:
            import s3fs

            place = stores.place(identity[2])
            fs = s3fs.S3FileSystem(
                anon=place.unsigned,
                use_listings_cache=False,  # a stale listing would lose part files
                skip_instance_cache=True,
                default_block_size=BLOCK_BYTES,
                requester_pays=ranges.requester_pays(),
                endpoint_url=place.endpoint,
                client_kwargs={"region_name": place.region} if place.region else {},
                config_kwargs={
                    "max_pool_connections": _CONNECTIONS,
                    "connect_timeout": 5,
                    "read_timeout": 60,
                    "retries": {"total_max_attempts": 1},  # `failures.retried` is the policy
                    # Checksums that other stores than AWS do not know, unless asked for.
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                    # A named profile decides everything, or its keys would go to another store's endpoint.
                    "ignore_configured_endpoint_urls": place.profile is not None,
                },
                **({"profile": place.profile} if place.profile else {}),
            )
            fs.retries = 1  # likewise
            _instances[identity] = fs
        return _instances[identity]


def _request(uri: str, operation: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run an S3 request on fsspec's loop, with retries (`failures.retried`)."""
    import fsspec.asyn

    refuse_others(uri)

    def once() -> T:
        fs = client(uri)
        return cast("T", fsspec.asyn.sync(fs.loop, operation, fs))

    before = _instances.get(_identity(uri))
    try:
        return retried(uri, once)
    except CredentialsError:
        # Whoever renews keys writes them to the files that a client has read when it was made.
        if before is None:
            raise
        _forget(uri, before)
        return retried(uri, once)
