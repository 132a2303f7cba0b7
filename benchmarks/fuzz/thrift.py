"""Numbers in Thrift's compact protocol, in which Parquet writes its footer and page headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.fuzz import mutation

if TYPE_CHECKING:
    import random

_WIDTHS = {1: 0, 2: 0, 3: 1, 7: 8}  # types of a fixed width: booleans, a byte, a double
_NUMBERS = (4, 5, 6)
_BINARY, _LIST, _SET, _MAP, _STRUCT = 8, 9, 10, 11, 12


class Span(NamedTuple):
    """Where a number stands."""

    start: int
    end: int
    signed: bool
    """Whether it is a field's value (zigzag), and no length."""


def numbers(data: bytes, at: int) -> list[Span]:
    """The numbers of the structure that begins here, lengths among them, as they lie."""
    found: list[Span] = []
    _struct(data, at, found)
    return found


def mutated(data: bytes, at: int, chance: random.Random) -> bytes:
    """The data with one number, or the header of one field, of this structure changed."""
    span = chance.choice(numbers(data, at))
    if chance.random() < 0.1:
        return data[: span.start - 1] + chance.randbytes(1) + data[span.start :]
    value = mutation.number(chance) if chance.random() < 0.7 else chance.randrange(16)
    if span.signed and chance.random() < 0.7:
        value *= 2  # zigzag of a positive one
    return data[: span.start] + _varint(value % 2**64) + data[span.end :]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read(data: bytes, at: int, found: list[Span], *, signed: bool) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    start = at
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            found.append(Span(start, at, signed))
            return value, at


def _struct(data: bytes, at: int, found: list[Span]) -> int:
    while data[at]:
        header, at = data[at], at + 1
        if not header >> 4:
            _, at = _read(data, at, found, signed=True)
        at = _value(data, at, header & 15, found, in_list=False)
    return at + 1


def _value(data: bytes, at: int, kind: int, found: list[Span], *, in_list: bool) -> int:
    if kind in _WIDTHS:
        return at + (_WIDTHS[kind] or in_list)
    if kind in _NUMBERS:
        return _read(data, at, found, signed=True)[1]
    if kind == _BINARY:
        length, at = _read(data, at, found, signed=False)
        return at + length
    if kind in (_LIST, _SET):
        size, element = data[at] >> 4, data[at] & 15
        at += 1
        if size == 15:
            size, at = _read(data, at, found, signed=False)
        for _ in range(size):
            at = _value(data, at, element, found, in_list=True)
        return at
    if kind == _STRUCT:
        return _struct(data, at, found)
    raise ValueError(f"type {kind} is none that Parquet has")
