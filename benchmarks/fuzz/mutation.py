"""What strangers do to numbers, bytes, texts and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

EDGES = (
    *(0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31),
    *(2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1),
)
_ODD = (
    *(None, True, False, -1, 0.5, 1e308, "", "x", "\0", "\ud800", "../../x", "s3://a:b/c", [], {}),
    *([None], [[]], {"": None}, "9" * 30, *EDGES),
)


def number(chance: random.Random) -> int:
    """An edge, or one beside it."""
    return chance.choice(EDGES) + chance.choice((-1, 0, 0, 0, 1))


def field(chance: random.Random, size: int, order: str = "little") -> bytes:
    """Such a number in so many bytes."""
    value = number(chance) % 256**size
    return value.to_bytes(size, "little" if order == "little" else "big")


def damage(data: bytes, chance: random.Random, other: bytes = b"", *, times: int = 0) -> bytes:
    """Some bytes changed, moved, doubled or lost; more often near the start, where headers are."""
    changed = bytearray(data)
    for _ in range(times or chance.choice((1, 1, 2, 3, 5, 8))):
        _damage(changed, chance, other or data)
    return bytes(changed)


def _damage(data: bytearray, chance: random.Random, other: bytes) -> None:
    if not data:
        data += chance.randbytes(8)
    reach = len(data) if chance.random() < 0.5 else min(len(data), 256)
    at = chance.randrange(reach)
    length = min(len(data) - at, chance.choice((1, 2, 4, 16, 64, 1024)))
    match chance.randrange(10):
        case 0 | 1:
            data[at] ^= 1 << chance.randrange(8)
        case 2:
            data[at : at + length] = chance.randbytes(length)
        case 3 | 4:
            size = chance.choice((1, 2, 4, 8))
            data[at : at + size] = field(chance, size, chance.choice(("little", "big")))
        case 5:
            del data[at : at + length]
        case 6:
            data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))
        case 7:
            data[at:at] = chance.randbytes(length)
        case 8:
            del data[at:]
        case 9:
            data[at:] = other[chance.randrange(max(1, len(other))) :]


def splice(text: bytes, chance: random.Random, pieces: tuple[bytes, ...]) -> bytes:
    """The text with some of the pieces in it, or in place of what was there."""
    for _ in range(chance.choice((1, 2, 3))):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(pieces) + text[at + chance.choice((0, 0, 1, 5)) :]
    return text


def odd_json(value: Any, chance: random.Random) -> Any:
    """The value with one of what it holds, at any depth, gone, renamed or of another kind."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(sorted(value))
        match chance.randrange(8):
            case 0:
                return {key: each for key, each in value.items() if key != name}
            case 1:
                return {**value, "of another version": chance.choice(_ODD)}
            case 2:
                return {**value, name: chance.choice(_ODD)}
        return {**value, name: odd_json(value[name], chance)}
    if isinstance(value, list | tuple) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        match chance.randrange(6):
            case 0:
                return [*value[:at], *value[at + 1 :]]
            case 1:
                return [*value, *value]
            case 2:
                return [*value[:at], chance.choice(_ODD), *value[at + 1 :]]
        return [*value[:at], odd_json(value[at], chance), *value[at + 1 :]]
    return chance.choice(_ODD)
