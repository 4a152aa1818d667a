"""The JSON of API requests: read as strictly as nats-server does, and no stricter.

A field that a request does not have is an error, since it is most likely misspelt. Where the reference looks
only at objects and lists, anything else says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from ..stream.config import decode_json
from ..stream.errors import ApiError, json_error

__all__ = ["NOT_EMPTY", "check_empty", "number_of", "offset_of", "read_request", "text_of"]

NOT_EMPTY: Final = ApiError(400, 10038, "expected an empty request payload")


def read_request(payload: bytes, *fields: str, strict: bool = False) -> dict[str, object]:
    """The object of a request; an empty payload is an empty one. Raises ApiError 10025.

    Args:
        fields: those that the request may have.
        strict: what is no JSON is an error; else it says nothing.
    """
    text = payload.strip()
    if not text or not (strict or text[:1] in (b"{", b"[")):
        return {}
    value = decode_json(text)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise json_error("the request is no object")
    unknown = next((name for name in value if name not in fields), None)
    if unknown is not None:
        raise json_error(f'json: unknown field "{unknown}"')
    return cast("dict[str, object]", value)


def check_empty(payload: bytes) -> None:
    """Raises ApiError 10038 unless the request says nothing; an empty object says nothing."""
    try:
        empty = not payload.strip() or decode_json(payload) == {}
    except ApiError:
        empty = False
    if not empty:
        raise NOT_EMPTY.fresh()


def text_of(request: Mapping[str, object], field: str) -> str:
    """A text, empty if it is not there. Raises ApiError 10025."""
    value = request.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise json_error(f"{field} is no string")
    return value


def number_of(request: Mapping[str, object], field: str) -> int:
    """A number from 0 on, 0 if it is not there. Raises ApiError 10025."""
    value = request.get(field)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise json_error(f"{field} is no number from 0 to 2^64-1")
    return value


def offset_of(request: Mapping[str, object]) -> int:
    """Where a page begins; below 0 is the beginning too. Raises ApiError 10025."""
    value = request.get("offset")
    if isinstance(value, int) and not isinstance(value, bool):
        return max(0, value)
    return number_of(request, "offset")
