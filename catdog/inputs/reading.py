"""The bytes of plan entries: files, members of archives, rows of tables; local and on S3.

Reading runs ahead in threads and gives results in order. On S3, neighbours in an archive come in
one request. A failure of one image is an `ImageRejected` in its place.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast

from catdog import storage
from catdog.errors import ErrorCode, ImageRejected
from catdog.inputs import archives, image_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

    from catdog.inputs.entries import SourceLimits

T = TypeVar("T")

# One unit of reading. On S3 a request costs about as much as the transfer of a megabyte, so
# neighbours are read together, over gaps too; locally a unit only spreads the cost of a task.
_LOCAL_UNIT_IMAGES = 16
_LOCAL_UNIT_BYTES = 4 << 20
_REMOTE_UNIT_IMAGES = 512
_REMOTE_UNIT_BYTES = 8 << 20
_REMOTE_GAP_BYTES = 256 << 10
# How much of a file of unknown size is read ahead. The rest of a larger one is read when its turn
# comes, one file at a time, so that unknown sizes cannot fill the memory.
_UNKNOWN_BYTES = 4 << 20


_Result: TypeAlias = "bytes | ImageRejected"


class _Span(NamedTuple):
    """Where the bytes of one entry lie."""

    uri: str  # of the file or the archive
    offset: int
    length: int
    size: int | None
    stamp: str | None  # of the file or the archive when it was listed
    member: str | None = None  # name of a zip's that its URI has, for zipfile


def read_images(
    entries: pa.Table, limits: SourceLimits, threads: int
) -> Iterator[bytes | ImageRejected]:
    """The bytes of plan entries, or why there are none: one for each, in order.

    Args:
        entries: rows of PLAN_SCHEMA.
        limits: the largest image, and how many bytes may wait.
        threads: reading ahead at the same time.

    Raises:
        StorageDownError: a store as a whole is unreachable, which is no image's fault.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="catdog-read")
    waiting: deque[_Unit] = deque()
    in_flight = 0
    try:
        for unit in _units(entries, limits):
            while waiting and (
                in_flight + unit.estimate > limits.bytes_in_flight or len(waiting) >= 4 * threads
            ):
                first = waiting.popleft()
                yield from _results(first)
                in_flight -= first.estimate
            if not unit.stream:
                unit.future = pool.submit(unit.read)
            waiting.append(unit)
            in_flight += unit.estimate
        while waiting:
            yield from _results(waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Unit:
    """Consecutive entries that are read together."""

    read: Callable[[], Iterable[_Result | Callable[[], _Result]]]
    estimate: int  # bytes
    stream: bool  # read when its turn comes, one image after the other
    future: Future[Any] | None = None


def _results(unit: _Unit) -> Iterator[_Result]:
    results = unit.read() if unit.future is None else unit.future.result()
    unit.future = None
    for result in results:
        yield result() if callable(result) else result


def _units(entries: pa.Table, limits: SourceLimits) -> Iterator[_Unit]:
    """The entries, in order, as units of reading."""
    names = ["uri", "container", "offset", "length", "size", "stamp", "codec"]
    names += ["error", "error_detail"]
    for batch in entries.select(names).to_batches(max_chunksize=4096):
        specs: list[_Span | ImageRejected] = []
        current: _Source | None = None
        estimate = start = end = 0

        for uri, container, offset, length, size, stamp, codec, error, detail in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            rejected = _known_rejection(size, codec, error, detail, limits)
            if rejected is not None:
                specs.append(rejected)  # in whatever unit comes along
                if len(specs) >= _REMOTE_UNIT_IMAGES:
                    yield _unit(current, specs, estimate, limits)
                    specs, current, estimate = [], None, 0
                continue
            where = container or uri
            local = storage.is_local(where)
            cost = (size if length is None else length) if size is not None else _UNKNOWN_BYTES
            key = _Source(codec, *(("", None) if codec == "file" and local else (where, stamp)))
            first = offset or 0
            if codec == "page" and key == current:
                cost = 0  # of one file, which is read once
            if _is_stream(codec):
                fits = True
                cost = 0
            elif local:
                fits = len(specs) < _LOCAL_UNIT_IMAGES and estimate + cost <= _LOCAL_UNIT_BYTES
            else:
                fits = (
                    codec != "file"
                    and len(specs) < _REMOTE_UNIT_IMAGES
                    and start <= first <= end + _REMOTE_GAP_BYTES
                    and first + cost - start <= _REMOTE_UNIT_BYTES
                )
            if specs and not (current is None or (key == current and fits)):
                yield _unit(current, specs, estimate, limits)
                specs, current, estimate = [], None, 0
            if current is None:
                current, start, end = key, first, first
            member = None
            if uri.startswith("zip://") and codec == "zip":
                member = uri[len("zip://") :].partition("::")[0]
            specs.append(_Span(where, first, length or 0, size, stamp, member))
            end = max(end, first + cost)
            estimate = estimate + cost if local or codec == "file" else end - start
        if specs:
            yield _unit(current, specs, estimate, limits)


class _Source(NamedTuple):
    """What the entries of a unit share."""

    codec: str
    container: str  # "" for local files, which may be any
    stamp: str | None


def _unit(
    current: _Source | None,
    specs: list[_Span | ImageRejected],
    estimate: int,
    limits: SourceLimits,
) -> _Unit:
    source = current or _Source("file", "", None)
    kind = source.codec.partition(":")[0]
    read = partial(_READERS[kind], source, specs, limits)
    return _Unit(read, estimate, stream=_is_stream(source.codec))


def _is_stream(codec: str | None) -> bool:
    """Whether the bytes before an entry are read with it.

    Of a row of a table, which is `row`, or `row:COLUMN` where its images are not in the usual one.
    """
    return (codec or "").partition(":")[0] in {"tar.gz", "row"}


def _known_rejection(
    size: int | None, codec: str | None, error: str | None, detail: str | None, limits: SourceLimits
) -> ImageRejected | None:
    """Why reading an entry is not even tried."""
    if error is not None:
        return ImageRejected(ErrorCode(error), detail or "")
    if (codec or "").partition(":")[0] not in _READERS:
        return ImageRejected(ErrorCode.UNSUPPORTED, f"The plan's codec {codec} is not known.")
    if size == 0 and codec != "file":
        return _EMPTY
    if size is not None and size > limits.max_bytes:
        return _too_large(size, limits)
    return None


_EMPTY = ImageRejected(ErrorCode.EMPTY, "The file has no bytes.")


def _too_large(size: int, limits: SourceLimits) -> ImageRejected:
    return ImageRejected(
        ErrorCode.TOO_LARGE, f"It has {size:,} bytes, more than the limit of {limits.max_bytes:,}."
    )


def _attempt(read: Callable[[], T]) -> T | ImageRejected:
    """What `read` returns, or why it raised."""
    try:
        return read()
    except storage.StorageDownError:
        raise
    except Exception as error:
        return storage.rejection(error)


def _read_files(
    _: _Source, specs: list[_Span | ImageRejected], limits: SourceLimits
) -> Iterable[_Result | Callable[[], _Result]]:
    read = _read_local_file if storage.is_local(_uri_of(specs)) else _read_remote_file
    return [
        spec if isinstance(spec, ImageRejected) else _attempt(partial(read, spec, limits))
        for spec in specs
    ]


def _uri_of(specs: list[_Span | ImageRejected]) -> str:
    return next((spec.uri for spec in specs if not isinstance(spec, ImageRejected)), "")


def _read_local_file(spec: _Span, limits: SourceLimits) -> _Result | Callable[[], _Result]:
    uri, _, _, known, stamp, _ = spec
    descriptor = storage.open_local(storage.local_path(uri), stamp)
    try:
        size = os.fstat(descriptor).st_size
        if size > limits.max_bytes:
            return _too_large(size, limits)
        if size > max(_UNKNOWN_BYTES, known or 0):
            return lambda: _attempt(lambda: storage.read_bytes(uri, limits.max_bytes, stamp))
        data = storage.pread(descriptor, 0, size)
        storage.check_unchanged(descriptor, stamp)  # nor was it written in the meantime
        return data or _EMPTY
    finally:
        os.close(descriptor)


def _read_remote_file(spec: _Span, limits: SourceLimits) -> _Result | Callable[[], _Result]:
    uri, _, _, known, stamp, _ = spec
    data, total = storage.remote_range(uri, 0, max(_UNKNOWN_BYTES, known or 0), stamp)
    if total > limits.max_bytes:
        return _too_large(total, limits)
    if total > len(data):
        return lambda: _attempt(
            lambda: data + storage.read_range(uri, len(data), total - len(data), stamp)
        )
    return data or _EMPTY


def _read_pages(
    _: _Source, specs: list[_Span | ImageRejected], limits: SourceLimits
) -> Iterable[_Result | Callable[[], _Result]]:
    """Pages of one TIFF: the file is read once, and each page becomes its first one."""
    span = next((spec for spec in specs if not isinstance(spec, ImageRejected)), None)
    if span is None:
        return cast("list[_Result]", specs)
    data = _attempt(lambda: storage.read_bytes(span.uri, limits.max_bytes, span.stamp))
    return [_page(spec, data) for spec in specs]


def _page(spec: _Span | ImageRejected, data: _Result) -> _Result | Callable[[], _Result]:
    if isinstance(spec, ImageRejected) or isinstance(data, ImageRejected):
        return spec if isinstance(spec, ImageRejected) else data
    return lambda: storage.as_first_page(data, spec.offset)


def _read_members(
    source: _Source, specs: list[_Span | ImageRejected], limits: SourceLimits
) -> list[_Result]:
    """Members of one archive by offset: locally one by one, on S3 all in one request."""
    spans = [spec for spec in specs if not isinstance(spec, ImageRejected)]
    if not spans:
        return cast("list[_Result]", specs)
    codec, container, stamp = source
    descriptor = -1
    try:
        if storage.is_local(container):
            descriptor = storage.open_local(storage.local_path(container), stamp)

            def read(offset: int, length: int) -> bytes:
                return storage.pread(descriptor, offset, length)

        else:
            start = min(span.offset for span in spans)
            end = max(span.offset + span.length for span in spans)
            block = memoryview(storage.read_range(container, start, end - start, stamp))

            def read(offset: int, length: int) -> bytes:
                if offset + length <= end:
                    return bytes(block[offset - start : offset - start + length])
                return storage.read_range(container, offset, length, stamp)

        return [
            spec
            if isinstance(spec, ImageRejected)
            else _attempt(partial(_read_member, codec, read, spec, limits))
            for spec in specs
        ]
    except storage.StorageDownError:
        raise
    except Exception as error:  # of the archive: all members share it
        shared = storage.rejection(error)
        return [spec if isinstance(spec, ImageRejected) else shared for spec in specs]
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _read_member(
    codec: str, read: Callable[[int, int], bytes], spec: _Span, limits: SourceLimits
) -> _Result:
    _, offset, length, known, _, name = spec
    if codec == "zip" and length > limits.max_bytes + archives.ZIP_LONGEST_HEADER_BYTES:
        return _too_large(length, limits)
    found = read_member(codec, read, offset, length, length if known is None else known)
    if name is not None and not archives.names_itself(partial(read, offset), name):
        # zipfile refuses it, so its URI would not open.
        what = "Its own header in the zip gives it another name than the directory."
        return ImageRejected(ErrorCode.UNREADABLE, what)
    return found


def read_member(
    codec: str, read: Callable[[int, int], bytes], offset: int, length: int, size: int
) -> bytes | ImageRejected:
    """The bytes of an archive's member.

    Args:
        codec: of the archive.
        read: its bytes by offset and length.
        offset: as `archives.Member`.
        length: likewise.
        size: likewise.

    Raises:
        ImageRejected: as `archives.extract_zip_member`.
        OSError: as `read`.
    """
    if codec == "zip":
        data = read(offset, length)
        try:
            return archives.extract_zip_member(data, size)
        except ImageRejected as error:
            # Its own header can be longer than the archive's directory says.
            longer = read(offset, length + archives.ZIP_LONGEST_HEADER_BYTES)
            if error.code != ErrorCode.TRUNCATED or len(longer) <= len(data):
                raise
            return archives.extract_zip_member(longer, size)
    data = read(offset, size)
    if len(data) < size:
        return ImageRejected(ErrorCode.TRUNCATED, "The archive ends inside it.")
    return data or _EMPTY


class _OpenStreams:
    """Readers that only go forward, kept between calls.

    To reach an entry of a `.tar.gz` or a row of a Parquet row group, everything before it must be read.
    Shards come in order, so the next call mostly continues where the last one stopped, and a process
    reads an archive once in all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: OrderedDict[tuple[_Source, SourceLimits], Any] = OrderedDict()

    def take(self, source: _Source, limits: SourceLimits) -> Any:
        """The stream that was put back last, or None. Nobody else has it then."""
        with self._lock:
            return self._streams.pop((source, limits), None)

    def put_back(self, source: _Source, limits: SourceLimits, stream: Any) -> None:
        """Keep it for the next call."""
        with self._lock:
            closed = [self._streams.pop((source, limits), None)]
            self._streams[source, limits] = stream
            while len(self._streams) > 2:
                closed.append(self._streams.popitem(last=False)[1])
        for old in closed:
            if old is not None:
                old.close()


_open_streams = _OpenStreams()


def _forget_after_fork() -> None:
    # Readers of remote files have threads, which a forked child has not.
    global _open_streams  # noqa: PLW0603
    _open_streams = _OpenStreams()


os.register_at_fork(after_in_child=_forget_after_fork)


class _TarGzStream:
    """Members of a `.tar.gz`, read in the order in which they lie there."""

    def __init__(self, source: _Source, limits: SourceLimits) -> None:
        self._file = archives.FileBytes(source.container, source.stamp)
        self._stream = archives.GzipBytes(self._file, limits.max_expansion)

    @property
    def position(self) -> int:
        return self._stream.position

    def read(self, spec: _Span, limits: SourceLimits) -> _Result:  # noqa: ARG002 - as _TableStream
        _, offset, length, _, _, _ = spec
        data = self._stream.read_at(offset, length)
        if len(data) < length:
            return ImageRejected(ErrorCode.TRUNCATED, "The archive ends inside it.")
        return data or _EMPTY

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def close(self) -> None:
        self._file.close()


class _TableStream:
    """The images in a Parquet table, read in order; row groups before them are skipped."""

    def __init__(self, source: _Source, limits: SourceLimits) -> None:
        import pyarrow.parquet as pq

        self._source = source
        column = source.codec.partition(":")[2]
        self._file = storage.open_input(source.container, source.stamp)
        self._table = pq.ParquetFile(self._file, buffer_size=1 << 20, pre_buffer=False)
        schema = self._table.schema_arrow
        self._column = column or image_columns.default_column(schema) or "bytes"
        self._leaf = image_columns.leaf_of(schema, self._column)
        local = storage.is_local(source.container)
        self._pages = image_columns.PagesOfImages(self._file, self._leaf, limits, local=local)
        self.position = 0
        self._group = -1
        self._group_end = 0
        self._values: Iterator[Any] = iter(())
        self._refused: ImageRejected | None = None

    def read(self, spec: _Span, limits: SourceLimits) -> _Result:
        row = spec.offset
        while row >= self._group_end:
            self._group += 1
            if self._group >= self._table.num_row_groups:
                self.position = self._group_end  # an earlier row needs a new start
                return ImageRejected(ErrorCode.MISSING, "The table has no such row.")
            self.position = self._group_end
            self._group_end += self._table.metadata.row_group(self._group).num_rows
            self._values, self._refused = iter(()), None
            if row < self._group_end:
                self._open_group()
        if self._refused is not None:
            self.position = row + 1
            return self._refused
        value = None
        while self.position <= row:
            value = next(self._values)
            self.position += 1
        if value is None or not value.is_valid:
            return ImageRejected(ErrorCode.EMPTY, "The table has no bytes in this row.")
        size = value.as_buffer().size
        if size > limits.max_bytes:
            return _too_large(size, limits)
        return cast("bytes", value.as_py()) or _EMPTY

    def _open_group(self) -> None:
        try:
            rows = self._pages.rows_at_once(self._group)
        except ImageRejected as refused:
            self._refused = refused
        else:
            self._values = self._rows_of_group(rows)

    def _rows_of_group(self, rows: int) -> Iterator[Any]:
        batches = self._table.iter_batches(
            rows, row_groups=[self._group], columns=[self._leaf], use_threads=False
        )
        for batch in batches:
            yield from image_columns.values_of(self._column, batch)

    def check_unchanged(self) -> None:
        if storage.is_local(self._source.container):  # of a remote one, reading does it
            storage.check_unchanged(self._file.fileno(), self._source.stamp)

    def close(self) -> None:
        self._table.close()
        self._file.close()


def _read_stream(
    open_stream: Callable[[_Source, SourceLimits], Any],
    source: _Source,
    specs: list[_Span | ImageRejected],
    limits: SourceLimits,
) -> Iterator[_Result]:
    stream = _open_streams.take(source, limits)
    broken: ImageRejected | None = None
    try:
        if stream is not None:
            checked = _attempt(stream.check_unchanged)
            broken = checked if isinstance(checked, ImageRejected) else None
        for spec in specs:
            if isinstance(spec, ImageRejected):
                yield spec
                continue
            result: _Result | ImageRejected
            try:
                if stream is not None and stream.position > spec.offset:
                    stream.close()
                    stream = broken = None
                if broken is not None:
                    result = broken
                else:
                    if stream is None:
                        stream = open_stream(source, limits)
                    result = stream.read(spec, limits)
            except storage.StorageDownError:
                raise
            except Exception as error:
                # Nothing after the damage can be reached.
                result = broken = storage.rejection(error)
            yield result
    finally:
        if stream is not None and broken is None:
            _open_streams.put_back(source, limits, stream)
        elif stream is not None:
            stream.close()


_READERS: dict[str, Callable[..., Iterable[_Result | Callable[[], _Result]]]] = {
    "file": _read_files,
    "page": _read_pages,
    "tar": _read_members,
    "zip": _read_members,
    "tar.gz": partial(_read_stream, _TarGzStream),
    "row": partial(_read_stream, _TableStream),
}
