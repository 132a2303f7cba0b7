"""Makes thumbnails of plan entries: reads the images again, and decodes them in child processes."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog import machine
from catdog.errors import CatdogError, counted
from catdog.inputs import SourceLimits
from catdog.pixels import DecodeLimits, Decoder, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from catdog.observer import Observer
    from catdog.pixels import DecodedBatch
    from catdog.reporting.candidates import Place
    from catdog.results import Plan

LARGE, SMALL = 240, 160  # pixels of the longer side
_THUMBNAIL_QUALITY = 68
_MAX_PICTURE_BYTES = {LARGE: 7 << 19, SMALL: 3 << 19}  # of all together, as base64
_THUMBNAILS_TIMEOUT_S = 90.0  # after it, the page is written without the missing ones
# A member of a .tar.gz is reached only by decompressing all that lies before it.
_MAX_STREAM_OFFSET = 4 << 30
TOO_DEEP = "It lies deep inside a .tar.gz."

_T = TypeVar("_T")


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as WebP and its size in pixels, or why there is none."""

    webp: bytes | None
    width: int = 4
    height: int = 3
    trouble: str = ""


@dataclass(frozen=True)
class Picture:
    """The source of a picture on a page and its size, or the original's; or why there is no picture.

    The source is a `data:` URI, or a path on the page's server.
    """

    source: str | None
    width: int = 4
    height: int = 3
    trouble: str = ""


def fetch_thumbnails(
    plan: Plan, run: dict[str, Any], places: list[Place], observer: Observer, side: int = LARGE
) -> dict[Place, Picture]:
    """Thumbnails of plan entries, read again from their sources and decoded in child processes."""
    if not places:
        return {}
    large = f"{counted(len(places), 'picture')} of the galleries"
    small = f"{counted(len(places), 'small picture')} for the search"
    observer.phase(f"fetching {large if side == LARGE else small}")
    pictures: dict[Place, Picture] = {}
    tables, wanted = [], []
    for shard in sorted({shard for shard, _ in places}):
        rows = [row for at, row in places if at == shard]
        entries = plan.read_shard(shard).take(rows)
        deep = lie_deep(entries)
        for row in np.array(rows)[deep].tolist():
            pictures[shard, row] = Picture(None, trouble=TOO_DEEP)
        tables.append(entries.filter(pa.array(~deep)))
        wanted += [(shard, row) for row in np.array(rows)[~deep].tolist()]
    entries = pa.concat_tables(tables)
    limits = limits_of(run)
    deadline = time.monotonic() + _THUMBNAILS_TIMEOUT_S
    workers = max(1, min(4, machine.usable_cpus(), math.ceil(len(wanted) / 16)))
    bounds = np.linspace(0, len(wanted), workers + 1).astype(int).tolist()

    def fetch(worker: int) -> list[Picture]:
        start, stop = bounds[worker : worker + 2]
        return _decode_thumbnails(entries.slice(start, stop - start), *limits, deadline, side)

    with ThreadPoolExecutor(workers, "catdog-thumbnails") as pool:
        fetched = [picture for part in pool.map(fetch, range(workers)) for picture in part]
    held = 0
    for place, picture in zip(wanted, fetched, strict=True):
        held += len(picture.source or "")
        full = picture.source is not None and held > _MAX_PICTURE_BYTES[side]
        pictures[place] = Picture(None, trouble="The page is full.") if full else picture
    return pictures


def lie_deep(entries: pa.Table) -> npt.NDArray[np.bool_]:
    """For each entry whether it lies too deep inside a .tar.gz to wait for it, bool (n,)."""
    deep: npt.NDArray[np.bool_] = pc.fill_null(
        pc.equal(entries["codec"], "tar.gz"), False
    ).to_numpy() & (pc.fill_null(entries["offset"], 0).to_numpy() > _MAX_STREAM_OFFSET)
    return deep


def limits_of(run: dict[str, Any]) -> tuple[DecodeLimits, SourceLimits]:
    """The job's limits, so that the report can decode what the job could."""
    question = run.get("question", {})
    source_limits = _limits(SourceLimits, question.get("source_limits"))
    return (
        _limits(DecodeLimits, question.get("decode_limits")),
        dataclasses.replace(source_limits, bytes_in_flight=32 << 20),
    )


def _limits(kind: type[_T], recorded: Any) -> _T:
    try:
        return kind(**recorded)
    except TypeError:
        return kind()


def _decode_thumbnails(
    entries: pa.Table,
    decode_limits: DecodeLimits,
    source_limits: SourceLimits,
    deadline: float,
    side: int,
) -> list[Picture]:
    pictures: list[Picture] = []
    trouble = "It could not be fetched in time."
    try:
        with contextlib.closing(
            Decoder(square(side), decode_limits, source_limits, batch_size=8)
        ) as decoder:
            for batch in decoder.decode(entries):
                pictures += [_inlined(each) for each in encode(batch, side)]
                if time.monotonic() > deadline:
                    break
    except (CatdogError, OSError) as error:  # the store is gone: the page is still worth having
        trouble = f"It could not be fetched: {error}"
    missing = entries.num_rows - len(pictures)
    return pictures + [Picture(None, trouble=trouble)] * missing


def square(side: int) -> Preprocessing:
    """The preprocessing for a `Decoder` whose output `encode` takes."""
    return Preprocessing(height=side, width=side, resize="pad")


def encode(batch: DecodedBatch, side: int) -> Iterator[Thumbnail]:
    """The images of a batch as WebP, without the black that padded them to a square."""
    from PIL import Image

    pixels = iter(batch.pixels)
    for outcome in batch.outcomes.to_pylist():
        if outcome["error"] is not None:
            yield Thumbnail(None, trouble=outcome["error_detail"] or outcome["error"])
            continue
        scale = side / max(outcome["width"], outcome["height"])
        width, height = (max(1, round(outcome[name] * scale)) for name in ("width", "height"))
        left, top = (side - width) // 2, (side - height) // 2
        cut = next(pixels)[top : top + height, left : left + width]
        encoded = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(cut)).save(
            encoded, "WEBP", quality=_THUMBNAIL_QUALITY, method=4
        )
        yield Thumbnail(encoded.getvalue(), width, height)


def _inlined(thumbnail: Thumbnail) -> Picture:
    if thumbnail.webp is None:
        return Picture(None, trouble=thumbnail.trouble)
    data = base64.b64encode(thumbnail.webp).decode()
    return Picture(f"data:image/webp;base64,{data}", thumbnail.width, thumbnail.height)
