"""JSON from outside, read so that nothing which comes of it can surprise later.

What Python's reader takes and a record of the log, a line of the protocol or the stack does not: halves of
surrogate pairs, numbers beyond 64 bits, NaN and infinity, nesting without end. All of it is refused here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Final

__all__ = ["BadJson", "read_json"]

MAX_DEPTH: Final = 64
"""Far above what any request has, far below what msgpack and the stack carry."""

_ESCAPED_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
"""May be half of a pair, which JSON allows and UTF-8 does not."""


class BadJson(ValueError):
    """The bytes are no JSON, or none that is taken here. `ended`: they stop before the value does."""

    def __init__(self, reason: str, *, ended: bool = False) -> None:
        super().__init__(reason)
        self.ended = ended


def read_json(payload: bytes | bytearray | memoryview) -> object:
    """The value. Raises BadJson."""
    try:
        text = bytes(payload).decode()
        value: object = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_no_constant)
        if _ESCAPED_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise BadJson(f"{error.msg} at {error.pos}", ended=not text[error.pos :].strip()) from error
    except UnicodeEncodeError as error:
        raise BadJson("half of a surrogate pair") from error
    except (ValueError, RecursionError) as error:
        raise BadJson("the value can not be read") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise BadJson("the value can not be read")
    return value


def _integer(text: str) -> int:
    number = int(text) if len(text) <= 20 else 1 << 64
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(text)
    return number


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


def _no_constant(text: str) -> object:
    raise ValueError(text)


def _is_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return True


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
