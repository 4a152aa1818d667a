"""Randomness from one seed, split by name.

Every use has a stream of its own, so that one more draw in one place doesn't shift the draws of all others: a
seed found yesterday still means nearly the same story after a small change of the simulator.
"""

from __future__ import annotations

import random
from hashlib import blake2b


class Streams:
    """Named, independent streams of random numbers under one seed.

    Names are hashed with BLAKE2b and never with `hash()`, which differs from process to process.

    Args:
        seed: any non-negative integer.
    """

    __slots__ = ("_path",)

    def __init__(self, seed: int) -> None:
        self._path = str(seed)

    def split(self, name: object) -> Streams:
        """The streams of a part (a node, say), independent of all others."""
        part = Streams.__new__(Streams)
        part._path = f"{self._path}/{name}"
        return part

    def stream(self, name: object) -> random.Random:
        """A new generator at the beginning of the stream of this name; equal names give equal numbers."""
        digest = blake2b(f"{self._path}:{name}".encode(), digest_size=16).digest()
        return random.Random(int.from_bytes(digest, "little"))
