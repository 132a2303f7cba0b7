"""Ranges of S3 objects by obstore, whose client works outside of the interpreter's lock.

Jobs read far more often than they list or write, and they read beside a decoder. A request costs
s3fs about a millisecond of the interpreter and obstore a fifth of that (docs/decisions/015).

obstore asks once, and a failure is not an error here: `s3` then makes the same request by s3fs,
and `failures` handles its errors and retries. So one place knows what errors mean, and keys that
obstore cannot name are read, too.
"""

from __future__ import annotations

import os
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from catdog.storage import stores
from catdog.storage.uris import bucket_and_key

# obstore splits a key into segments and refuses empty ones, dots alone and control characters.
_PLAIN_KEY = re.compile(
    r"(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+(?:/(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+)*"
)
# Credentials are renewed when this much of their life is left. botocore would renew those that live
# ten minutes at most with every request.
_RENEWED_BEFORE_S = 30
# After this many requests in a row that only s3fs could answer, obstore does not suit the store.
_MISFITS = 5


class _Bucket:
    """A client of one bucket; none if this environment does not allow one."""

    def __init__(self, name: str, how: stores.Access) -> None:
        self.misfits = 0
        self._store = _open(name, how)

    def range(self, key: str, offset: int, length: int, etag: str) -> tuple[bytes, int, str] | None:
        import obstore

        if self._store is None or self.misfits >= _MISFITS:
            return None
        try:
            options: Any = {"range": (offset, offset + length)} | (
                {"if_match": etag} if etag else {}
            )
            answer = obstore.get(self._store, key, options=options)
            data, size = answer.bytes().to_bytes(), answer.meta["size"]
            found = answer.meta["e_tag"] or ""
        except Exception:  # whatever it is, s3fs asks again
            return None
        if len(data) < min(length, size - offset):
            return None
        self.misfits = 0
        return data, size, found


_lock = threading.Lock()
_buckets: dict[tuple[frozenset[tuple[str, str]], str, stores.Access], _Bucket] = {}
_forked = False


def read(uri: str, offset: int, length: int, etag: str = "") -> tuple[bytes, int, str] | None:
    """A byte range, the size of the whole object and its ETag; None if s3fs must be asked.

    Args:
        uri: of the object.
        offset: of the first byte.
        length: at least 1; fewer bytes come where the object ends before.
        etag: that the object must have, "" for any.
    """
    bucket, key = bucket_and_key(uri)
    if _forked or not _PLAIN_KEY.fullmatch(key):
        return None
    return _bucket(bucket, stores.access(uri)).range(key, offset, length, etag)


def answered_by_s3fs(uri: str) -> None:
    """Count a request that only s3fs could answer."""
    bucket, key = bucket_and_key(uri)
    if not _forked and _PLAIN_KEY.fullmatch(key):
        counted = _bucket(bucket, stores.access(uri))
        counted.misfits = min(counted.misfits + 1, _MISFITS)


def aws_settings() -> frozenset[tuple[str, str]]:
    """The settings that a client of S3 is made from, and cached by."""
    return frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))


def requester_pays() -> bool:
    """As GDAL has it: who asks pays for what comes."""
    return os.environ.get("AWS_REQUEST_PAYER", "").lower() == "requester"


class _Renewed:
    """The credentials of a session, renewed before they end, for obstore to ask for at any time."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials
        self._frozen: Any = None

    def __call__(self) -> Any:
        end = getattr(self._credentials, "refresh_needed", lambda _: False)
        if self._frozen is None or end(_RENEWED_BEFORE_S):
            self._frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": self._frozen.access_key,
            "secret_access_key": self._frozen.secret_key,
            "token": self._frozen.token,
            # It asks ten times a second for what ends within five minutes.
            "expires_at": datetime.now(UTC) + timedelta(seconds=1),
        }


def forget(uri: str) -> None:
    """Make a new client of a store next time: its credentials are no longer valid."""
    identity = (aws_settings(), bucket_and_key(uri)[0], stores.access(uri))
    with _lock:
        _buckets.pop(identity, None)


def _bucket(name: str, how: stores.Access) -> _Bucket:
    identity = (aws_settings(), name, how)
    found = _buckets.get(identity)
    if found is None:
        with _lock:
            if identity not in _buckets:
                _buckets[identity] = _Bucket(name, how)
            found = _buckets[identity]
    return found


def _open(bucket: str, how: stores.Access) -> Any:
    """A client with endpoint, region and credentials as botocore finds them; none where it does not."""
    import botocore.session  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
    from obstore.store import S3Store

    try:
        place = stores.place(how)
        session = botocore.session.Session(profile=place.profile)
        credentials = None if place.unsigned else session.get_credentials()
        if credentials is None and not place.unsigned:
            return None
        meta = session.create_client(
            "s3",
            endpoint_url=place.endpoint,
            region_name=place.region,
            config=Config(ignore_configured_endpoint_urls=place.profile is not None),
        ).meta

        return S3Store(
            bucket,
            endpoint=meta.endpoint_url,
            region=meta.region_name,
            skip_signature=place.unsigned,
            virtual_hosted_style_request=False,
            request_payer=requester_pays(),
            credential_provider=None if place.unsigned else _Renewed(credentials),
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=5),
                "read_timeout": timedelta(seconds=60),
            },
            retry_config={"max_retries": 0},  # s3fs asks again
        )
    except Exception:  # a profile that does not exist and the like: s3fs says what it is
        return None


def _left_to_s3fs() -> None:
    # obstore's threads are not in a forked child.
    global _forked  # noqa: PLW0603
    _forked = bool(_buckets)


os.register_at_fork(after_in_child=_left_to_s3fs)
