"""Files by URI, on local disks and in S3: the one place where fsspec's and S3's quirks are met.

A URI is `file:///absolute/path` or `s3://bucket/key`, raw: nothing in it is percent-encoded, and
`#`, `?` and `%` are plain characters. Endpoint, region and credentials of S3 come from the
standard AWS environment and files alone (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, ...).

Functions raise `FileNotFoundError`, `PermissionError` or another `OSError` about one file, and
`StorageDownError` when a store as a whole does not answer. No message holds a server's own words,
so none can hold a secret.
"""

# ruff: noqa: PTH100, PTH103, PTH105, PTH108, PTH116 - paths are strings here, like URIs
# ruff: noqa: SLF001 - s3fs offers its single requests as `_call_s3` only

from __future__ import annotations

import errno
import io
import logging
import os
import random
import re
import secrets
import stat
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from catdog.errors import CatdogError, ErrorCode, ImageRejected, UserInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")

logger = logging.getLogger(__name__)

_PART_BYTES = 16 << 20  # S3 wants parts of 5 MiB to 5 GiB, 10,000 at most: 156 GiB an object
_BLOCK_BYTES = 4 << 20  # one ranged read of a sequential reader
_HEAD_BYTES = 1 << 20  # read when a file is opened: most result files have no more
_CONNECTIONS = 64
PAGE_KEYS = 1000  # names in a page of a listing; S3 gives no more

# How long a request is tried again, in seconds. A store that throttles is alive and asks for
# patience; one that refuses connections may be restarting, or the endpoint is misspelt.
_PATIENCE_S = {"throttled": 180.0, "interrupted": 60.0, "unreachable": 15.0}

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{1,254}")
_THROTTLED = frozenset({"SlowDown", "ServiceUnavailable", "TooManyRequests", "Throttling"})
_THROTTLED |= {"ThrottlingException", "RequestLimitExceeded", "503", "429"}
_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NoSuchUpload", "404"})
_FORBIDDEN = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401"})
_FORBIDDEN |= {"InvalidObjectState", "InvalidSecurity", "NotSignedUp"}
# These are about who asks, not about what is asked for: every other request fails as well.
_BAD_CREDENTIALS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})
_BAD_CREDENTIALS |= {"InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"}


class StorageDownError(CatdogError):
    """A store as a whole is unreachable, throttles without end or refuses the credentials."""


class CredentialsError(StorageDownError):
    """A store does not know the credentials, or they have expired."""


def to_uri(path_or_uri: str) -> str:
    """The canonical URI of a local path (absolute or relative), `file://` or `s3://` URI.

    Raises:
        ValueError: another scheme, or an `s3://` URI without a bucket or with credentials in it.
    """
    scheme, separator, rest = path_or_uri.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return "file://" + os.path.abspath(path_or_uri)
    scheme = scheme.lower()
    if scheme in {"file", "local"}:
        return "file://" + os.path.abspath("/" + rest.removeprefix("localhost/").lstrip("/"))
    if scheme in {"s3", "s3a", "s3n"}:
        bucket, _, key = rest.partition("/")
        if "@" in bucket:
            raise ValueError("an s3:// URI holds no credentials; set them in the environment")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError("an s3:// URI names a bucket: s3://bucket/key")
        return f"s3://{bucket}/{key}"
    raise ValueError(f"{scheme}:// is not supported; local paths, file:// and s3:// are")


def is_local(uri: str) -> bool:
    """Whether the canonical URI is of a local file."""
    return uri.startswith("file://")


def local_path(uri: str) -> str:
    """The absolute local path of a canonical `file://` URI."""
    return uri[len("file://") :]


def join(uri: str, *names: str) -> str:
    """The URI of something below a folder's URI."""
    return "/".join([uri.rstrip("/") if uri != "file:///" else "file://", *names])


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URI and the path in it, for libraries that want one."""
    if is_local(uri):
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(auto_mkdir=True), local_path(uri)
    return _s3(), "/".join(_bucket_and_key(uri))


# --------------------------------------------------------------------------------------------
# Reading


def read_range(uri: str, offset: int, length: int) -> bytes:
    """Bytes `offset` to `offset + length` of a file; fewer where the file ends before that.

    Raises:
        OSError: the file is missing, forbidden or unreadable.
        StorageDownError: the store does not answer.
    """
    if is_local(uri):
        descriptor = open_local(local_path(uri))
        try:
            return pread(descriptor, offset, length)
        finally:
            os.close(descriptor)
    return s3_range(uri, offset, length)[0]


def read_bytes(uri: str, max_bytes: int) -> bytes:
    """A whole file.

    Raises:
        OSError: as `read_range`; with `errno.EFBIG` where the file has more than `max_bytes`.
        StorageDownError: the store does not answer.
    """
    data = read_range(uri, 0, max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes")
    return data


def open_local(path: str) -> int:
    """A descriptor of a regular local file; never blocks on a pipe or a device.

    Raises:
        OSError: it cannot be opened, or is no regular file (`errno.ENODEV`).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(mode):
            raise OSError(errno.ENODEV, "it is a pipe, a socket or a device")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def pread(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes at `offset` of an open file; fewer only at its end."""
    data = os.pread(descriptor, length, offset)
    if len(data) == length or not data:
        return data
    chunks = [data]
    missing = length - len(data)
    while missing > 0 and data:  # a read gives at most 2 GiB, and less on network file systems
        data = os.pread(descriptor, missing, offset + length - missing)
        chunks.append(data)
        missing -= len(data)
    return b"".join(chunks)


def s3_range(uri: str, offset: int, length: int) -> tuple[bytes, int]:
    """A byte range of an object, and the size of the whole object. Errors as `read_range`."""
    if length <= 0:
        return b"", 0
    bucket, key = _bucket_and_key(uri)

    async def get(fs: Any) -> tuple[bytes, int]:
        response = await fs._call_s3(
            "get_object", Bucket=bucket, Key=key, Range=f"bytes={offset}-{offset + length - 1}"
        )
        async with response["Body"] as body:
            data = await body.read()
        total = response.get("ContentRange", "").rpartition("/")[2]
        return data, int(total) if total.isdigit() else len(data)

    try:
        data, total = _retried(uri, get)
    except _RangeOutsideError:
        return b"", 0
    return data[:length], total


def size_of(uri: str) -> int:
    """The size of a file in bytes. Errors as `read_range`; a folder is not a file."""
    if is_local(uri):
        status = os.stat(local_path(uri))
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        return status.st_size
    if not _bucket_and_key(uri)[1]:
        raise IsADirectoryError(errno.EISDIR, "it is a bucket")
    return s3_range(uri, 0, 1)[1]  # HEAD would not say why it is refused


def exists(uri: str) -> bool:
    """Whether there is a file (not a folder) at this URI. Raises what `read_range` raises else."""
    try:
        size_of(uri)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False
    return True


def list_names(uri_folder: str) -> list[str]:
    """Sorted names right below a folder, subfolders with a final `/`; none where it is missing.

    Unfinished files of `write_atomic` and `open_atomic` are not among them.
    """
    names: list[str] = []
    if is_local(uri_folder):
        with suppress(FileNotFoundError), os.scandir(local_path(uri_folder)) as entries:
            names = [entry.name + "/" * entry.is_dir() for entry in entries]
        return sorted(name for name in names if not _UNFINISHED.fullmatch(name))
    try:
        for keys, prefixes in s3_pages(uri_folder.rstrip("/") + "/", delimiter="/"):
            names += [key for key, _ in keys]
            names += prefixes
    except FileNotFoundError:
        return []
    start = len(_bucket_and_key(uri_folder.rstrip("/") + "/")[1])
    return sorted(name[start:] for name in names if len(name) > start)


def s3_pages(
    uri_prefix: str, *, delimiter: str = "", max_keys: int | None = None
) -> Iterator[tuple[list[tuple[str, int]], list[str]]]:
    """Pages of a listing in the server's order: (key, size) of objects, and common prefixes.

    Errors as `read_range`, about the bucket.
    """
    bucket, prefix = _bucket_and_key(uri_prefix)
    token: str | None = None
    while True:
        request = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": max_keys or PAGE_KEYS}
        if delimiter:
            request["Delimiter"] = delimiter
        if token:
            request["ContinuationToken"] = token

        async def page(fs: Any, request: dict[str, Any] = request) -> dict[str, Any]:
            return cast("dict[str, Any]", await fs._call_s3("list_objects_v2", **request))

        answer = _retried(uri_prefix, page)
        yield (
            [(item["Key"], item["Size"]) for item in answer.get("Contents", [])],
            [item["Prefix"] for item in answer.get("CommonPrefixes", [])],
        )
        token = answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
        if not token:
            return


def open_input(uri: str) -> BinaryIO:
    """A seekable binary file for libraries that want one; remote files are read in blocks."""
    if is_local(uri):
        return os.fdopen(open_local(local_path(uri)), "rb")
    return io.BufferedReader(_RangedFile(uri), _BLOCK_BYTES)


class _RangedFile(io.RawIOBase):
    """An S3 object as a raw file: each read is one ranged request, a small file needs one in all.

    Who asks for the size gets the beginning in the same answer.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._head, self._size = s3_range(uri, 0, _HEAD_BYTES)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._position)
        if length <= 0:
            return 0
        end = self._position + length
        if end <= len(self._head):
            data = self._head[self._position : end]
        else:
            data = s3_range(self._uri, self._position, length)[0]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


# --------------------------------------------------------------------------------------------
# Writing

_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{16}\.unfinished")


def write_atomic(uri: str, data: bytes) -> None:
    """Write a file that is there whole or not at all; replaces an existing one.

    Raises:
        OSError: the place is forbidden or full; nothing was written.
        StorageDownError: the store does not answer.
    """
    with open_atomic(uri) as file:
        file.write(data)


def write_new(uri: str, data: bytes) -> bool:
    """Write a file that is there whole or not at all, unless there is one already.

    Of several writers at the same moment exactly one succeeds.

    Returns:
        Whether the file now holds `data`: False where another one was there first.

    Raises:
        As `write_atomic`.
    """
    try:
        if is_local(uri):
            temporary = f"{uri}.{secrets.token_hex(8)}.unfinished"
            write_atomic(temporary, data)
            try:
                os.link(local_path(temporary), local_path(uri))
            finally:
                delete(temporary)
        else:
            _Upload(uri).put_new(data)
    except FileExistsError:
        # A request that is repeated because its answer was lost finds its own file.
        return read_bytes(uri, len(data) + 1) == data
    return True


@contextmanager
def open_atomic(uri: str) -> Iterator[BinaryIO]:
    """A binary file to write to, which appears at `uri` whole when the block ends well.

    Where the block raises, nothing appears and an existing file stays as it was.
    Missing local folders are made. Errors as `write_atomic`.
    """
    if not is_local(uri):
        upload = _Upload(uri)
        try:
            yield cast("BinaryIO", upload)
        except BaseException:
            upload.abort()
            raise
        upload.complete()
        return
    path = local_path(uri)
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    # The middle is cut so that a name at the file system's limit of 255 bytes still fits.
    temporary = f"{folder}/.{name[:40]}.{secrets.token_hex(8)}.unfinished"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot do this
            os.fsync(descriptor)  # the name itself survives a power cut
    finally:
        os.close(descriptor)


def delete(uri: str) -> None:
    """Delete a file; nothing happens where there is none."""
    if is_local(uri):
        with suppress(FileNotFoundError):
            os.unlink(local_path(uri))
        return
    bucket, key = _bucket_and_key(uri)

    async def remove(fs: Any) -> None:
        await fs._call_s3("delete_object", Bucket=bucket, Key=key)

    with suppress(FileNotFoundError):
        _retried(uri, remove)


class _Upload(io.RawIOBase):
    """An object being written: one PUT, or a multipart upload where it outgrows one part."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._bucket, self._key = _bucket_and_key(uri)
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

        return _retried(self._uri, call)

    def _send_part(self, data: bytes) -> None:
        if self._upload_id is None:
            self._upload_id = self._call("create_multipart_upload")["UploadId"]
        number = len(self._parts) + 1
        answer = self._call("upload_part", UploadId=self._upload_id, PartNumber=number, Body=data)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def complete(self) -> None:
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
                if size_of(self._uri) != self._written:
                    raise
            except BaseException:
                self.abort()
                raise
        self._buffer = bytearray()
        self.close()

    def put_new(self, data: bytes) -> None:
        """Raises FileExistsError where there is an object."""
        self._call("put_object", Body=data, IfNoneMatch="*")

    def abort(self) -> None:
        if self._upload_id is not None:
            with suppress(OSError, CatdogError):  # the first error is the one to tell
                self._call("abort_multipart_upload", UploadId=self._upload_id)
        self._upload_id = None
        self._buffer = bytearray()
        self.close()


# --------------------------------------------------------------------------------------------
# What an exception means


class _RangeOutsideError(OSError):
    """A range starts at or after the end of the object; so does every range of an empty one."""


def error_code(error: BaseException) -> ErrorCode:
    """Why an image is rejected when reading it raised this."""
    if isinstance(error, ImageRejected):
        return error.code
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ErrorCode.MISSING
    if isinstance(error, PermissionError):
        return ErrorCode.FORBIDDEN
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EFBIG:
        return ErrorCode.TOO_LARGE
    if number == errno.ENODEV:
        return ErrorCode.UNSUPPORTED
    return ErrorCode.UNREADABLE


def error_detail(error: BaseException) -> str:
    """One sentence about an exception, without secrets."""
    if isinstance(error, ImageRejected):
        return error.detail
    if isinstance(error, OSError) and error.args and isinstance(error.args[-1], _Sentence):
        return str(error.args[-1])
    if isinstance(error, OSError) and error.errno is not None:
        return f"{os.strerror(error.errno)}."
    return f"Reading it failed with {type(error).__name__}."


def rejection(error: BaseException) -> ImageRejected:
    """The exception as the reason for rejecting one image."""
    return ImageRejected(error_code(error), error_detail(error))


@contextmanager
def blamed_on(named: str) -> Iterator[None]:
    """Where the places that a user names are looked at first: what is wrong there is the input.

    Args:
        named: the flag and its value, for the message.

    Raises:
        UserInputError: what the block wants of a place is missing, forbidden or unreadable, its
            store refuses the credentials, or it is no URI (`to_uri`).
    """
    try:
        yield
    except CredentialsError as error:
        raise UserInputError(f"{named}: {error}") from error
    except OSError as error:
        raise UserInputError(f"{named}: {error_detail(error)}") from error
    except ValueError as error:
        raise UserInputError(f"{named}: {error}") from error


class _Sentence(str):
    """A message that this module wrote itself and that holds no secret."""

    __slots__ = ()


# --------------------------------------------------------------------------------------------
# S3

_s3_lock = threading.Lock()
_s3_instances: dict[tuple[int, int], Any] = {}


def _renew_after_fork() -> None:
    # The lock may be held by a thread that a forked child has not. The parent's instances must
    # stay alive there, unused: closing them would take their sockets out of the epoll that the
    # child shares with its parent, whose requests then hang until they time out.
    global _s3_lock  # noqa: PLW0603
    _s3_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_after_fork)


def _s3() -> Any:
    """The process's S3 filesystem, shared by all threads.

    fsspec's own cache makes one for each thread, each with its own connections and its own
    reading of the credentials; one serves all, since every request runs on fsspec's loop thread.
    """
    settings = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    identity = (os.getpid(), hash(settings))
    fs = _s3_instances.get(identity)
    if fs is not None:
        return fs
    with _s3_lock:
        if identity not in _s3_instances:
            import s3fs

            fs = s3fs.S3FileSystem(
                anon=False,
                use_listings_cache=False,  # a stale listing would lose part files
                skip_instance_cache=True,
                default_block_size=_BLOCK_BYTES,
                config_kwargs={
                    "max_pool_connections": _CONNECTIONS,
                    "connect_timeout": 5,
                    "read_timeout": 60,
                    # `_retried` is the policy; this spares it the single lost connection.
                    "retries": {"mode": "standard", "total_max_attempts": 2},
                    # Checksums that other stores than AWS do not know, unless asked for.
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                },
            )
            fs.retries = 3
            _s3_instances[identity] = fs
        return _s3_instances[identity]


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _retried(uri: str, operation: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Run an S3 request on fsspec's loop, waiting out what passes.

    Raises:
        OSError: about this object, with a sentence of ours as its last argument.
        StorageDownError: about the store.
    """
    import fsspec.asyn

    started = time.monotonic()
    delay_s = 0.1
    while True:
        try:
            fs = _s3()
            return cast("T", fsspec.asyn.sync(fs.loop, operation, fs))
        except Exception as error:
            kind, translated = _translate(uri, error)
            patience_s = _PATIENCE_S.get(kind, 0.0)
            if time.monotonic() + delay_s > started + patience_s:
                raise translated from None
            logger.debug("S3: %s, trying again in %.1f s", kind, delay_s)
        # Jitter, or all workers come back in the same moment.
        time.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311
        delay_s = min(1.7 * delay_s, 10.0)


def _translate(  # noqa: C901, PLR0912 - a table of what stores answer
    uri: str, error: Exception
) -> tuple[str, Exception]:
    """The kind of trouble (a key of `_PATIENCE_S`, or another word) and what to raise."""
    import botocore.exceptions as boto  # type: ignore[import-untyped]

    store = f"s3://{_bucket_and_key(uri)[0]}"
    # s3fs translates botocore's errors to OSError and keeps the original as the cause.
    cause = error.__cause__ if isinstance(error.__cause__, boto.ClientError) else error
    if isinstance(cause, boto.ClientError):
        given = str(cause.response.get("Error", {}).get("Code", ""))
        code = given if re.fullmatch(r"\w{1,64}", given) else "an unknown error"
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _MISSING:
            thing = "bucket" if code == "NoSuchBucket" else "object"
            return "missing", FileNotFoundError(
                errno.ENOENT, _Sentence(f"The {thing} does not exist ({code}).")
            )
        if code in {"PreconditionFailed", "ConditionalRequestConflict", "412"}:
            return "exists", FileExistsError(errno.EEXIST, _Sentence("The object exists already."))
        if code in {"InvalidRange", "416"}:
            return "range", _RangeOutsideError(
                errno.EINVAL, _Sentence("The range lies outside of the object.")
            )
        if code in _BAD_CREDENTIALS:
            return "credentials", CredentialsError(
                f"the store of {store} refuses the AWS credentials ({code})"
            )
        if code in _THROTTLED or status in {429, 503}:
            return "throttled", StorageDownError(
                f"the store of {store} kept throttling ({code}) for too long"
            )
        if code in _FORBIDDEN or status in {401, 403}:
            return "forbidden", PermissionError(
                errno.EACCES, _Sentence(f"The store denies access ({code}).")
            )
        kind = "interrupted" if status >= 500 or code == "RequestTimeout" else "refused"
        return kind, OSError(errno.EIO, _Sentence(f"The store answered {code}."))
    name = type(error).__name__
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return "credentials", PermissionError(
            errno.EACCES, _Sentence("No AWS credentials are configured.")
        )
    if isinstance(
        error, boto.CredentialRetrievalError | boto.TokenRetrievalError | boto.ProfileNotFound
    ):
        return "credentials", CredentialsError(f"AWS credentials cannot be had ({name})")
    if isinstance(error, boto.ParamValidationError):
        return "invalid", FileNotFoundError(
            errno.ENOENT, _Sentence("The name of the bucket or the key is not valid.")
        )
    if isinstance(error, boto.ConnectionError | boto.InvalidRegionError | ConnectionRefusedError):
        endpoint = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
        place = f" at {endpoint.netloc.rpartition('@')[2]}" if endpoint.netloc else ""
        return "unreachable", StorageDownError(
            f"the store of {store} is unreachable{place} ({name})"
        )
    if isinstance(error, boto.HTTPClientError | boto.IncompleteReadError | TimeoutError):
        return "interrupted", StorageDownError(f"the store of {store} does not answer ({name})")
    if isinstance(error, PermissionError | FileNotFoundError | IsADirectoryError):
        return "refused", type(error)(error.errno, _Sentence(f"The store answered {name}."))
    if isinstance(error, boto.BotoCoreError | ValueError):
        return "unusable", StorageDownError(
            f"the store of {store} cannot be used ({name}): check the AWS environment"
        )
    # A body that breaks off raises errors of aiohttp, of many kinds and not botocore's.
    return "interrupted", OSError(errno.EIO, _Sentence(f"The transfer failed with {name}."))
