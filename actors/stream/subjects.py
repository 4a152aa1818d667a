"""Which subjects a stream takes: NATS subjects with `*` (one token) and `>` (one or more, at the end)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar, cast


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


T = TypeVar("T")

_END: Final = "end"
_TAIL: Final = "tail"
"""Keys of values in the tree; tokens are bytes, so no token is one of them."""


class SubjectIndex(Generic[T]):
    """Patterns with a value each, in a tree by token: an answer takes about as many steps as the subject has
    tokens, however many patterns there are. No recursion: a subject may have thousands of tokens.
    """

    __slots__ = ("_literals", "_root")

    def __init__(self) -> None:
        self._literals: dict[bytes, T] = {}
        self._root: dict[bytes | str, Any] = {}
        """Token -> the same for the next token; `_END` and `_TAIL` -> the value of a pattern that ends so."""

    def add(self, pattern: bytes, value: T) -> None:
        """Give a pattern, or a literal subject, its value."""
        tokens, end = _parts(pattern)
        if end == _END and b"*" not in tokens:
            self._literals[pattern] = value
        level = self._root
        for token in tokens:
            level = level.setdefault(token, {})
        level[end] = value

    def remove(self, pattern: bytes) -> None:
        """Forget a pattern. One that isn't there changes nothing."""
        self._literals.pop(pattern, None)
        tokens, end = _parts(pattern)
        path = [self._root]
        for token in tokens:
            if token not in path[-1]:
                return
            path.append(path[-1][token])
        path[-1].pop(end, None)
        for level, token in zip(reversed(path[:-1]), reversed(tokens), strict=True):
            if level[token]:
                break
            del level[token]

    def find(self, subject: bytes) -> T | None:
        """The value of a pattern that matches a subject, taken as it is, or None."""
        if subject in self._literals:
            return self._literals[subject]
        tokens = subject.split(b".")
        waiting = [(self._root, 0)]
        while waiting:
            level, position = waiting.pop()
            if position == len(tokens):
                if _END in level:
                    return cast(T, level[_END])
                continue
            if _TAIL in level:
                return cast(T, level[_TAIL])
            waiting.extend(
                (level[token], position + 1) for token in _steps(tokens[position]) if token in level
            )
        return None

    def matching(self, subject: bytes) -> list[T]:
        """The values of all patterns that match a subject, taken as it is."""
        found: list[T] = []
        tokens = subject.split(b".")
        waiting = [(self._root, 0)]
        while waiting:
            level, position = waiting.pop()
            if position == len(tokens):
                if _END in level:
                    found.append(cast(T, level[_END]))
                continue
            if _TAIL in level:
                found.append(cast(T, level[_TAIL]))
            waiting.extend(
                (level[token], position + 1) for token in _steps(tokens[position]) if token in level
            )
        return found

    def overlapping(self, pattern: bytes) -> T | None:
        """The value of a pattern that takes some subject which `pattern` takes too, or None."""
        tokens = pattern.split(b".")
        waiting = [(self._root, 0)]
        while waiting:
            level, position = waiting.pop()
            if position == len(tokens):
                if _END in level:
                    return cast(T, level[_END])
                continue
            if _TAIL in level:
                return cast(T, level[_TAIL])
            token = tokens[position]
            if token == b">" and position == len(tokens) - 1:
                below = [level[key] for key in level if isinstance(key, bytes)]
                if below:
                    return self._some(below[0])
            elif token == b"*":
                waiting += [(below, position + 1) for key, below in level.items() if isinstance(key, bytes)]
            else:
                waiting += [(level[key], position + 1) for key in (b"*", token) if key in level]
        return None

    def _some(self, level: dict[bytes | str, Any]) -> T:
        """The value of some pattern at or below a level; every branch ends in one."""
        while _END not in level and _TAIL not in level:
            level = next(level[key] for key in level)
        return cast(T, level[_END] if _END in level else level[_TAIL])


def _steps(token: bytes) -> tuple[bytes, ...]:
    """Where a token leads in the tree. One that is `*` itself leads to one place, not twice to the same."""
    return (b"*", token) if token != b"*" else (token,)


def _parts(pattern: bytes) -> tuple[list[bytes], str]:
    """The tokens that lead to a pattern's value, and the key that it has there."""
    tokens = pattern.split(b".")
    return (tokens[:-1], _TAIL) if tokens[-1] == b">" else (tokens, _END)


class SubjectFilter:
    """Compiled patterns; answers for literal subjects as they are stored (bytes)."""

    __slots__ = ("_index",)

    def __init__(self, patterns: Sequence[str]) -> None:
        self._index: SubjectIndex[bool] = SubjectIndex()
        for pattern in patterns:
            self._index.add(pattern.encode(), True)

    def __contains__(self, subject: bytes) -> bool:
        return self._index.find(subject) is not None
