"""Google's and Azure's stores: `gs://bucket/key` and `az://container/key`, by obstore.

Credentials come from their own environment (`GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_...`),
as obstore reads it. obstore splits keys into segments and has no name for one with `//` or `..` in it.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import threading
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from catdog.storage import stores
from catdog.storage.failures import CredentialsError, StorageDownError, changed, said
from catdog.storage.uris import bucket_and_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_PAGE_KEYS = 1000
_SPOOLED_BYTES = 32 << 20  # of an upload in memory; the rest waits on disk
_ENVIRONMENT = ("GOOGLE_", "AZURE_", "STORAGE_EMULATOR_HOST")
_CREDENTIALS = {
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and _KEY",
}

_lock = threading.Lock()
_clients: dict[tuple[Any, ...], Any] = {}


def cloud_range(uri: str, offset: int, length: int, stamp: str | None = None) -> tuple[bytes, int]:
    """A byte range of an object, and the size of the whole object. Errors as `files.read_range`."""
    import obstore

    if length <= 0:
        return b"", 0
    key = bucket_and_key(uri)[1]

    def get(client: Any) -> tuple[bytes, Any]:
        try:
            options: Any = {"range": (offset, offset + length)}
            answer = obstore.get(client, key, options=options)
            return answer.bytes().to_bytes(), answer.meta
        except obstore.exceptions.GenericError:  # a range behind the end is one
            meta: Any = obstore.head(client, key)
            if offset < meta["size"]:
                raise
            return b"", meta

    data, meta = _asked(uri, get)
    if stamp is not None and _stamp(meta) != stamp:
        raise changed()
    return data, meta["size"]


def size_and_stamp(uri: str) -> tuple[int, str]:
    """The size of an object and its stamp. Errors as `files.read_range`."""
    import obstore

    key = bucket_and_key(uri)[1]
    meta: dict[str, Any] = _asked(uri, lambda client: dict(obstore.head(client, key)))
    return meta["size"], _stamp(meta)


def cloud_pages(
    uri_prefix: str, *, delimiter: str = "", max_keys: int | None = None
) -> Iterator[tuple[list[tuple[str, int, str]], list[str]]]:
    """Pages of a listing, as `remote.remote_pages`."""
    import obstore

    prefix = bucket_and_key(uri_prefix)[1]
    folder = prefix.rpartition("/")[0]  # obstore lists whole segments
    if delimiter and max_keys is None:
        found: Any = _asked(
            uri_prefix, lambda client: obstore.list_with_delimiter(client, folder or None)
        )
        names = [f"{name}/" for name in found["common_prefixes"]]
        yield _keys(found["objects"], prefix), [each for each in names if each.startswith(prefix)]
        return
    size = max_keys or _PAGE_KEYS
    pages = _asked(uri_prefix, lambda client: obstore.list(client, folder or None, chunk_size=size))
    page = _asked(uri_prefix, lambda _: next(pages, None))
    yield _keys(page or [], prefix), []
    while (page := _asked(uri_prefix, lambda _: next(pages, None))) is not None:
        yield _keys(page, prefix), []


def read_object(uri: str) -> tuple[bytes, str]:
    """A whole object and its version. Errors as `files.read_range`."""
    import obstore

    key = bucket_and_key(uri)[1]

    def get(client: Any) -> tuple[bytes, str]:
        answer = obstore.get(client, key)
        return answer.bytes().to_bytes(), _version(uri, answer.meta)

    return _asked(uri, get)


class Upload(tempfile.SpooledTemporaryFile[bytes]):
    """An object being written: it is collected here, and appears once it is sent."""

    def __init__(self, uri: str) -> None:
        super().__init__(_SPOOLED_BYTES)
        self._uri, self._key = uri, bucket_and_key(uri)[1]

    def complete(self) -> None:
        """Make the object appear."""
        import obstore

        def put(client: Any) -> None:
            self.seek(0)
            obstore.put(client, self._key, cast("Any", self))

        with self:
            _asked(self._uri, put)

    def put_new(self, data: bytes) -> None:
        """Raises FileExistsError if there is an object."""
        self._put(data, "create")

    def put_over(self, data: bytes, version: str) -> None:
        """Raises FileExistsError if the object has another version, or is gone."""
        google = self._uri.startswith("gs://")
        self._put(data, {"version": version} if google else {"e_tag": version})

    def _put(self, data: bytes, mode: Any) -> None:
        import obstore

        with self:  # of several parts the last has no condition
            _asked(
                self._uri,
                lambda client: obstore.put(client, self._key, data, mode=mode, use_multipart=False),
            )

    def abort(self) -> None:
        """Leave nothing behind."""
        self.close()


def delete_object(uri: str, version: str | None = None) -> None:
    """Delete an object if it has this version; nothing happens if there is none.

    obstore cannot delete conditionally: an object written between look and deletion is deleted too.
    """
    import obstore

    key = bucket_and_key(uri)[1]

    def remove(client: Any) -> None:
        if version is None or _version(uri, obstore.head(client, key)) == version:
            obstore.delete(client, key)

    with suppress(FileNotFoundError):
        _asked(uri, remove)


def _version(uri: str, meta: Any) -> str:
    """The version in conditions: a generation for Google, an ETag for Azure."""
    version = meta["version" if uri.startswith("gs://") else "e_tag"]
    if not version:
        raise OSError(errno.ENOTSUP, said("The store returns no versions of objects."))
    return str(version)


def _keys(objects: Any, prefix: str) -> list[tuple[str, int, str]]:
    return [
        (meta["path"], meta["size"], _stamp(meta))
        for meta in objects
        if meta["path"].startswith(prefix)
    ]


def _stamp(meta: Any) -> str:
    """An ETag without quotes: answers have them, listings do not."""
    return f"{meta['size']:x}-{(meta['e_tag'] or '').strip(chr(34))}"


def _asked(uri: str, request: Callable[[Any], T]) -> T:
    """The result of a request; obstore repeats it where that helps, conditional writes included."""
    from obstore import exceptions

    scheme, store = uri.partition("://")[0], "/".join(uri.split("/")[:3])
    try:
        return request(_client(uri))
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, said("The object does not exist.")) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise PermissionError(errno.EACCES, said("The store denies access.")) from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise FileExistsError(
            errno.EEXIST, said("Another object with this name exists already.")
        ) from None
    except exceptions.InvalidPathError:
        sentence = (
            "A name with an empty segment or dots alone in it cannot be read from this store."
        )
        raise OSError(errno.EINVAL, said(sentence)) from None
    except ValueError:
        raise FileNotFoundError(errno.ENOENT, said("The name is not valid.")) from None
    except exceptions.BaseError as error:
        raise _meant(scheme, store, str(error)) from None


def _meant(scheme: str, store: str, text: str) -> Exception:
    """The meaning of obstore's message, which may be a server's and is never shown."""
    if "token request" in text or "redential" in text.partition("\n")[0]:
        return CredentialsError(
            f"no credentials for {store}: set {_CREDENTIALS[scheme]}, or read a public one with "
            "--no-sign-request"
        )
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else 0
    if status == 404:
        return FileNotFoundError(errno.ENOENT, said("The object or its bucket does not exist."))
    if status in {401, 403}:
        return PermissionError(errno.EACCES, said(f"The store denies access ({status})."))
    if 0 < status < 500 and status != 429:
        return OSError(errno.EIO, said(f"The store answered {status}."))
    return StorageDownError(f"{store} does not answer ({f'status {status}' if status else 'away'})")


def _client(uri: str) -> Any:
    from obstore.store import AzureStore, GCSStore

    scheme, bucket = uri.partition("://")[0], bucket_and_key(uri)[0]
    settings = frozenset(each for each in os.environ.items() if each[0].startswith(_ENVIRONMENT))
    unsigned = stores.access(uri).unsigned
    identity = (os.getpid(), scheme, bucket, settings, unsigned)
    with _lock:
        if identity not in _clients:
            options: Any = {
                "client_options": {"allow_http": True, "connect_timeout": timedelta(seconds=5)},
                "retry_config": {"max_retries": 8, "retry_timeout": timedelta(seconds=60)},
            }
            emulator = os.environ.get("STORAGE_EMULATOR_HOST")
            if unsigned:
                options["skip_signature"] = True
            elif emulator and scheme == "gs":  # without a token obstore writes nothing
                options["credential_provider"] = lambda: {"token": "none", "expires_at": None}
            if emulator and scheme == "gs":
                options["base_url"] = emulator if "://" in emulator else f"http://{emulator}"
            kind: Any = GCSStore if scheme == "gs" else AzureStore
            _clients[identity] = kind(bucket, **options)
        return _clients[identity]
