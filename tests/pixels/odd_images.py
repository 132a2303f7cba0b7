"""Some forty small odd files of our own making, and what becomes of each.

All show the same picture (`truth`), so that one comparison judges them; the others are rejected.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

HEIGHT, WIDTH = 33, 52


def truth() -> np.ndarray:
    """The picture: uint8 (33, 52, 3), smooth, no two corners alike."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 5, y * 7, (x + y) * 3], -1).astype(np.uint8)


def grey() -> np.ndarray:
    """Its first channel: uint8 (33, 52), from 0 to 255."""
    return truth()[:, :, 0].copy()


def encoded(format_: str, mode: str = "RGB", **options: object) -> bytes:
    """The picture as Pillow writes it."""
    stream = io.BytesIO()
    Image.fromarray(truth()).convert(mode).save(stream, format_, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes, *, wrong: int = 0) -> bytes:
    """A chunk of a PNG; `wrong` spoils its checksum."""
    return (
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)
    )


def tiff(
    rows: bytes,
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    sample_format: int = 1,
    more: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """An uncompressed TIFF of one channel, with further tags of one 16-bit number."""
    fields = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: photometric, 277: 1, 278: HEIGHT}
    fields |= {279: len(rows), 339: sample_format} | dict(more)
    start = 8 + 2 + 12 * (len(fields) + 1) + 4
    fields[273] = start
    directory = struct.pack(order + "H", len(fields))
    for tag in sorted(fields):
        directory += struct.pack(order + "HHII", tag, 4, 1, fields[tag])
    magic = b"II" if order == "<" else b"MM"
    return magic + struct.pack(order + "HI", 42, 8) + directory + bytes(4) + rows


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of numbers of so many bits, each row filled up to a byte."""
    digits = (values[..., np.newaxis] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def bmp(alpha: int) -> bytes:
    """A BMP of 32 bits a pixel that says that it has alpha."""
    pixels = np.dstack([truth()[..., ::-1], np.full((HEIGHT, WIDTH), alpha, np.uint8)])[::-1]
    header = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, pixels.size, 1, 1, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    size = 14 + len(header) + pixels.size
    return b"BM" + struct.pack("<IHHI", size, 0, 0, 122) + header + pixels.tobytes()


def tga(alpha: int, alpha_bits: int) -> bytes:
    """A TGA of 32 bits a pixel whose header claims so many bits of alpha."""
    pixels = np.dstack([truth()[..., ::-1], np.full((HEIGHT, WIDTH), alpha, np.uint8)])
    header = struct.pack(
        "<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, WIDTH, HEIGHT, 32, 0x20 | alpha_bits
    )
    return header + pixels.tobytes()


def psd(alpha: int) -> bytes:
    """A flat PSD with a fourth channel."""
    planes = [*truth().transpose(2, 0, 1), np.full((HEIGHT, WIDTH), alpha, np.uint8)]
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 4, HEIGHT, WIDTH, 8, 3)
    return header + bytes(12) + bytes(2) + b"".join(plane.tobytes() for plane in planes)


def ico(alpha: int) -> bytes:
    """An icon that holds a BMP of 32 bits a pixel."""
    pixels = np.dstack([truth()[..., ::-1], np.full((HEIGHT, WIDTH), alpha, np.uint8)])[::-1]
    mask = bytes(8 * HEIGHT)
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, 2 * HEIGHT, 1, 32, 0, pixels.size, 0, 0, 0, 0)
    body = header + pixels.tobytes() + mask
    entry = struct.pack("<BBBBHHII", WIDTH, HEIGHT, 0, 0, 1, 32, len(body), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + body


def planes16() -> bytes:
    """A TIFF of 16-bit RGB in separate planes."""
    planes = (truth().astype("<u2") * 257).transpose(2, 0, 1).tobytes()
    size = len(planes) // 3
    tags = [(256, WIDTH), (257, HEIGHT), (258, 0), (259, 1), (262, 2), (273, 0), (277, 3)]
    tags += [(278, HEIGHT), (279, 0), (284, 2)]
    at = 8 + 2 + 12 * len(tags) + 4
    places = {258: at, 273: at + 12, 279: at + 24}
    directory = struct.pack("<H", len(tags))
    for tag, value in tags:
        count = 3 if tag in places else 1
        directory += struct.pack("<HHII", tag, 4, count, places.get(tag, value))
    tables = struct.pack("<9I", 16, 16, 16, *(at + 36 + k * size for k in range(3)), *[size] * 3)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + tables + planes


def pictures() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Name, bytes and the picture uint8 (33, 52, 3) that they show."""
    for name, data in _colour():
        yield name, data, truth()
    shown = np.repeat(grey()[..., np.newaxis], 3, axis=-1)
    for name, data in _grey():
        yield name, data, shown


def _grey() -> Iterator[tuple[str, bytes]]:
    values = grey()
    wide = values.astype(np.uint16) * 257
    for order in "<>":
        yield f"grey8{order}.tif", tiff(values.tobytes(), 8, 1, order=order)
        yield f"grey16{order}.tif", tiff(wide.astype(f"{order}u2").tobytes(), 16, 1, order=order)
        # What has no agreed range is stretched from black to white.
        floats = (values / np.float32(51) - 3).astype(f"{order}f4")
        yield f"float{order}.tif", tiff(floats.tobytes(), 32, 1, order=order, sample_format=3)
        inverted = (-floats).astype(f"{order}f4").tobytes()
        name = f"float_white_is_zero{order}.tif"
        yield name, tiff(inverted, 32, 0, order=order, sample_format=3)
        signed = (wide.astype(np.int32) - 32768).astype(f"{order}i2").tobytes()
        yield f"signed16{order}.tif", tiff(signed, 16, 1, order=order, sample_format=2)
    yield "white_is_zero_8.tif", tiff((255 - values).tobytes(), 8, 0)
    yield "white_is_zero_16.tif", tiff((65535 - wide).astype("<u2").tobytes(), 16, 0)
    yield "grey12.tif", tiff(packed(wide >> 4, 12), 12, 1)
    for bits in (10, 12, 14):
        stored = (wide >> (16 - bits)).astype("<u2").tobytes()
        yield f"{bits}_bits_in_16.tif", tiff(stored, 16, 1, more=((281, (1 << bits) - 1),))
    yield "uint32.tif", tiff((values.astype("<u4") * 0x1010101).tobytes(), 32, 1)
    yield "signed8.tif", tiff((values ^ 0x80).tobytes(), 8, 1, sample_format=2)
    yield "grey16.png", _saved(Image.fromarray(wide), "PNG")
    yield "grey16.pgm", b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + wide.astype(">u2").tobytes()
    twelve = (wide >> 4).astype(">u2").tobytes()
    yield "grey12.pgm", b"P5 %d %d 4095\n" % (WIDTH, HEIGHT) + twelve


def _saved(image: Image.Image, format_: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_)
    return stream.getvalue()


def _colour() -> Iterator[tuple[str, bytes]]:
    png = encoded("PNG")
    body, end = png[33:-12], png[-12:]
    yield "plain.png", png
    yield "bad_text_checksum.png", png[:33] + chunk(b"tEXt", b"a\0b", wrong=1) + body + end
    yield "short_gamma.png", png[:33] + chunk(b"gAMA", b"\0\0") + body + end
    yield "bad_profile.png", png[:33] + chunk(b"iCCP", b"a\0\7xxx") + body + end
    yield "bad_exif.png", png[:33] + chunk(b"eXIf", b"MM\0*", wrong=1) + body + end
    yield "short_transparency.png", png[:33] + chunk(b"tRNS", b"\0") + body + end
    yield "bad_animation.png", png[:33] + chunk(b"acTL", b"\xff" * 8) + body + end
    yield "bad_text_at_the_end.png", png[:33] + body + chunk(b"tEXt", b"a\0b", wrong=1) + end
    yield "cut_text_at_the_end.png", png[:33] + body + chunk(b"tEXt", b"a" * 99)[:50]
    yield "no_end.png", png[:33] + body
    text = zlib.compress(b"x" * (2 << 20))
    yield "large_text.png", png[:33] + chunk(b"zTXt", b"a\0\0" + text) + body + end
    xmp = b"XML:com.adobe.xmp\0\1\0\0\0" + text
    yield "large_xmp.png", png[:33] + chunk(b"iTXt", xmp) + body + end
    profile = b"a\0\0" + zlib.compress(bytes(2 << 20))
    yield "large_profile.png", png[:33] + chunk(b"iCCP", profile) + body + end
    many = b"".join(chunk(b"zTXt", b"k%d\0\0" % i + text) for i in range(40))
    yield "much_text.png", png[:33] + many + body + end
    for alpha in (0, 255):
        yield f"alpha_{alpha}.bmp", bmp(alpha)
        yield f"alpha_{alpha}.tga", tga(alpha, 8)
        yield f"alpha_{alpha}.psd", psd(alpha)
        yield f"alpha_{alpha}.ico", ico(alpha)
    yield "no_alpha_bits.tga", tga(77, 0)


def rejected() -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes and the code that they are rejected with."""
    png, jpeg = encoded("PNG"), encoded("JPEG")
    half = len(jpeg) // 2
    yield "half.png", png[: len(png) // 2], "truncated"
    yield "half.jpg", jpeg[:half], "truncated"
    yield "a_byte_short.jpg", jpeg[:-4], "truncated"
    yield "cut_between_scans.jpg", _first_scans(encoded("JPEG", progressive=True)), "truncated"
    rows = zlib.decompress(png[41:-16])
    few = chunk(b"IDAT", zlib.compress(rows[: -3 * (1 + 3 * WIDTH)]))
    yield "three_rows_less.png", png[:33] + few + png[-12:], "truncated"
    strips = tiff(grey().tobytes(), 8, 1, more=((278, 16),))
    yield "a_third_of_the_strips.tif", strips, "truncated"
    yield "half.tif", encoded("TIFF")[:-900], "truncated"
    yield "planes16.tif", planes16(), "unsupported"
    yield "grey12_white_is_zero.tif", tiff(packed(grey() * 16, 12), 12, 0), "unsupported"
    yield "grey14.tif", tiff(packed(grey().astype(np.uint16) * 64, 14), 14, 1), "unsupported"
    raw = tiff(grey().tobytes(), 8, 1, more=((254, 1), (330, 8)))
    yield "preview_of_a_raw.tif", raw, "unsupported"
    yield "sensor.dng", tiff(grey().tobytes(), 8, 32803), "unsupported"
    dng = tiff(grey().tobytes(), 8, 1, more=((50706, 0x401),))
    yield "phone.dng", dng, "unsupported"
    yield "big_endian.btf", b"MM\0+\0\x08\0\0" + bytes(8), "unsupported"
    yield "new.jxl", b"\0\0\0\x0cJXL \r\n\x87\n", "unsupported"


def _first_scans(progressive: bytes) -> bytes:
    """A progressive JPEG up to its third scan: whole scans, no end mark."""
    at = 0
    for _ in range(3):
        at = progressive.index(b"\xff\xda", at + 2)
    return progressive[:at]
