"""nats-server's configuration syntax: a text to a mapping.

    key = value     key: value     key value     key { ... }
    "text" 'text' bare_text 42 64mb 1.5 true [a, b] { key: value }  ( several lines )
    # comment       // comment     include './other.conf'
    $variable       from an enclosing block, or the environment

Keys are case-insensitive in the server; here they come out in lower case. A text in double quotes knows the
escapes of JSON's more common ones and `\\xNN`. Names of users are values and keep their case.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["BadConf", "Value", "load_conf", "parse_conf"]

Value = str | int | float | bool | list["Value"] | dict[str, "Value"]

DEPTH: Final = 64
"""Blocks within blocks and files within files."""

_BLANK: Final = re.compile(r"(?:\s|#[^\n]*|//[^\n]*)*")
_GAP: Final = re.compile(r"(?:[\s,;]|#[^\n]*|//[^\n]*)*")
_KEY: Final = re.compile(r"""[^\s=:{}\[\],;"'#]+""")
_BARE: Final = re.compile(r"""[^\s,;\]}][^\n,;\]}]*""")
_NUMBER: Final = re.compile(r"([+-]?\d+)(?:(\.\d+)|([kKmMgGtTpPeE])([iI]?[bB])?)?")
_SCALES: Final = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
_WORDS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


class BadConf(ValueError):
    """The text is no configuration: says where."""


def load_conf(path: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Value]:
    """What a file says. Raises BadConf, also when a file can't be read."""
    try:
        return _Reader(path.read_text(), path, environment, 0).document({})
    except (OSError, UnicodeDecodeError) as error:
        raise BadConf(f"{path}: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}") from None


def parse_conf(text: str, environment: Mapping[str, str] | None = None) -> dict[str, Value]:
    """What a text says; files it includes are looked for in the current directory. Raises BadConf."""
    return _Reader(text, Path("configuration"), environment or {}, 0).document({})


class _Reader:
    """One text and the place in it."""

    def __init__(self, text: str, path: Path, environment: Mapping[str, str], depth: int) -> None:
        self._text = text
        self._path = path
        self._environment = environment
        self._at = 0
        self._depth = depth

    def document(self, outer: Mapping[str, Value]) -> dict[str, Value]:
        """Everything up to the end. A document may stand in braces itself."""
        self._skip(_GAP)
        braced = self._text.startswith("{", self._at)
        self._at += braced
        found = self._block("}" if braced else "", outer)
        self._skip(_GAP)
        if self._at < len(self._text):
            raise self._wrong("nothing can follow")
        return found

    def _block(self, end: str, outer: Mapping[str, Value]) -> dict[str, Value]:
        self._deeper()
        found: dict[str, Value] = {}
        while True:
            self._skip(_GAP)
            if self._at >= len(self._text):
                if end:
                    raise self._wrong(f"{end} is missing")
                break
            if end and self._text[self._at] == end:
                self._at += 1
                break
            key = self._key()
            scope = {**outer, **found}
            if key.lower() == "include":
                found |= self._include(scope)
            else:
                found[key.lower()] = self._value(scope)
        self._depth -= 1
        return found

    def _key(self) -> str:
        if self._text[self._at] in "\"'":
            key = self._quoted()
        else:
            match = _KEY.match(self._text, self._at)
            if match is None:
                raise self._wrong("a key is expected")
            self._at = match.end()
            key = match[0]
        self._skip(_BLANK)
        if self._text[self._at : self._at + 1] in ("=", ":") and self._at < len(self._text):
            self._at += 1
            self._skip(_BLANK)
        return key

    def _include(self, scope: Mapping[str, Value]) -> dict[str, Value]:
        name = self._value(scope)
        path = self._path.parent / str(name)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            raise self._wrong(f"{path} can't be read") from None
        return _Reader(text, path, self._environment, self._depth + 1).document(scope)

    def _value(self, scope: Mapping[str, Value]) -> Value:
        if self._at >= len(self._text):
            raise self._wrong("a value is expected")
        match self._text[self._at]:
            case "{":
                self._at += 1
                return self._block("}", scope)
            case "[":
                self._at += 1
                return self._array(scope)
            case '"' | "'":
                return self._quoted()
            case "(":
                return self._lines()
            case _:
                return self._bare(scope)

    def _array(self, scope: Mapping[str, Value]) -> list[Value]:
        self._deeper()
        found: list[Value] = []
        while True:
            self._skip(_GAP)
            if self._at >= len(self._text):
                raise self._wrong("] is missing")
            if self._text[self._at] == "]":
                self._at += 1
                self._depth -= 1
                return found
            found.append(self._value(scope))

    def _quoted(self) -> str:
        quote = self._text[self._at]
        parts: list[str] = []
        at = self._at + 1
        while at < len(self._text):
            character = self._text[at]
            if character == quote:
                self._at = at + 1
                return "".join(parts)
            if character == "\\" and quote == '"':
                piece, at = self._escape(at + 1)
                parts.append(piece)
                continue
            parts.append(character)
            at += 1
        raise self._wrong("a text does not end")

    def _escape(self, at: int) -> tuple[str, int]:
        letter = self._text[at : at + 1]
        if letter == "x":
            try:
                return chr(int(self._text[at + 1 : at + 3], 16)), at + 3
            except ValueError:
                raise self._wrong(r"\x wants two hexadecimal digits") from None
        if letter not in _ESCAPES:
            raise self._wrong(f"\\{letter} means nothing")
        return _ESCAPES[letter], at + 1

    def _lines(self) -> str:
        """A text in parentheses, the last of which stands alone on its line."""
        end = re.compile(r"^[ \t]*\)[ \t]*$", re.MULTILINE).search(self._text, self._at)
        close = end.end() - 1 if end is not None else self._text.find(")", self._at)
        if close < 0:
            raise self._wrong(") is missing")
        start, self._at = self._at + 1, close + 1
        return self._text[start:close].rstrip(")").strip("\n")

    def _bare(self, scope: Mapping[str, Value]) -> Value:
        match = _BARE.match(self._text, self._at)
        if match is None:
            raise self._wrong("a value is expected")
        text = re.split(r"\s(?:#|//)", match[0], maxsplit=1)[0].rstrip()
        self._at += len(text)
        if text.startswith("$"):
            return self._variable(text[1:], scope)
        return _meaning(text)

    def _variable(self, name: str, scope: Mapping[str, Value]) -> Value:
        if name.lower() in scope:
            return scope[name.lower()]
        if name in self._environment:
            return _meaning(self._environment[name].strip("\"'"))
        if re.match(r"2[abxy]\$", name):  # a bcrypt hash, which begins like a variable
            return f"${name}"
        raise self._wrong(f"there is no variable ${name}")

    def _skip(self, what: re.Pattern[str]) -> None:
        match = what.match(self._text, self._at)
        self._at = match.end() if match is not None else self._at

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEPTH:
            raise self._wrong("blocks, or files, lie too deep within each other")

    def _wrong(self, what: str) -> BadConf:
        return BadConf(f"{self._path}:{self._text.count(chr(10), 0, self._at) + 1}: {what}")


def _meaning(text: str) -> Value:
    """A bare word: a truth, a number (1k is 1000, 1kb and 1kib 1024), or itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    if match[2]:
        return float(text)
    scale = (1024 if match[4] else 1000) ** _SCALES[match[3].lower()] if match[3] else 1
    return int(match[1]) * scale
