"""The formats that are decoded, the names of other files, and the meaning of Pillow's errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pi_heif
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    DdsImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PcxImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    PsdImagePlugin,
    QoiImagePlugin,
    SgiImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from catdog.errors import ErrorCode, ImageRejected
from catdog.pixels import tiff

if TYPE_CHECKING:
    from catdog.pixels.preprocessing import DecodeLimits

# Raster formats that Pillow decodes by itself, most frequent first, TGA last for want of a
# signature. Left out: those that run programs or are stubs (EPS, WMF, HDF5, GRIB, BUFR, FITS,
# MPEG), and old, rare ones, because archives come from strangers and every decoder is a way in.
# Imported here, lest Pillow import all of its plugins when it meets the first WebP.
pi_heif.register_heif_opener(
    decode_threads=1,  # the cores are shared out one level above
    thumbnails=False,
    depth_images=False,
    aux_images=False,
)
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
        AvifImagePlugin.AvifImageFile,
        pi_heif.HeifImageFile,
        Jpeg2KImagePlugin.Jpeg2KImageFile,
        PpmImagePlugin.PpmImageFile,
        IcoImagePlugin.IcoImageFile,
        BmpImagePlugin.DibImageFile,
        PsdImagePlugin.PsdImageFile,
        DdsImagePlugin.DdsImageFile,
        QoiImagePlugin.QoiImageFile,
        SgiImagePlugin.SgiImageFile,
        PcxImagePlugin.PcxImageFile,
        TgaImagePlugin.TgaImageFile,
    )
)
# What a file starts with (bytes, at offset) -> what it is. Only asked when Pillow's permitted
# formats do not know the file.
_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"IIRO", "camera raw"),
    (0, b"IIRS", "camera raw"),
    (0, b"IIU\0", "camera raw"),
    (0, b"FOVb", "camera raw"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"\0\0\0\x0cjP  ", "JPEG2000"),
    (0, b"8BPS", "PSD"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (4, b"ftyphei", "HEIF"),
    (4, b"ftyphev", "HEIF"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"icns", "ICNS"),
    (0, b"BLP1", "BLP"),
    (0, b"BLP2", "BLP"),
    (0, b"gimp xcf", "XCF"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"FUJIFILMCCD-RAW", "camera raw"),
    (4, b"ftypcrx", "camera raw"),
    (0, b"\x1a\x45\xdf\xa3", "video"),
    (4, b"ftyp", "video"),
)
# Other files that people have among images, by their first bytes.
_OTHERS = (
    (0, b"PK\3\4", "a ZIP archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file"),
)

_CONVERT = "convert them to JPEG or PNG"
_TEXT = re.compile(rb"[\t\n\v\f\r\x20-\x7e\x80-\xff]*")
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")

# What Pillow, or a codec under it, says in its messages; anything else is damage.
_LARGE = re.compile(r"out of memory|insufficient memory|too large|exceeds limit", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"(not|un) ?(supported|implemented|available)|unable to handle|cannot find loader"
    r"|(unknown|bad|invalid) (image|pixel|data|bmp|mode|compression|raw)",
    re.IGNORECASE,
)


def rejected(error: Exception, format_: str, limits: DecodeLimits) -> ImageRejected:
    """The rejection that an exception of Pillow means; the only place that interprets them."""
    if isinstance(error, Image.DecompressionBombError):
        return too_large(limits, int((re.search(r"\d+", str(error)) or [limits.max_pixels + 1])[0]))
    if isinstance(error, MemoryError):
        return ImageRejected(
            ErrorCode.TOO_LARGE,
            f"Decoding this {format_} takes more memory than the limit permits.",
        )
    return _meaning(str(error), format_, unsupported=isinstance(error, NotImplementedError))


def _meaning(message: str, format_: str, *, unsupported: bool = False) -> ImageRejected:
    reason = _clean(message)
    if _LARGE.search(message):
        return ImageRejected(ErrorCode.TOO_LARGE, f"This {format_} is too large: {reason}.")
    if unsupported or _UNSUPPORTED.search(message):
        return ImageRejected(
            ErrorCode.UNSUPPORTED, f"This kind of {format_} cannot be decoded: {reason}."
        )
    return cut(format_, reason)


def cut(format_: str, reason: str) -> ImageRejected:
    """An image that lacks pixels."""
    return ImageRejected(ErrorCode.TRUNCATED, f"The {format_} is damaged or cut off: {reason}.")


def refuse_unreadable_items(data: bytes) -> None:
    """Refuses a HEIF whose lists of items hold no text where text belongs: pi_heif 1.4 crashes.

    Raises:
        ImageRejected: it is one.
    """
    if data[4:8] != b"ftyp":
        return
    at = -1
    while (at := data.find(b"infe", at + 1)) >= 4:
        end = at - 4 + int.from_bytes(data[at - 4 : at], "big")
        version = data[at + 4 : at + 5]
        start = at + (14 if version == b"\3" else 12)  # behind the item's number and protection
        try:
            data[start:end].decode()
        except UnicodeDecodeError:
            raise cut("HEIF", "its list of items cannot be read") from None


def unidentified(data: bytes, reasons: list[str]) -> ImageRejected:
    """Why no permitted format opened the file."""
    known = signature(data)
    if data.startswith(b"MM\0+"):
        return ImageRejected(
            ErrorCode.UNSUPPORTED, f"Big-endian BigTIFF is not supported: {_CONVERT}."
        )
    if known == "TIFF":
        tiff.refuse_raw_bytes(data)
    if known in FORMATS:
        prefix = f"{known} opening failed. "
        said = next((r.removeprefix(prefix) for r in reasons if r.startswith(prefix)), "")
        if said in ("", "not identified by this driver"):  # Pillow's words for any short header
            said = "its header cannot be read"
        if known == "TIFF" and said.isdigit():  # the number of its compression, and no more
            return _meaning(f"compression {said}", known, unsupported=True)
        return _meaning(said, str(known))
    if known == "camera raw":
        return tiff.camera_raw()
    if known:
        what_to_do = "export frames as JPEG" if known == "video" else _CONVERT
        return ImageRejected(
            ErrorCode.UNSUPPORTED, f"{known} files are not supported: {what_to_do}."
        )
    start = data[:1024]
    if _MARKUP.match(start):
        if b"<svg" in start.lower():
            return ImageRejected(
                ErrorCode.UNSUPPORTED, f"SVG drawings are not supported: {_CONVERT}."
            )
        kind = "an HTML page" if b"<html" in start.lower() else "markup"
        return ImageRejected(ErrorCode.NOT_AN_IMAGE, f"The file is {kind}, not an image.")
    kind = next((name for at, magic, name in _OTHERS if data.startswith(magic, at)), "")
    if kind or _TEXT.fullmatch(start):
        return ImageRejected(ErrorCode.NOT_AN_IMAGE, f"The file is {kind or 'text'}, not an image.")
    return ImageRejected(
        ErrorCode.NOT_AN_IMAGE, f"No known image format starts with bytes {data[:8].hex(' ')}."
    )


def signature(data: bytes) -> str | None:
    """What a file's first bytes say that it is."""
    return next((name for at, magic, name in _SIGNATURES if data.startswith(magic, at)), None)


def too_large(limits: DecodeLimits, pixels: int) -> ImageRejected:
    """An image of more pixels than are permitted."""
    return ImageRejected(
        ErrorCode.TOO_LARGE, f"{pixels:,} pixels are more than the limit of {limits.max_pixels:,}."
    )


def _clean(message: str) -> str:
    """A library's message as part of a sentence: one line, short, without addresses."""
    message = re.sub(r"<[^>]*>|\b0x[0-9a-fA-F]+", "...", message)
    message = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return message[:120].rstrip(". ") or "no reason given"
