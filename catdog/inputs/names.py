"""What names tell: what is no image, what is an archive or a table; an image's label and its name."""

from __future__ import annotations

import os
import posixpath
import re

from catdog import storage

_TEXT = "txt md rst json jsonl ndjson csv tsv xml yaml yml toml ini cfg log lst cls url"
_DATA = "parquet arrow feather npy npz pkl pickle h5 hdf5 mat db sqlite tfrecord idx bib gz"
_CODE = "py pyc ipynb sh js css html htm c h cpp java go rs sql"
_MODELS = "pt pth ckpt keras onnx safetensors tflite"
_DOCUMENTS = "pdf doc docx xls xlsx ppt pptx odt ods rtf"
_SOUND_AND_VIDEO = "mp3 wav flac ogg m4a mp4 mov avi mkv webm m4v mpg mpeg"
_CHECKSUMS = "md5 sha1 sha256 sha512 asc sig crc"
SKIPPED_EXTENSIONS = frozenset(
    f"{_TEXT} {_DATA} {_CODE} {_MODELS} {_DOCUMENTS} {_SOUND_AND_VIDEO} {_CHECKSUMS}".split()
)
"""Extensions of files that are skipped while walking: plainly not images."""

SKIPPED_FILES = frozenset({"_SUCCESS", "Thumbs.db", "desktop.ini"})
ARCHIVES = {".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".zip": "zip"}
OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
ALL_ARCHIVES = (*ARCHIVES, *OTHER_ARCHIVES)
LISTS = (".txt", ".txt.gz")
TEXT_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
JSON_TABLES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
TABLES = (*LISTS, *TEXT_TABLES, *JSON_TABLES, ".parquet")
"""Ends of the names of lists and tables."""

WINDOWS_HINT = (
    r"It looks like a path of Windows: write / in place of \, and drives as they are mounted"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/].*|\\\\.+")
_WINDOWS_RELATIVE = re.compile(r"[^/]*\\[^/]*")


def is_hidden(name: str) -> bool:
    """Whether a path has a part that starts with `.`, or is what macOS puts into archives."""
    if "/." not in "/" + name and "__MACOSX" not in name:
        return False
    parts = name.split("/")
    return any(p == "__MACOSX" or (p[:1] == "." and p not in {".", ".."}) for p in parts)


def skipped_as(name: str) -> str | None:
    """What a file plainly is, by its name, where that is no image; else None."""
    if not is_plainly_other(name):
        return None
    _, dot, extension = name.rpartition("/")[2].rpartition(".")
    return dot + extension.lower()


def is_plainly_other(name: str) -> bool:
    """Whether a file's name tells that it is no image."""
    base = name.rpartition("/")[2]
    if base.lower().endswith(ALL_ARCHIVES):
        return False  # an archive in an archive is told of
    _, dot, extension = base.rpartition(".")
    return base in SKIPPED_FILES or (bool(dot) and extension.lower() in SKIPPED_EXTENSIONS)


def archive_codec(uri: str) -> str | None:
    """What an archive is read as, by its name: `tar`, `tar.gz` or `zip`."""
    lower = uri.lower()
    return next((kind for end, kind in ARCHIVES.items() if lower.endswith(end)), None)


def label_of(name: str) -> str | None:
    """The first folder of a name, or None."""
    folder, separator, _ = name.partition("/")
    return folder if separator and folder != ".." else None


def located(text: str, folder: str) -> str:
    """The URI of an entry of a list. Raises ValueError."""
    if _SCHEME.match(text) or text.startswith("/") or not folder or storage.lacks_slash(text):
        return storage.to_uri(text)
    if storage.is_local(folder):
        return storage.to_uri(storage.local_path(folder) + text)
    bucket, _, key = folder.removeprefix("s3://").partition("/")
    if "./" in text:
        text = posixpath.normpath(posixpath.join("/" + key, text))[1:] + "/" * text.endswith("/")
        return storage.to_uri(f"s3://{bucket}/{text}")
    return storage.to_uri(folder + text)


def relative(uri: str, folder: str) -> tuple[str, str | None]:
    """Name and label of an entry: below the list's folder its path there, elsewhere its path."""
    if folder and uri.startswith(folder):
        name = uri[len(folder) :]
        return name, label_of(name)
    return uri.partition("://")[2].lstrip("/"), None


def is_windows_path(text: str, folder: str) -> bool:
    r"""Whether a text has the form of a Windows path, and no file here has that name.

    Args:
        text: as `C:\cats\1.jpg` or `cats\1.jpg`.
        folder: the URI that relative paths start from, or "".
    """
    if "\\" not in text and text[1:2] != ":":
        return False
    if folder and not storage.is_local(folder):  # keys on S3 may have backslashes
        return bool(_WINDOWS.fullmatch(text))
    if not (_WINDOWS.fullmatch(text) or _WINDOWS_RELATIVE.fullmatch(text)):
        return False
    return not os.path.lexists((storage.local_path(folder) if folder else "") + text)
