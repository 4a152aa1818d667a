"""What there is to say about one option apart from its value: its kind, its range, its words.

`options.py` has the table of all of them. A value is read from text, or from what TOML has, by `parse`, and
written by `render`.
"""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from .units import (
    check_name,
    format_duration,
    format_size,
    join_address,
    parse_duration,
    parse_size,
    split_address,
)

Peer = tuple[str, str]
"""Name and address of another node."""


class BadOption(ValueError):
    """The user asked for something a node can't do: names the option and says why, in one sentence.

    Never raised for what the world did (a busy port, a full disk): that shows only when the node runs.
    """

    def __init__(self, flag: str, reason: str) -> None:
        super().__init__(f"--{flag}: {reason}")
        self.flag = flag
        self.reason = reason


class Unit(enum.Enum):
    """How the text of an option is read and written."""

    TEXT = "text"
    NAME = "name"
    PATH = "directory"
    FILE = "file"
    ADDRESS = "address"
    PEERS = "peers"
    DURATION = "duration"
    SIZE = "size"
    COUNT = "count"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Setting:
    """What there is to say about one option, apart from its value."""

    field: str
    """The attribute of `Options`."""
    flag: str
    """The command line flag without its dashes, and the key in the TOML file."""
    unit: Unit
    help: str
    reason: str
    """Why the default is what it is."""
    default: object
    minimum: int = 0
    maximum: int = 0
    """Zero: no range."""
    choices: tuple[str, ...] = ()

    @property
    def metavar(self) -> str:
        """What stands for the value in `--help`."""
        return "|".join(self.choices) if self.choices else METAVARS[self.unit]

    @property
    def default_text(self) -> str:
        """The default as a person would write it; `none` when there is none."""
        return render(self, self.default) or "none"


METAVARS: Final[Mapping[Unit, str]] = {
    Unit.TEXT: "TEXT",
    Unit.NAME: "NAME",
    Unit.PATH: "DIR",
    Unit.FILE: "FILE",
    Unit.ADDRESS: "HOST:PORT",
    Unit.PEERS: "NAME=HOST:PORT",
    Unit.DURATION: "DURATION",
    Unit.SIZE: "SIZE",
    Unit.COUNT: "COUNT",
    Unit.CHOICE: "CHOICE",
}


def parse(each: Setting, raw: object) -> object:
    """The value that `raw` (text, or what TOML has) stands for.

    Raises:
        BadOption: it is unreadable; ranges are checked by `Options` itself.
    """
    try:
        return _PARSERS[each.unit](raw)
    except ValueError as error:
        raise BadOption(each.flag, str(error)) from None


def render(each: Setting, value: object) -> str:
    """The value as a person would write it: the inverse of `parse` (peers: comma-separated)."""
    if value is None:
        return ""
    if each.unit is Unit.SIZE:
        return format_size(cast(int, value))
    if each.unit is Unit.DURATION:
        return format_duration(cast(int, value))
    if each.unit is Unit.PEERS:
        return ",".join(f"{name}={address}" for name, address in cast(Sequence[Peer], value))
    return str(value)


def _parse_text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is not text")
    return raw


def _parse_path(raw: object) -> Path:
    text = _parse_text(raw)
    if not text or "\0" in text:  # an empty path would be the directory that happens to be the current one
        raise ValueError(f"{text!r} names no directory")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~somebody, who is not there
        raise ValueError(f"{text!r} names nobody's home directory") from None


def _parse_address(raw: object) -> str:
    if isinstance(raw, bool) or not isinstance(raw, str | int):
        raise ValueError(f"{raw!r} is not HOST:PORT")
    return join_address(*split_address(str(raw)))


def _parse_count(raw: object) -> int:
    if isinstance(raw, bool) or not re.fullmatch(r"[0-9]{1,18}", str(raw)):
        raise ValueError(f"{raw!r} is not a whole number")
    return int(str(raw))


def _parse_peers(raw: object) -> tuple[Peer, ...]:
    if isinstance(raw, Mapping):
        return tuple((_parse_text(name), _parse_address(address)) for name, address in raw.items())
    if isinstance(raw, str):
        raw = [raw]
    if not isinstance(raw, Sequence):
        raise ValueError(f"{raw!r} is not NAME=HOST:PORT")
    return tuple(_parse_peer(each) for each in raw)


def _parse_peer(raw: object) -> Peer:
    name, equals, address = _parse_text(raw).partition("=")
    if not equals:
        raise ValueError(f"{raw!r} is not NAME=HOST:PORT")
    return name, _parse_address(address)


_PARSERS: Final[Mapping[Unit, Callable[[object], object]]] = {
    Unit.TEXT: _parse_text,
    Unit.NAME: _parse_text,
    Unit.PATH: lambda raw: raw if isinstance(raw, Path) else _parse_path(raw),
    Unit.FILE: lambda raw: raw if isinstance(raw, Path) else _parse_path(raw),
    Unit.ADDRESS: _parse_address,
    Unit.PEERS: _parse_peers,
    Unit.DURATION: parse_duration,
    Unit.SIZE: parse_size,
    Unit.COUNT: _parse_count,
    Unit.CHOICE: _parse_text,
}


def check_value(each: Setting, value: object) -> None:
    """One value against its own unit and range."""
    try:
        if each.unit is Unit.NAME and value is not None:
            check_name(cast(str, value))
        elif each.unit is Unit.ADDRESS and value is not None:
            split_address(cast(str, value))
    except ValueError as error:
        raise BadOption(each.flag, str(error)) from None
    if each.choices and value not in each.choices:
        raise BadOption(each.flag, f"{value!r} is none of {', '.join(each.choices)}")
    if each.maximum and not each.minimum <= cast(int, value) <= each.maximum:
        low, high = render(each, each.minimum), render(each, each.maximum)
        raise BadOption(each.flag, f"{render(each, value)} is not between {low} and {high}")
