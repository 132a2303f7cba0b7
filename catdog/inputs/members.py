"""An archive as an input: the rows of its members."""

from __future__ import annotations

import contextlib
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from catdog import errors, storage
from catdog.errors import ErrorCode, ImageRejected
from catdog.inputs import archives, reading
from catdog.inputs.entries import (
    BATCH_ROWS,
    PLAN_SCHEMA,
    Columns,
    Row,
    SourceLimits,
    Work,
    error_row,
    to_batch,
)
from catdog.inputs.kept_beside import SampleColumns, with_kept
from catdog.inputs.names import (
    ALL_ARCHIVES,
    archive_codec,
    label_of,
    set_aside_as,
    skipped_as,
)
from catdog.inputs.skipped import Skips
from catdog.inputs.told_labels import SampleLabels, relabelled, sample_of
from catdog.inputs.unique import Spill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True)
class Archive:
    """An archive as an input.

    Attributes:
        uri: of the archive.
        prefix: the folder that the members' names are put under, "" for none.
        label: of all its members, instead of their folders' names.
        limits: what it may cost.
        columns: where its samples have their labels.
        skips: counts its members that are no images.
        keep: columns of the results; the texts of its samples are some.
    """

    uri: str
    prefix: str
    label: str | None
    limits: SourceLimits
    columns: Columns
    skips: Skips
    keep: pa.StructType | None = None

    def works(self) -> Iterator[Work]:
        """One work."""
        yield self.rows

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Rows of the members, and one for the archive itself where it is broken."""
        with contextlib.closing(Spill()) as spill:
            rows: list[Row] = []
            shared, damaged = SharedFolder(), False
            beside = self._labels_beside()
            texts = None if self.keep is None else SampleColumns(self.uri, self.keep)
            readers = [each for each in (beside, texts) if each is not None]
            try:
                for member, stamp in archive_members(self.uri, self.limits, _any_of(readers)):
                    parts = member_parts(member)
                    if not parts:
                        self.skips.add("without a name")
                        continue
                    if member.content is not None:
                        for each in readers:
                            if each.are_in(parts[-1]):
                                each.read("/".join(parts), member.content)
                        continue
                    kind = set_aside_as("/".join(parts)) or skipped_as(parts[-1])
                    if kind is not None:
                        self.skips.add(kind)
                        continue
                    shared.add(parts[:-1])
                    row = member_row(self.uri, self.prefix, self.label, member, parts)
                    rows.append(row._replace(stamp=stamp))
                    if len(rows) >= BATCH_ROWS:
                        spill.add(to_batch(rows))
                        rows = []
            except (ImageRejected, OSError) as error:
                if isinstance(error, ImageRejected):
                    damaged = error.code != ErrorCode.TOO_LARGE
                name = posixpath.join(self.prefix, posixpath.basename(self.uri))
                rows.append(error_row(self.uri, name, error))
            if rows:
                spill.add(to_batch(rows))
            relabel = self.label is None and beside is None
            for each in spill.batches():
                told = each if beside is None else self._labelled(each, beside)
                root = shared.root
                found = from_root(told, self.prefix, root, relabel=relabel) if root else told
                found = without_names(found, self.uri) if damaged else found
                yield found if texts is None else self._with_texts(found, each, texts)
            self.skips.add("replaced by a later member of its name", spill.replaced)

    def _labels_beside(self) -> SampleLabels | None:
        if self.label is not None or self.columns.label_from is None:
            return None
        return SampleLabels(self.columns.label_from)

    def _with_texts(
        self, rows: pa.RecordBatch, listed: pa.RecordBatch, texts: SampleColumns
    ) -> pa.RecordBatch:
        """The rows with the texts of their samples, by the names as listed."""
        start = len(f"{self.prefix}/") if self.prefix else 0
        members = listed.column("container").is_valid().to_pylist()  # or the archive itself
        names = zip(listed.column("name").to_pylist(), members, strict=True)
        return with_kept(rows, texts.of(name[start:] if member else None for name, member in names))

    def _labelled(self, rows: pa.RecordBatch, beside: SampleLabels) -> pa.RecordBatch:
        start = len(f"{self.prefix}/") if self.prefix else 0
        names = [sample_of(name[start:]) for name in rows.column("name").to_pylist()]
        told = beside.told.of(names)
        member = rows.column("container").is_valid().to_pylist()  # or the archive itself
        return relabelled(rows, [t if m else None for t, m in zip(told, member, strict=True)])


def _any_of(readers: Sequence[SampleLabels | SampleColumns]) -> Callable[[str], bool] | None:
    """Whether one of them needs the content of a member with this name."""
    if not readers:
        return None
    return lambda name: any(each.are_in(name) for each in readers)


class SharedFolder:
    """The folders that all images of an archive lie in."""

    def __init__(self) -> None:
        self._shared: list[str] | None = None
        self._fewest = 0

    def add(self, folders: list[str]) -> None:
        """One more image, which lies in these folders."""
        if self._shared is None:
            self._shared, self._fewest = folders, len(folders)
            return
        self._fewest = min(self._fewest, len(folders))
        if folders[: len(self._shared)] != self._shared:
            pairs = zip(self._shared, folders, strict=False)
            same = next((at for at, (one, two) in enumerate(pairs) if one != two), self._fewest)
            self._shared = self._shared[:same]

    @property
    def root(self) -> str:
        """The root to strip from all names, with a final `/`; "" for none.

        If an image lies directly in the innermost shared folder, that folder is a class, not a wrapper.
        """
        shared = self._shared or []
        wraps = len(shared) < self._fewest and ".." not in shared
        return "/".join([*shared, ""]) if wraps else ""


def from_root(rows: pa.RecordBatch, prefix: str, root: str, *, relabel: bool) -> pa.RecordBatch:
    """The rows of an archive, the images' names and labels without its root.

    Args:
        rows: PLAN_SCHEMA.
        prefix: what the names start with before the root, without a final `/`.
        root: with a final `/`.
        relabel: whether labels are the first folders of the names.
    """
    start = posixpath.join(prefix, root)
    names, labels = rows.column("name").to_pylist(), rows.column("label").to_pylist()
    for at, name in enumerate(names):
        if name.startswith(start):  # else it is the archive itself
            names[at] = posixpath.join(prefix, name[len(start) :])
            labels[at] = label_of(names[at]) if relabel else labels[at]
    columns = dict(zip(PLAN_SCHEMA.names, rows.columns, strict=True))
    columns |= {"name": pa.array(names, pa.string()), "label": pa.array(labels, pa.string())}
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=PLAN_SCHEMA)


def without_names(rows: pa.RecordBatch, archive: str) -> pa.RecordBatch:
    """The rows of a damaged archive, with URIs that open: tarfile reads none that is cut."""
    scheme, end = "tar://", f"::{archive}"
    uris = [
        storage.member_uri("tar", uri[len(scheme) : -len(end)], archive, by_name=False)
        if uri.startswith(scheme) and uri.endswith(end)
        else uri
        for uri in rows.column("uri").to_pylist()
    ]
    return rows.set_column(0, PLAN_SCHEMA.field("uri"), pa.array(uris, pa.string()))


def may_be_image(parts: list[str]) -> bool:
    """Whether a member, by the parts of its name, is planned when its archive is."""
    return bool(parts) and not (set_aside_as("/".join(parts)) or skipped_as(parts[-1]))


def member_parts(member: archives.Member) -> list[str]:
    """The folders and the file of a member's name; nothing where it has none."""
    name = member.true_name or member.name
    return [part for part in name.split("/") if part not in {"", "."}]


def member_row(
    uri: str, prefix: str, label: str | None, member: archives.Member, parts: list[str]
) -> Row:
    """The row of a member.

    Args:
        uri: of the archive.
        prefix: as `Archive.prefix`.
        label: as `Archive.label`.
        member: as the archive lists it.
        parts: by `member_parts`.
    """
    name = "/".join([prefix, *parts] if prefix else parts)
    error, detail = member.error, member.detail
    if error is None and name.lower().endswith(ALL_ARCHIVES):
        error, detail = ErrorCode.UNSUPPORTED, "It is an archive inside an archive."
    codec = archive_codec(uri)
    return Row(
        storage.member_uri(
            "zip" if codec == "zip" else "tar", member.name, uri, by_name=member.by_name
        ),
        name,
        label_of(name) if label is None else label,
        uri,
        member.offset,
        member.length,
        member.size,
        None,
        codec,
        None if error is None else error.value,
        detail,
    )


def archive_members(
    uri: str, limits: SourceLimits, is_label: Callable[[str], bool] | None = None
) -> Iterator[tuple[archives.Member, str]]:
    """Members of an archive, by the kind that its name tells, each with the archive's stamp.

    Args:
        uri: of the archive.
        limits: what it may cost.
        is_label: of which names the content is read, up to 1 MiB.

    Errors as `archives.tar_members`.
    """
    codec = archive_codec(uri)
    if codec is None:
        raise ImageRejected(ErrorCode.UNSUPPORTED, "Archives are .tar, .tar.gz, .tgz or .zip.")
    with errors.reading(uri), contextlib.closing(archives.FileBytes(uri)) as file:
        if codec == "zip":
            members = archives.zip_members(file, limits.max_archive_members)
            if is_label is not None:
                members = _with_labels(uri, file.stamp, members, is_label)
            for member in members:
                yield member, file.stamp
            return
        magic = file.read_at(0, 2)
        if not magic:
            raise ImageRejected(ErrorCode.EMPTY, "The file has no bytes.")
        if codec == "tar" and magic == b"\x1f\x8b":
            raise ImageRejected(ErrorCode.UNREADABLE, "It is compressed: name it .tar.gz.")
        if codec == "tar.gz" and magic != b"\x1f\x8b":
            raise ImageRejected(ErrorCode.UNREADABLE, "It is not a gzip file.")
        stream = None if codec == "tar" else archives.GzipBytes(file, limits.max_expansion)
        for member in archives.tar_members(stream or file, limits.max_archive_members, is_label):
            yield member, file.stamp
        if stream is not None:
            stream.check_rest()


def _with_labels(
    uri: str, stamp: str, members: Iterator[archives.Member], is_label: Callable[[str], bool]
) -> Iterator[archives.Member]:
    """Members of a zip, with the content of those that hold labels."""
    # Not through the window for the directory.
    with contextlib.closing(archives.FileBytes(uri, stamp)) as file:
        for member in members:
            if is_label(member.name):
                yield member._replace(content=_content(file, member))
            else:
                yield member


def _content(file: archives.FileBytes, member: archives.Member) -> bytes | ImageRejected:
    if member.error is not None:
        return ImageRejected(member.error, member.detail or "")
    try:
        return archives.too_long_label(member.size) or reading.read_member(
            "zip", file.read_at, member.offset, member.length, member.size
        )
    except ImageRejected as rejected:
        return rejected
