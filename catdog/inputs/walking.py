"""Which files are below a folder or an S3 prefix, in order, with many requests at once."""

# ruff: noqa: PTH116 - paths are strings here, like URIs

from __future__ import annotations

import os
import re
import stat
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from catdog import storage
from catdog.ahead import read_ahead
from catdog.inputs.names import set_aside_as

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

T = TypeVar("T")

_FOLDER_MARKERS = "folder markers"
THREADS = 16  # listing and indexing at once: these wait for a disk or a network


class Found(NamedTuple):
    """A file met while walking."""

    name: str  # relative to what is walked
    size: int | None
    stamp: str | None = None
    error: Exception | None = None
    passed_over: str | None = None  # its kind, if it is not to be planned


def look(uri: str, *, as_folder: bool) -> tuple[bool | None, int | None, str | None]:
    """Whether this is a folder (True), a file (False) or nothing (None); its size and stamp."""
    if storage.is_local(uri):
        try:
            status = os.stat(storage.local_path(uri))
        except (FileNotFoundError, NotADirectoryError):
            return None, None, None
        if stat.S_ISDIR(status.st_mode):
            return True, None, None
        return (None if as_folder else False), status.st_size, storage.stamp_of_status(status)
    if storage.is_web(uri):
        return False, *storage.size_and_stamp(uri)
    bucket = uri.count("/") == 3 and uri.endswith("/")
    if not as_folder and not bucket:
        try:
            return False, *storage.size_and_stamp(uri)
        except FileNotFoundError:
            pass
    keys, prefixes = next(storage.remote_pages(uri.rstrip("/") + "/", delimiter="/", max_keys=1))
    return (True if keys or prefixes or bucket else None), None, None


def is_file(uri: str) -> bool:
    """Whether there is a file that may be looked at."""
    try:
        if storage.is_local(uri):
            return stat.S_ISREG(os.stat(storage.local_path(uri)).st_mode)
        storage.size_and_stamp(uri)
    except OSError:
        return False
    return True


def walk(
    base: str, literal: str = "", enter: Callable[[str], bool] | None = None
) -> Iterator[list[Found]]:
    """Pages of the files below `base` (with a final `/`), without hidden ones, in order.

    Args:
        base: URI of a folder.
        literal: what the relative names start with; local folders may give others too.
        enter: whether to look into a folder, by its relative name; S3 looks into all.
    """
    if storage.is_local(base):
        return _walk_local(storage.local_path(base), enter)
    return _walk_store(base, literal)


class _Folder(NamedTuple):
    name: str  # relative to the root, with a final "/"; "" is the root
    scan: list[Future[list[str] | OSError]]  # none or one, which runs ahead


def _walk_local(  # noqa: C901, PLR0912 - one stack, whose order all of it keeps
    root: str, enter: Callable[[str], bool] | None
) -> Iterator[list[Found]]:
    seen: set[tuple[int, int]] = set()
    # The work left, the next one last: runs of file names in a folder, and folders.
    stack: list[_Folder | tuple[str, list[str]]] = [_Folder("", [])]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="catdog-walk") as pool:
        while stack:
            item = stack.pop()
            if not isinstance(item, _Folder):
                folder, names = item
                for at in range(0, len(names), 1000):
                    yield list(_files(root, folder, names[at : at + 1000]))
                continue
            try:
                status = os.stat(root + item.name)
                names_or_error = item.scan[0].result() if item.scan else _scan(root + item.name)
            except OSError as error:
                names_or_error = error
            if isinstance(names_or_error, OSError):
                if not item.name:
                    raise names_or_error
                yield [Found(item.name.rstrip("/"), None, error=names_or_error)]
                continue
            if (status.st_dev, status.st_ino) in seen:
                # A link's second way to it, or a loop.
                yield [
                    Found(item.name.rstrip("/"), None, passed_over="folder that is there already")
                ]
                continue
            seen.add((status.st_dev, status.st_ino))
            todo: list[_Folder | tuple[str, list[str]]] = []
            run: list[str] = []
            for name in names_or_error:
                if (kind := set_aside_as(item.name + name)) is not None:
                    yield [Found(item.name + name, None, passed_over=kind)]
                elif not name.endswith("/"):
                    run.append(name)
                elif enter is None or enter(item.name + name):
                    if run:
                        todo.append((item.name, run))
                        run = []
                    todo.append(_Folder(item.name + name, []))
            if run:
                todo.append((item.name, run))
            stack += reversed(todo)
            # On network file systems a folder takes milliseconds, so read the next ones ahead.
            for ahead in stack[: -2 * THREADS : -1]:
                if isinstance(ahead, _Folder) and not ahead.scan:
                    ahead.scan.append(pool.submit(_scan, root + ahead.name))


def _scan(path: str) -> list[str] | OSError:
    """Names in a folder, folders with a final `/`, in the order of whole paths."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name + "/" if _is_dir(entry) else entry.name for entry in entries)
    except OSError as error:
        return error


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: one file that cannot be read
        return False


def _files(root: str, folder: str, names: list[str]) -> Iterator[Found]:
    for name in names:
        path = folder + name
        try:
            status = os.stat(root + path)
        except OSError:
            yield Found(path, None)  # such as a link that leads nowhere: reading it tells
            continue
        if stat.S_ISREG(status.st_mode):
            yield Found(path, status.st_size, storage.stamp_of_status(status))
        else:
            yield Found(path, None, passed_over="socket, pipe or device")


def _walk_store(base: str, literal: str) -> Iterator[list[Found]]:
    scheme, _, rest = base.partition("://")
    bucket, _, base_key = rest.partition("/")
    top = f"{scheme}://{bucket}/"

    def found(keys: list[tuple[str, int, str]]) -> list[Found]:
        files = []
        for key, size, stamp in keys:
            name = key[len(base_key) :]
            if not name or name.endswith("/"):  # consoles make these to show empty folders
                continue
            kind = set_aside_as(name)
            if size == 0 and name.endswith("_$folder$"):
                kind = _FOLDER_MARKERS  # Hadoop makes these
            files.append(Found(name, size, stamp, passed_over=kind))
        return files

    def pages(prefix: str) -> Iterator[list[Found]]:
        yield from _markers_told(found(keys) for keys, _ in storage.remote_pages(top + prefix))

    # A listing is a chain of pages that each name the next one. Several chains run at once where
    # the first page shows up to a thousand folders; more (one an image?) would cost a request each.
    prefix = base_key + literal
    while True:
        keys, prefixes = next(storage.remote_pages(top + prefix, delimiter="/"))
        if keys or len(prefixes) != 1:
            break
        prefix = prefixes[0]
    if not prefixes or len(keys) + len(prefixes) >= storage.PAGE_KEYS:
        whole: list[Any] = [partial(pages, prefix)]
        yield from in_order(iter(whole))
        return
    works: list[tuple[str, Any]] = [(p, partial(pages, p)) for p in prefixes]
    folders = set(prefixes)
    works += [
        (key, [_as_marker(each) if not size and key + "/" in folders else each for each in files])
        for key, size, stamp in keys
        for files in [found([(key, size, stamp)])]
    ]
    works.sort(key=lambda work: work[0])
    yield from in_order(work for _, work in works)


def _markers_told(pages: Iterable[list[Found]]) -> Iterator[list[Found]]:
    """Pages of a listing, with marks on the empty keys that stand for folders.

    An empty key `a` stands for a folder if keys `a/...` follow. Other keys may come between, so an empty
    key waits until the sorted listing has passed the place.
    """
    waiting: deque[Found] = deque()
    for page in pages:
        told: list[Found] = []
        for each in page:
            for empty in [empty for empty in waiting if each.name > empty.name + "/"]:
                waiting.remove(empty)
                told.append(_as_marker(empty) if each.name.startswith(empty.name + "/") else empty)
            if each.size == 0 and each.passed_over is None:
                waiting.append(each)
            else:
                told.append(each)
        yield told
    if waiting:
        yield list(waiting)


def _as_marker(found: Found) -> Found:
    return found._replace(passed_over=_FOLDER_MARKERS)


def glob_regex(pattern: str) -> str:
    """The matches of a glob, and everything in matching folders."""
    regex = ""
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            regex += "(?:[^/]+/)*"
            at += 3
        elif pattern.startswith("**", at):
            regex += ".*"
            at += 2
        elif pattern[at] == "*":
            regex += "[^/]*"
            at += 1
        elif pattern[at] == "?":
            regex += "[^/]"
            at += 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end]
            negated = inside[0] in "!^"
            inside = (inside[1:] if negated else inside).replace("\\", r"\\").replace("[", r"\[")
            regex += f"(?!/)[{'^' * negated}{inside}]"
            at = end + 1
        else:
            regex += re.escape(pattern[at])
            at += 1
    return f"(?s:{regex}(?:/.*)?)"


def may_hold(parts: list[str], folder: str) -> bool:
    """Whether a folder can hold what a glob (without `**`) matches."""
    names = folder.rstrip("/").split("/")
    return all(re.fullmatch(glob_regex(p), n) for p, n in zip(parts, names, strict=False))


def in_order(works: Iterator[T | Callable[[], Iterator[T]]]) -> Generator[T, None, None]:
    """The items of the works, one work after the other, while the next ones run in threads.

    Each thread keeps at most two items that nobody has asked for yet.
    """
    # What is to be given next, first: items, and works that run.
    waiting: deque[T | _Running[T]] = deque()
    running = 0

    def first() -> Iterator[T]:
        nonlocal running
        item = waiting.popleft()
        if not isinstance(item, _Running):
            yield item
            return
        with item.end:
            yield from item.items
        running -= 1

    try:
        for work in works:
            if callable(work):
                waiting.append(_start(work))
                running += 1
            else:
                waiting.append(work)
            while waiting and (
                running >= THREADS
                or len(waiting) >= 4 * THREADS
                or not isinstance(waiting[0], _Running)
            ):
                yield from first()
        while waiting:
            yield from first()
    finally:
        for item in waiting:
            if isinstance(item, _Running):
                item.end.close()


class _Running(NamedTuple, Generic[T]):
    """A work in its thread."""

    items: Iterator[T]
    end: ExitStack  # of the thread


def _start(work: Callable[[], Iterator[T]]) -> _Running[T]:
    end = ExitStack()
    # The thread calls it, too: a work's first step may take long.
    items = (item for begun in (work,) for item in begun())
    ahead = end.enter_context(read_ahead(items, 2, name="catdog-list"))
    return _Running(cast("Iterator[T]", ahead), end)  # none of them is `NothingYet`
