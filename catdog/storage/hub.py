"""Data sets of a hub: `hf://datasets/OWNER/NAME[@REVISION]/path`, by the hub's own protocol.

`HF_ENDPOINT` names the hub, `HF_TOKEN` is sent to it and to nobody whom it redirects to. Files are read
like those of any web server (`web`).
"""

from __future__ import annotations

import errno
import json
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from catdog.storage import web
from catdog.storage.failures import endless, said

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE_BYTES = 64 << 20
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


def hub_range(uri: str, offset: int, length: int, stamp: str | None = None) -> tuple[bytes, int]:
    """A byte range of a file, and the size of the whole file. Errors as `files.read_range`."""
    return web.web_range(_file_url(uri), offset, length, stamp, _headers())


def size_and_stamp(uri: str) -> tuple[int, str]:
    """The size of a file and its stamp. Errors as `files.read_range`."""
    return web.size_and_stamp(_file_url(uri), _headers())


def hub_pages(
    uri_prefix: str, *, delimiter: str = "", max_keys: int | None = None
) -> Iterator[tuple[list[tuple[str, int, str]], list[str]]]:
    """Pages of a listing, as `remote.remote_pages`; keys are the URI behind `hf://datasets/`."""
    repository, revision, path = _parts(uri_prefix)
    folder = path.rpartition("/")[0]
    top = uri_prefix.removeprefix("hf://datasets/").removesuffix(path)
    url = f"{_endpoint()}/api/datasets/{repository}/tree/{quote(revision, safe='')}"
    url += f"/{quote(folder)}" if folder else ""
    url += "?recursive=" + ("false" if delimiter else "true")
    url += f"&limit={max_keys}" if max_keys else ""
    pages = _pages(url, top, path, with_folders=bool(delimiter))
    if not delimiter or max_keys:
        yield from pages
        return
    keys: list[tuple[str, int, str]] = []  # who lists one folder wants to see all of it
    prefixes: list[str] = []
    for some_keys, some_prefixes in pages:
        keys += some_keys
        prefixes += some_prefixes
    yield keys, prefixes


def _pages(
    url: str, top: str, path: str, *, with_folders: bool
) -> Iterator[tuple[list[tuple[str, int, str]], list[str]]]:
    seen: set[str] = set()
    while url:
        if url in seen:
            raise endless()
        seen.add(url)
        try:
            answer = web.get(url, 0, _PAGE_BYTES, _headers())
        except FileNotFoundError:
            if not path:  # the data set itself
                raise
            yield [], []
            return
        entries = _entries(answer.data)
        files = [each for each in entries if each["path"].startswith(path)]
        yield (
            [
                (top + each["path"], each["size"], f"{each['size']:x}-")
                for each in files
                if each["type"] == "file"
            ],
            [
                f"{top}{each['path']}/"
                for each in files
                if with_folders and each["type"] == "directory"
            ],
        )
        found = _NEXT.search(answer.headers.get("Link", ""))
        url = found[1] if found and found[1].startswith(_endpoint() + "/") else ""


def _entries(data: bytes) -> list[dict[str, Any]]:
    try:
        return [
            {"path": str(each["path"]), "type": str(each["type"]), "size": int(each["size"])}
            for each in json.loads(data)
        ]
    except (ValueError, KeyError, TypeError):
        raise OSError(errno.EIO, said("The hub's listing cannot be read.")) from None


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _headers() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _parts(uri: str) -> tuple[str, str, str]:
    """Repository, revision and path of `hf://datasets/OWNER/NAME[@REVISION]/path`."""
    owner, _, rest = uri.removeprefix("hf://datasets/").partition("/")
    name, _, path = rest.partition("/")
    name, _, revision = name.partition("@")
    return f"{owner}/{name}", unquote(revision) or "main", path


def _file_url(uri: str) -> str:
    repository, revision, path = _parts(uri)
    return f"{_endpoint()}/datasets/{repository}/resolve/{quote(revision, safe='')}/{quote(path)}"
