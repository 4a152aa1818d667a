"""How people write sizes, durations, addresses and names, and what a program makes of them.

Sizes are kept in bytes and durations in milliseconds; people write and read `64MiB` and `100ms`. All of it
is text to value and back: nothing here knows which options there are.
"""

import re
from collections.abc import Mapping
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

_SIZE_UNITS: Final[Mapping[str, int]] = {
    "": 1,
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "kb": 1_000,
    "mb": 1_000_000,
    "gb": 1_000_000_000,
}
_DURATION_UNITS: Final[Mapping[str, int]] = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000}
_QUANTITY = re.compile(r"\s*(\d{1,18})(?:\.(\d{1,9}))?\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(raw: object) -> int:
    """Bytes from `64MiB`, `1.5 GiB`, `100kB` or a plain number. Raises ValueError."""
    return _quantity(raw, _SIZE_UNITS, "a size such as 64MiB, 512KiB or a number of bytes")


def parse_duration(raw: object) -> int:
    """Milliseconds from `100ms`, `1.5s`, `2m` or `1h`; the unit is never guessed. Raises ValueError."""
    return _quantity(raw, _DURATION_UNITS, "a duration such as 100ms, 1.5s or 2m")


def _quantity(raw: object, units: Mapping[str, int], expected: str) -> int:
    match = _QUANTITY.fullmatch(str(raw)) if not isinstance(raw, bool) else None
    scale = units.get(match[3].lower()) if match else None
    if match is None or scale is None:
        raise ValueError(f"{raw!r} is not {expected}")
    whole, fraction = str(match[1]), str(match[2] or "")
    parts: int = 10 ** len(fraction)
    value, rest = divmod(int(whole + fraction) * scale, parts)
    if rest:
        raise ValueError(f"{raw!r} is finer than the smallest unit, a byte or a millisecond")
    return value


def format_size(size: int) -> str:
    """`67108864` as `64MiB`; exact, so a crooked number stays a number of bytes (`1001B`)."""
    for unit, scale in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % scale == 0:
            return f"{size // scale}{unit}"
    return f"{size}B"


def format_duration(milliseconds: int) -> str:
    """`120000` as `2m`; exact, so `1500` stays `1500ms`."""
    for unit, scale in (("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds and milliseconds % scale == 0:
            return f"{milliseconds // scale}{unit}"
    return f"{milliseconds}ms"


def split_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:4222` as a host and a port; `[::1]:4222` for IPv6, a port alone for loopback.

    Port -1 comes back as 0: the system chooses.

    Raises:
        ValueError: it is no such address.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        host = "127.0.0.1"
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r} needs brackets around its IPv6 host, as in [::1]:4222")
    if not host:
        raise ValueError(f"{address!r} names no host; 0.0.0.0:{port} would listen on all interfaces")
    if any(character.isspace() or not character.isprintable() for character in host):
        raise ValueError(f"{address!r} is not HOST:PORT")
    try:
        host.encode("idna")
    except UnicodeError:  # an empty label, or a long one: whoever looked it up would find no error for that
        raise ValueError(f"{address!r} is not HOST:PORT: {host!r} can't be a host's name") from None
    if port == "-1":
        return host, 0
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"{address!r} is not HOST:PORT with a port from 0 to 65535")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_FORBIDDEN_IN_NAMES: Final = set(" .*>/\\=,")
_LONGEST_NAME: Final = 64


def check_name(name: str) -> None:
    """Raises ValueError for what can't name a node or a cluster."""
    if not name or len(name) > _LONGEST_NAME:
        raise ValueError(f"{name!r} has not 1 to {_LONGEST_NAME} characters")
    if not name.isprintable() or _FORBIDDEN_IN_NAMES & set(name):
        raise ValueError(f"{name!r} has a blank, a control character or one of . * > / \\ = ,")
