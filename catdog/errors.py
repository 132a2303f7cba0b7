"""What can go wrong, in three kinds: the user's input, the job, one image."""

from __future__ import annotations

import contextlib
import errno
import re
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


# A URI whose first part is a host or bucket, and before that who asks and what only they know. A
# host may have a port, the ARN of an access point has colons; a key may have a slash in it.
_USER = re.compile(
    r"(?is)\b(?!(?:file|local|zip|tar|parquet):/)([a-z][a-z0-9+.-]*:/{1,2})(?!arn:)"
    r"(?:[^/\s]*@|[^/@\s:]*:(?!\d*(?:[/:]|\s|$))(?!\s).*@)"
)
# A key and what is left of its secret: no bucket has a colon.
_CUT_KEY = re.compile(r"(?is)\b(s3[an]?:/{1,2})(?!arn:)[^/@\s:]+:(?!\s).+")
# Parts of a query that are credentials, by their names.
_SECRET_QUERY = re.compile(
    r"(?i)([?&;](?:sig|sas|jwt|pwd|auth|[^=&?#;/\s]*(?:signature|token|credential|secret|passw|"
    r"api_?key|access_?key|accessid)[^=&?#;/\s]*)=)[^&#;\s]*"
)


def without_secrets(text: str) -> str:
    """A URI, or a message that names one, with `***` in place of what looks like credentials."""
    if ":/" not in text:
        return text
    text = _CUT_KEY.sub(r"\1***", _USER.sub(r"\1***@", text))
    return _SECRET_QUERY.sub(r"\1***", text)


def printable(text: str) -> str:
    """Text as one line that cannot steer a terminal: without control characters and line ends."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def counted(count: int, noun: str) -> str:
    """How many there are of something: `1 image`, `2,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def has_user(text: str) -> bool:
    """Whether a URI, wherever in a text it stands, has credentials before its host or bucket."""
    return ":/" in text and (_USER.search(text) or _CUT_KEY.search(text)) is not None


class CatdogError(Exception):
    """The job failed. The command line prints the message as one line and exits with 1.

    The message has no credentials: see `without_secrets`.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))


class UserInputError(CatdogError):
    """What the user asked for is wrong: names the flag or file. Exit code 2."""


class DiskFullError(CatdogError):
    """No space was left to write a file. Names the folder, and says what to do."""


_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


@contextlib.contextmanager
def naming_full_disk(place: str, remedy: str = "") -> Iterator[None]:
    """Have a full disk named where the block writes: an `OSError` of a write names no file.

    Args:
        place: path of the file or folder that is written.
        remedy: what helps besides freeing space.

    Raises:
        DiskFullError: the block ran out of space.
    """
    try:
        yield
    except OSError as error:
        if (said := full_disk(error)) is None:
            raise
        raise DiskFullError(
            f"{place}: {said}; free some space{remedy}, then run the same command again"
        ) from error


def full_disk(error: OSError) -> str | None:
    """What to say of an error that means that no space is left; None of any other error."""
    if error.errno in _FULL:
        return _FULL[error.errno]
    # HDF5 keeps the number in the text.
    return _FULL[errno.ENOSPC] if "No space left on device" in str(error) else None


class Terminated(SystemExit):
    """SIGTERM arrived, and the process ends as soon as everything that it opened is closed."""


class ErrorCode(StrEnum):
    """Why an image was rejected; the values of the result column `error`."""

    MISSING = "missing"
    FORBIDDEN = "forbidden"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not-an-image"
    TRUNCATED = "truncated"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too-large"
    CHANGED = "changed"
    CRASHED = "crashed"
    TIMEOUT = "timeout"


class ImageRejected(Exception):
    """One image cannot be classified. It becomes a row with a reason, never a failed job.

    Attributes:
        code: the reason.
        detail: one sentence for people, without secrets.
    """

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(f"{code.value}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type[ImageRejected], tuple[ErrorCode, str]]:
        # Exceptions pickle their args only; this one must cross process borders whole.
        return (type(self), (self.code, self.detail))


_READING = "while reading "


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Has an exception that nobody foresaw say which input was being read."""
    try:
        yield
    except (CatdogError, ImageRejected):
        raise  # these name it themselves
    except Exception as error:
        error.add_note(_READING + name)
        raise


def being_read(error: BaseException) -> list[str]:
    """The input that was being read when the error came, the innermost, or nothing."""
    notes = getattr(error, "__notes__", [])
    names = [note.removeprefix(_READING) for note in notes if note.startswith(_READING)]
    cause = error.__cause__ or error.__context__
    return names[:1] or (being_read(cause) if cause else [])
