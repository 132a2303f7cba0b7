"""Messages between the driver and its workers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from catdog.inputs import SourceLimits
    from catdog.model import Arithmetic
    from catdog.pixels import DecodeLimits
    from catdog.results import Plan


def cannot_compute(who: str, what_to_do: str) -> str:
    """Why a job cannot continue on CPUs that lack what it began with."""
    return (
        f"{who} cannot compute in bfloat16, in which the job began; {what_to_do}, or name another "
        "--output folder and --precision float32"
    )


@dataclass(frozen=True)
class Assignment:
    """How workers process each of their shards.

    Attributes:
        plan: the job's plan.
        run: name of the driver, which the part files carry.
        arithmetic: how scores are computed.
        least: of each class, the probability below which its label is `uncertain`.
        labels_from: of each class, the probability from which an image has it, where it may have
            several; None where it has one.
        top: how many best classes have columns of their own; 0 for no such columns.
        all_scores: whether there is a column with the scores of all classes.
        embeddings: whether there is a column of embeddings.
        batch_size: images scored at once.
        decode_limits: limits of one image.
        source_limits: limits of files and archives.
    """

    plan: Plan
    run: str
    arithmetic: Arithmetic
    least: tuple[float, ...]
    labels_from: tuple[float, ...] | None
    top: int
    all_scores: bool
    embeddings: bool
    batch_size: int
    decode_limits: DecodeLimits
    source_limits: SourceLimits


@dataclass(frozen=True)
class Costs:
    """The costs of reading, decoding and scoring a shard.

    Attributes:
        started_at: Unix time in seconds.
        read_s: that decoding waited for bytes.
        decode_s: seconds of decoding.
        predict_s: seconds of scoring.
        first_at: Unix time of the first scores.
        bytes_read: of encoded images.
    """

    started_at: float
    read_s: float
    decode_s: float
    predict_s: float
    first_at: float
    bytes_read: int


@dataclass(frozen=True)
class Told:
    """A shard that is done. Its fields are columns on the way through Ray Data.

    Attributes:
        shard: its number.
        rows: images of the shard.
        rejected: those of them with an error.
        images: those that this run classified; 0 where another driver did.
        started_at, read_s, decode_s, predict_s, first_at, bytes_read: as in `Costs`; 0 where
            nothing was to do.
        write_s: seconds of building and writing rows.
        ended_at: Unix time in seconds.
    """

    shard: int
    rows: int
    rejected: int
    images: int
    started_at: float
    read_s: float
    decode_s: float
    predict_s: float
    first_at: float
    bytes_read: int
    write_s: float
    ended_at: float

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """From a row of a table; other columns are ignored."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})
