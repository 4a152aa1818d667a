"""Which subjects a stream takes: NATS subjects with `*` (one token) and `>` (one or more, at the end)."""

from __future__ import annotations

from collections.abc import Sequence


def is_subject(subject: str) -> bool:
    """Whether it can be configured: tokens without spaces, none empty, `>` only at the end."""
    tokens = subject.split(".")
    if any(not token or any(character in token for character in " \t\r\n\f\0") for token in tokens):
        return False
    return ">" not in tokens[:-1]


def subjects_overlap(one: str, other: str) -> bool:
    """Whether some subject matches both."""
    ours, theirs = one.split("."), other.split(".")
    for mine, yours in zip(ours, theirs, strict=False):
        if ">" in (mine, yours):
            return True
        if mine != yours and "*" not in (mine, yours):
            return False
    return len(ours) == len(theirs)


def subject_matches(pattern: str, subject: str) -> bool:
    """Whether a pattern matches all that another pattern (or a literal subject) matches."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if position >= len(tokens):
            return False
        if token == ">":
            return True
        if tokens[position] == ">" or (token != "*" and token != tokens[position]):
            return False
    return len(wanted) == len(tokens)


class SubjectFilter:
    """Compiled patterns; answers for literal subjects as they are stored (bytes)."""

    __slots__ = ("_literals", "_wildcards")

    def __init__(self, patterns: Sequence[str]) -> None:
        self._literals: set[bytes] = set()
        self._wildcards: list[list[bytes]] = []
        for pattern in patterns:
            tokens = pattern.encode().split(b".")
            if b"*" in tokens or tokens[-1] == b">":
                self._wildcards.append(tokens)
            else:
                self._literals.add(pattern.encode())

    def __contains__(self, subject: bytes) -> bool:
        if subject in self._literals:
            return True
        if not self._wildcards:
            return False
        tokens = subject.split(b".")
        return any(_matches(wanted, tokens) for wanted in self._wildcards)


def _matches(wanted: list[bytes], tokens: list[bytes]) -> bool:
    if wanted[-1] == b">":
        if len(tokens) < len(wanted):
            return False
        wanted = wanted[:-1]
    elif len(tokens) != len(wanted):
        return False
    return all(want in (b"*", token) for want, token in zip(wanted, tokens, strict=False))
