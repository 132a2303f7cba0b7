"""What an exception means, and for how long a failed request is repeated.

No message holds a server's own words, so none can hold a secret.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from catdog.errors import CatdogError, ErrorCode, ImageRejected, UserInputError
from catdog.storage.uris import bucket_and_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

logger = logging.getLogger(__name__)

PATIENCE_S = {"throttled": 180.0, "interrupted": 60.0, "unreachable": 15.0}
"""Seconds for which a request to a store is repeated in all, by its last failure.

A store that throttles is alive and asks for patience; one that refuses connections may be
restarting, or the endpoint is misspelt. Other failures are not repeated. Those named here are repeated
at least once, since a request that hangs takes all this time by itself. This is the one place that
repeats a request: the libraries below are told to try once.
"""

_THROTTLED = frozenset({"SlowDown", "ServiceUnavailable", "TooManyRequests", "Throttling"})
_THROTTLED |= {"ThrottlingException", "RequestLimitExceeded", "503", "429"}
_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NoSuchUpload", "404"})
_FORBIDDEN = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401"})
_FORBIDDEN |= {"InvalidObjectState", "InvalidSecurity", "NotSignedUp"}
# These are about the credentials, not about the object: every other request fails as well.
_BAD_CREDENTIALS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})
_BAD_CREDENTIALS |= {"InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"}


class StorageDownError(CatdogError):
    """A store as a whole is unreachable, throttles without end or refuses the credentials."""


class CredentialsError(StorageDownError):
    """A store does not know the credentials, or they have expired."""


class RangeOutsideError(OSError):
    """A range starts at or after the end of the object; so does every range of an empty one."""


def error_code(error: BaseException) -> ErrorCode:
    """The reason for rejecting an image whose reading raised this."""
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
    """The first look at a place that the user named: an error is one of the user's input.

    Args:
        named: the flag and its value, for the message.

    Raises:
        UserInputError: the place is missing, forbidden or unreadable, its store refuses the
            credentials, or it is not a URI (`to_uri`).
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


def is_of_disk(error: BaseException) -> bool:
    """Whether a disk or a store raised it. Arrow raises OSError of content too, without a number."""
    return isinstance(error, OSError) and error.errno is not None


def said(sentence: str) -> str:
    """A sentence of this room, for an exception: `error_detail` shows those and no others."""
    return _Sentence(sentence)


def changed() -> ImageRejected:
    """The rejection of an image whose file is no longer the one that was listed."""
    return ImageRejected(ErrorCode.CHANGED, "It is no longer the file that was listed.")


def endless() -> OSError:
    """The error for a listing whose pages lead back to an earlier one."""
    return OSError(errno.EIO, _Sentence("The store's listing does not end."))


def retried(uri: str, request: Callable[[], T]) -> T:
    """The result of a request to a store; repeats it while the failure may pass.

    Raises:
        OSError: about this object, with a sentence of ours as its last argument.
        StorageDownError: about the store.
    """
    started = time.monotonic()
    delay_s = 0.1
    repeated = False
    while True:
        try:
            return request()
        except Exception as error:
            kind, translated = _translate(uri, error)
            waited_s = time.monotonic() + delay_s - started
            if kind not in PATIENCE_S or (repeated and waited_s > PATIENCE_S[kind]):
                raise translated from None
            logger.debug("S3: %s, trying again in %.1f s", kind, delay_s)
        # Jitter, or all workers would come back at the same moment.
        time.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311
        delay_s = min(1.7 * delay_s, 10.0)
        repeated = True


def _translate(  # noqa: C901, PLR0912 - a table of what stores answer
    uri: str, error: Exception
) -> tuple[str, Exception]:
    """The kind of trouble (a key of `PATIENCE_S`, or another word) and what to raise."""
    import botocore.exceptions as boto  # type: ignore[import-untyped]

    store = f"s3://{bucket_and_key(uri)[0]}"
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
            return "exists", FileExistsError(
                errno.EEXIST, _Sentence("Another object with this name exists already.")
            )
        if code in {"InvalidRange", "416"}:
            return "range", RangeOutsideError(
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
            errno.EACCES,
            _Sentence(
                "No AWS credentials are configured; to read a public bucket without any, pass "
                "--no-sign-request or set AWS_NO_SIGN_REQUEST=YES."
            ),
        )
    if isinstance(error, boto.ProfileNotFound):
        return "credentials", CredentialsError(
            f"the AWS configuration of {socket.gethostname()} has no profile "
            f"{error.kwargs.get('profile')}"
        )
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError):
        return "credentials", CredentialsError(f"AWS credentials could not be obtained ({name})")
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
