"""What can go wrong, in three kinds: the user's input, the job, one image."""

from __future__ import annotations

from enum import StrEnum


class CatdogError(Exception):
    """The job failed. The command line prints the message as one line and exits with 1."""


class UserInputError(CatdogError):
    """What the user asked for is wrong: names the flag or file. Exit code 2."""


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
