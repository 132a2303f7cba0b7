"""What names tell: what is no image, what is an archive or a table; an image's label and its name."""

from __future__ import annotations

import os
import posixpath
import re

from catdog import storage

_TEXT = "txt md rst json jsonl ndjson csv tsv xml yaml yml toml ini cfg log lst cls url"
_DATA = "parquet arrow feather npy npz pkl pickle h5 hdf5 mat db sqlite tfrecord idx bib gz"
_DATA += " bz2 xz zst lz4 lzma"
_CODE = "py pyc ipynb sh js css html htm c h cpp java go rs sql"
_MODELS = "pt pth ckpt keras onnx safetensors tflite"
_DOCUMENTS = "pdf doc docx xls xlsx ppt pptx odt ods rtf"
_SOUND_AND_VIDEO = "mp3 wav flac ogg m4a mp4 mov avi mkv webm m4v mpg mpeg"
_SOUND_AND_VIDEO += " aac aif aifc aiff amr ape caf mid midi oga opus wma wv"
_SOUND_AND_VIDEO += " 3gp asf flv insv m2ts mts mxf ogv vob wmv"
_CHECKSUMS = "md5 sha1 sha256 sha512 asc sig crc"
_OTHERS = "icc icm kml kmz lnk lrcat nfo srt sub torrent vtt webloc"
SKIPPED_EXTENSIONS = frozenset(
    f"{_TEXT} {_DATA} {_CODE} {_MODELS} {_DOCUMENTS} {_SOUND_AND_VIDEO} {_CHECKSUMS} {_OTHERS}".split()
)
"""Extensions of files that are skipped while walking: plainly not images."""

SIDECARS = frozenset(
    "xmp aae thm pp3 dop cos cot nksc lrv mrk on1 vrd photo_edit acr arp comask ctg gpx".split()
)
"""Extensions of what cameras and editors write beside each photo."""

SYSTEM_FILES = frozenset(
    {"_success", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"}
    | {"picasa.ini", "zbthumbnail.info", "folder.jpg.db", "pspbrwse.jbf"}
)
"""What systems and photo managers write into each folder, in lower case."""
# What Windows and a Synology keep of a file beside it, where the disk cannot.
_STREAMS = (":zone.identifier", "@synoeastream", "@synoresource")

_TEXTS = frozenset(
    "authors changelog checksums citation copying dockerfile licence license makefile md5sums notice "
    "readme sha1sums sha256sums sha512sums".split()
)
"""Text files without an extension, in lower case."""

# Folders of thumbnails, deleted files and snapshots: of Synology, QNAP, NetApp, Windows, Linux, macOS
# and its archives, Hadoop, Android, Sony's cameras, Lightroom, Capture One, and what the libraries of Apple's
# photo programs hold beside the originals. A photo in one is a second copy, or was thrown away.
_SYSTEM_FOLDERS = (
    r"@eaDir|#recycle|#snapshot|@tmp|@Recycle|@Recently-Snapshot|@__thumb|\$RECYCLE\.BIN|RECYCLER"
    r"|System Volume Information|lost\+found|FOUND\.[0-9]{3}|__MACOSX|[^/]+\.lrdata"
    r"|~snapshot|_temporary|Network Trash Folder|Temporary Items|RECYCLED|LOST\.DIR|THMBNL|AVF_INFO"
    r"|CaptureOne/(?:Cache|Settings[0-9]*)"
    r"|[^/]+\.(?:photoslibrary|photolibrary|aplibrary)/(?!(?:originals|masters)/)[^/]+"
)
_SET_ASIDE = re.compile(
    rf"(?:^|/)(?:(?P<hidden>\.(?!\.?(?:/|$)))|(?:{_SYSTEM_FOLDERS})(?=/))", re.IGNORECASE
)
ARCHIVES = {".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".zip": "zip"}
_COMPRESSED = (".bz2", ".xz", ".zst", ".lz4", ".lzma", ".z")
OTHER_ARCHIVES = (
    *(".tbz", ".tbz2", ".txz", ".tzst", ".taz", ".tlz", ".7z", ".rar"),
    *(f".tar{end}" for end in _COMPRESSED),
)
ALL_ARCHIVES = (*ARCHIVES, *OTHER_ARCHIVES)
LISTS = (".txt", ".txt.gz")
TEXT_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
JSON_TABLES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
TABLES = (*LISTS, *TEXT_TABLES, *JSON_TABLES, ".parquet")
"""Ends of the names of lists and tables."""
OTHER_TABLES = (
    *(name + end for name in TABLES for end in _COMPRESSED if not name.endswith(".gz")),
    ".parquet.gz",
)
"""Ends of the names of those that are compressed otherwise than as they are read."""

WINDOWS_HINT = (
    r"It looks like a path of Windows: write / in place of \, and drives as they are mounted"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/].*|\\\\.+")
_WINDOWS_RELATIVE = re.compile(r"[^/]*\\[^/]*")


def set_aside_as(path: str) -> str | None:
    """Why nothing of a path is planned, whatever its last part is; None where it may be.

    Args:
        path: of a file, or of a folder with a final `/`, relative to what is walked.
    """
    found = _SET_ASIDE.search(path)
    if found is None:
        return None
    if found["hidden"]:
        return "hidden"
    return "system folders" if path.endswith("/") else "files in system folders"


def skipped_as(name: str) -> str | None:
    """What a file plainly is, by its name, where that is no image; else None."""
    base = name.rpartition("/")[2].lower()
    if base.endswith(ALL_ARCHIVES):
        return None  # an archive in an archive is told of
    _, dot, extension = base.rpartition(".")
    if base in SYSTEM_FILES or base.endswith(_STREAMS):
        return "system files"
    if base in _TEXTS:
        return "texts"
    if dot and extension in SIDECARS:
        return "sidecars"
    return f".{extension}" if dot and extension in SKIPPED_EXTENSIONS else None


def collection_as(uri: str) -> str | None:
    """What a file plainly is, by its name, where `list_images` takes it for many images; else None."""
    lower = uri.lower()
    kinds = {
        "an archive": ALL_ARCHIVES,
        "a list": LISTS,
        "a table": (*TABLES, *OTHER_TABLES),
    }
    return next((kind for kind, ends in kinds.items() if lower.endswith(ends)), None)


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
    scheme, _, rest = folder.partition("://")
    bucket, _, key = rest.partition("/")
    if "./" in text:
        text = posixpath.normpath(posixpath.join("/" + key, text))[1:] + "/" * text.endswith("/")
        return storage.to_uri(f"{scheme}://{bucket}/{text}")
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
