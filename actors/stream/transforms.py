"""Subject transforms: a pattern, and what becomes of the subjects that match it.

    src `orders.*.*`   dest `orders.{{wildcard(2)}}.{{wildcard(1)}}`   orders.a.b -> orders.b.a
    src `orders.>`     dest `copy.>`                                   orders.a.b -> copy.a.b

`$1` is short for `{{wildcard(1)}}`; `{{partition(10,1,2)}}` is a number below 10 that depends on the tokens
that the first and second `*` matched, `{{partition(10)}}` on the whole subject. Partitions are those of
nats-server (FNV-1a), so that a program may compute them too. Its other functions are not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from .subjects import is_subject

__all__ = ["BadTransform", "SubjectTransform"]

MAX_TOKENS: Final = 64
"""Of a pattern or destination; each message pays for them."""

_CALL: Final = re.compile(r"\{\{\s*([A-Za-z]+)\s*\(\s*(\d{1,9}(?:\s*,\s*\d{1,9})*)\s*\)\s*\}\}")
_SHORT: Final = re.compile(r"\$(\d{1,9})")

Part = Callable[[bytes, Sequence[bytes]], bytes]
"""A token of the destination, from the subject and what the `*` of the pattern matched."""


class BadTransform(ValueError):
    """The destination does not fit the pattern, or says something that means nothing."""


class SubjectTransform:
    """From literal subjects to others. Making one raises BadTransform.

    Args:
        source: a pattern; empty: every subject.
        destination: what it becomes; empty: what the `>` of the pattern matched.
    """

    def __init__(self, source: str, destination: str) -> None:
        self.source = source or ">"
        self.destination = destination or ">"
        self._pattern = [token.encode() for token in self.source.split(".")]
        if not is_subject(self.source) or len(self._pattern) > MAX_TOKENS:
            raise BadTransform(f"invalid source {self.source}")
        self._open = self._pattern[-1] == b">"
        if self._open:
            self._pattern.pop()
        self._wild = [number for number, token in enumerate(self._pattern) if token == b"*"]
        tokens = re.split(r"\.(?![^{]*\}\})", self.destination)
        self._rest = tokens[-1] == ">"
        if any(not token or (token.split() != [token] and "{{" not in token) for token in tokens):
            raise BadTransform("invalid mapping destination: invalid transform")
        if len(tokens) > MAX_TOKENS or self._rest != self._open or "*" in tokens:
            raise BadTransform("invalid subject")
        if self._rest:
            tokens.pop()
        self._parts = [self._part(token) for token in tokens]
        plain = [token if is_subject(token) and not set("${") & set(token) else "*" for token in tokens]
        self.widest = ".".join([*plain, *([">"] if self._rest else [])])
        """A pattern that takes every subject this can make."""

    def __call__(self, subject: bytes) -> bytes | None:
        """What a subject becomes; None: it does not match. One that has wildcards itself matches nothing."""
        tokens = subject.split(b".")
        if b"*" in tokens or b">" in tokens:
            return None
        fixed = len(self._pattern)
        if len(tokens) <= fixed if self._open else len(tokens) != fixed:
            return None
        for token, wanted in zip(tokens, self._pattern, strict=False):
            if wanted not in (b"*", token):
                return None
        matched = [tokens[number] for number in self._wild]
        made = [part(subject, matched) for part in self._parts]
        return b".".join(made + tokens[fixed:] if self._rest else made)

    def _part(self, token: str) -> Part:
        short, call = _SHORT.fullmatch(token), _CALL.fullmatch(token)
        if short is not None:
            return self._wildcard(int(short[1]), token)
        if call is not None:
            numbers = [int(number) for number in call[2].split(",")]
            match call[1].lower(), numbers:
                case "wildcard", [number]:
                    return self._wildcard(number, token)
                case "partition", [count, *chosen] if count:
                    return _partition(count, [self._index(number, token) for number in chosen])
        if not is_subject(token) or any(character in "{}*>$" for character in token):
            raise BadTransform(f"invalid mapping destination: unknown function in {token}")
        literal = token.encode()
        return lambda subject, matched: literal

    def _wildcard(self, number: int, token: str) -> Part:
        index = self._index(number, token)
        return lambda subject, matched: matched[index]

    def _index(self, number: int, token: str) -> int:
        if not 1 <= number <= len(self._wild):
            reason = f"wildcard index out of range in {token}: [{number}]"
            raise BadTransform(f"invalid mapping destination: {reason}")
        return number - 1


def _partition(count: int, chosen: Sequence[int]) -> Part:
    def number(subject: bytes, matched: Sequence[bytes]) -> bytes:
        key = b"".join(matched[index] for index in chosen) if chosen else subject
        return b"%d" % (fnv1a(key) % count)

    return number


def fnv1a(data: bytes) -> int:
    """The 32-bit hash of that name."""
    hashed = 0x811C9DC5
    for byte in data:
        hashed = (hashed ^ byte) * 0x01000193 & 0xFFFFFFFF
    return hashed
