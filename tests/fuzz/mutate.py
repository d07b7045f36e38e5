"""Damage to files, by the numbers of a seeded generator."""

import random
from typing import Literal

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

listed = str.split


def mutate(content: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """One to five changes; `other` is a file of which pieces may come in."""
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        content = rng.choice(CHANGES)(content, rng, other)
    return content


def flip(content: bytes, rng: random.Random, other: bytes) -> bytes:
    changed = bytearray(content or b"\0")
    place = rng.randrange(len(changed))
    changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def number(content: bytes, rng: random.Random, other: bytes) -> bytes:
    """A number of 1 to 4 bytes becomes an extreme one, or one that is near."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    size, order = rng.choice((1, 2, 4)), rng.choice(orders)
    place = rng.randrange(max(1, min(len(content) - size, rng.choice((64, len(content))))))
    before = int.from_bytes(content[place : place + size], order)
    value = rng.choice((*EXTREMES, before + 1, before - 1, before * 2, before // 2)) % 256**size
    return content[:place] + value.to_bytes(size, order) + content[place + size :]


def cut(content: bytes, rng: random.Random, other: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def remove(content: bytes, rng: random.Random, other: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[place + rng.choice((1, 2, 4, 16, 100)) :]


def repeat(content: bytes, rng: random.Random, other: bytes) -> bytes:
    place, size = rng.randrange(len(content) + 1), rng.choice((1, 2, 4, 16, 100))
    return content[:place] + content[place : place + size] * rng.choice((2, 3, 50)) + content[place + size :]


def insert(content: bytes, rng: random.Random, other: bytes) -> bytes:
    place, start = rng.randrange(len(content) + 1), rng.randrange(len(other) + 1)
    return content[:place] + other[start : start + rng.choice((1, 4, 16, 100))] + content[place:]


def zeros(content: bytes, rng: random.Random, other: bytes) -> bytes:
    place, size = rng.randrange(len(content) + 1), rng.choice((4, 16, 100, 4096))
    return content[:place] + bytes(min(size, len(content) - place)) + content[place + size :]


CHANGES = (flip, flip, flip, number, number, number, number, cut, remove, repeat, insert, zeros)
