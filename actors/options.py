"""Every option of a node, once: its default, unit, range and reason.

`Options` is the only table. The command line flags, the keys of the TOML file, `--help` and
`docs/options.md` are all generated from it or checked against it, so they can't drift apart.
Nothing here knows click, TOML files or Trio: a program that embeds a node builds `Options` directly.

Sizes are kept in bytes and durations in milliseconds (the suffix of the field says which). People
write and read `64MiB` and `100ms`; `parse_size`, `parse_duration`, `format_size` and
`format_duration` translate.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Literal, TypeVar, cast

__all__ = [
    "Options",
    "BadOption",
    "Setting",
    "Unit",
    "settings",
    "setting",
    "parse",
    "render",
    "from_mapping",
    "split_address",
    "check_name",
    "parse_size",
    "parse_duration",
    "format_size",
    "format_duration",
]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

HEADERS_LIMIT: Final = 64 * KIB
"""Room kept for the header block of one message, as the reference server limits it."""

BATCH_OVERHEAD: Final = 4 * KIB
"""Room kept for what a batch adds to a single message: batch and entry headers, table, padding."""

SEGMENT_OVERHEAD: Final = 64 * KIB
"""Room kept in a log segment beside its largest batch: segment header, frames, trailer."""

DEFAULT_PEER_ADDRESS: Final = "127.0.0.1:6222"
DATA_DIRECTORY: Final = Path("trimaran-data")

Default = TypeVar("Default")
Peer = tuple[str, str]


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


def _setting(
    default: Default,
    unit: Unit,
    help: str,
    reason: str,
    *,
    flag: str = "",
    minimum: int = 0,
    maximum: int = 0,
    choices: tuple[str, ...] = (),
) -> Default:
    facts = {
        "unit": unit,
        "help": help,
        "reason": reason,
        "flag": flag,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
    }
    # To a type checker field() has its default's type; the dataclass decorator puts the default there.
    return field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one node, valid by construction.

    Raises:
        BadOption: a value is out of range or two values contradict each other.
    """

    name: str = _setting(
        "trimaran",
        Unit.NAME,
        "Name of this node in its cluster.",
        "A single node needs no other; in a cluster every node has its own.",
    )
    data: Path = _setting(
        DATA_DIRECTORY,
        Unit.PATH,
        "Directory of everything durable. Made if missing; used by one process at a time.",
        "Beside the place where the node was started, so that a first try needs no rights.",
    )
    listen: str = _setting(
        "127.0.0.1:4222",
        Unit.ADDRESS,
        "Address for NATS clients. Port 0 or -1 takes a free one.",
        "The port NATS clients try first, on loopback until somebody says who may connect.",
    )
    peer_listen: str | None = _setting(
        None,
        Unit.ADDRESS,
        "Address for the other nodes, 127.0.0.1:6222 if there are peers. Given alone, the cluster can grow.",
        "A node alone needs none; the port is the one NATS servers use among themselves.",
    )
    peer_advertise: str | None = _setting(
        None,
        Unit.ADDRESS,
        "Where the other nodes reach this one, if not at --peer-listen.",
        "The same, unless something stands between: a container's port, a translated address, a proxy.",
    )
    peers: tuple[Peer, ...] = _setting(
        (),
        Unit.PEERS,
        "Another node of the cluster; once for each of them.",
        "Without peers the node is a durable cluster of one.",
        flag="peer",
    )
    cluster_name: str = _setting(
        "trimaran",
        Unit.NAME,
        "Name of the cluster, the same on all its nodes.",
        "Shown to clients and on the monitor; keeps clusters on one host apart.",
    )
    http: str | None = _setting(
        None,
        Unit.ADDRESS,
        "Address of the monitor: /healthz, /varz, /raftz, /jsz.",
        "Off, since it has no authentication; a port alone means loopback.",
    )
    heartbeat_ms: int = _setting(
        100,
        Unit.DURATION,
        "How often a leader makes itself heard.",
        "A fifth of the shortest election timeout: four may be lost.",
        flag="heartbeat",
        minimum=5,
        maximum=10_000,
    )
    election_min_ms: int = _setting(
        500,
        Unit.DURATION,
        "Shortest wait for a silent leader before an election.",
        "Above the pauses of a busy host, below what a client notices as an outage.",
        flag="election-min",
        minimum=15,
        maximum=60_000,
    )
    election_max_ms: int = _setting(
        1_000,
        Unit.DURATION,
        "Longest wait for a silent leader before an election.",
        "Twice the shortest: wide enough that two candidates seldom collide.",
        flag="election-max",
        minimum=20,
        maximum=120_000,
    )
    fsync_deadline_ms: int = _setting(
        1_000,
        Unit.DURATION,
        "A leader whose disk needs longer than this for one sync hands over.",
        "Ten thousand times a good disk's sync: by then a follower serves better.",
        flag="fsync-deadline",
        minimum=50,
        maximum=600_000,
    )
    quiet_after_ms: int = _setting(
        2000,
        Unit.DURATION,
        "An idle group stops its own heartbeats after this time; those of its nodes stand for them.",
        "Long enough that a group in use never stops, short enough that a thousand idle ones cost nothing.",
        minimum=100,
        maximum=3_600_000,
    )
    wal_sync: Literal["thread", "uring", "inline"] = _setting(
        "thread",
        Unit.CHOICE,
        "Who syncs the log: a thread of its own, the kernel by io_uring, or the event loop itself, inline.",
        "Thread and uring cost the same; inline saves 15 to 50 us, and a slow disk would stall every client.",
        choices=("thread", "uring", "inline"),
    )
    check_invariants: Literal["off", "on"] = _setting(
        "off",
        Unit.CHOICE,
        "Check the rules of Raft on every event; a group that breaks one stops on this node.",
        "Costs some microseconds a batch; for those who would rather lose a replica than not know.",
        choices=("off", "on"),
    )
    uncommitted_bytes: int = _setting(
        64 * MIB,
        Unit.SIZE,
        "Proposals of one group that may wait for a majority; more are refused as busy.",
        "A second or so of a fast disk: beyond it waiting only grows.",
        minimum=64 * KIB,
        maximum=4 * GIB,
    )
    batch_bytes: int = _setting(
        4 * MIB,
        Unit.SIZE,
        "Largest batch, as encoded. Holds at least one message of --max-payload.",
        "Large enough that one sync serves thousands of messages, small enough to resend.",
        minimum=16 * KIB,
        maximum=64 * MIB,
    )
    segment_bytes: int = _setting(
        64 * MIB,
        Unit.SIZE,
        "Size of one file of the log, written ahead with zeros.",
        "Syncing preallocated space changes no file size; few files, yet old log goes soon.",
        minimum=256 * KIB,
        maximum=1 * GIB,
    )
    min_free_bytes: int = _setting(
        256 * MIB,
        Unit.SIZE,
        "Free disk space below which streams that this node leads take no more messages.",
        "What was accepted must still reach the log, the blocks and a snapshot; a segment is in reserve.",
        maximum=1024 * GIB,
    )
    log_cache_bytes: int = _setting(
        32 * MIB,
        Unit.SIZE,
        "Recent log of one group kept in memory for its followers.",
        "Some seconds of full load: a follower that was away briefly needs no disk read.",
        minimum=64 * KIB,
        maximum=16 * GIB,
    )
    snapshot_log_bytes: int = _setting(
        64 * MIB,
        Unit.SIZE,
        "Log of one group after which it takes a snapshot and lets the log go.",
        "One segment: bounds both the replay after a crash and the disk the log holds.",
        minimum=64 * KIB,
        maximum=64 * GIB,
    )
    transfer_log_bytes: int = _setting(
        1 * GIB,
        Unit.SIZE,
        "Log of one group that is kept behind a snapshot while a follower gets it.",
        "A minute or so of full load: one snapshot is enough, and a follower that is too slow fills no disk.",
        minimum=64 * KIB,
        maximum=1024 * GIB,
    )
    scrub_bytes: int = _setting(
        2 * MIB,
        Unit.SIZE,
        "What is read again from the disk each second, to see that it is sound; less under load. 0: nothing.",
        "Unnoticed by clients, and yet 40 GiB every six hours; what rots is found while others have it.",
        minimum=0,
        maximum=1 * GIB,
    )
    block_bytes: int = _setting(
        8 * MIB,
        Unit.SIZE,
        "Size of one file of a stream's messages.",
        "Whole files go when old messages do, and a snapshot syncs only the last ones.",
        minimum=64 * KIB,
        maximum=1 * GIB,
    )
    max_payload: int = _setting(
        1 * MIB,
        Unit.SIZE,
        "Largest message of a client, headers included.",
        "What NATS clients expect.",
        minimum=1 * KIB,
        maximum=32 * MIB,
    )
    max_control_line: int = _setting(
        4 * KIB,
        Unit.SIZE,
        "Longest protocol line of a client.",
        "What NATS clients expect.",
        minimum=512,
        maximum=64 * KIB,
    )
    max_pending: int = _setting(
        64 * MIB,
        Unit.SIZE,
        "What may wait to be sent to one client; a slower one is disconnected.",
        "What NATS clients expect.",
        minimum=64 * KIB,
        maximum=4 * GIB,
    )
    max_connections: int = _setting(
        65_536,
        Unit.COUNT,
        "Most clients at a time.",
        "What NATS servers allow; the limit of open files is usually lower.",
        minimum=1,
        maximum=1_000_000,
    )
    auth_timeout_ms: int = _setting(
        2_000,
        Unit.DURATION,
        "Time for a new client to introduce itself.",
        "What NATS servers allow.",
        flag="auth-timeout",
        minimum=10,
        maximum=600_000,
    )
    ping_interval_ms: int = _setting(
        120_000,
        Unit.DURATION,
        "How often a silent client is asked whether it still lives; two unanswered questions end it.",
        "What NATS servers do.",
        flag="ping-interval",
        minimum=10,
        maximum=86_400_000,
    )
    jetstream: Literal["on", "off"] = _setting(
        "on",
        Unit.CHOICE,
        "Whether clients may use JetStream; off: core NATS only.",
        "It is what Trimaran is for.",
        choices=("on", "off"),
    )
    max_subscriptions: int = _setting(
        0,
        Unit.COUNT,
        "Most subscriptions of one client; 0: no limit.",
        "What NATS servers do; each costs about 1 KiB.",
        minimum=0,
        maximum=100_000_000,
    )
    access: Path | None = _setting(
        None,
        Unit.FILE,
        "Users, passwords, nkeys and permissions, in nats-server's configuration syntax.",
        "Everybody may connect who reaches the port; docs/security.md says how to close it.",
    )
    tls_cert: Path | None = _setting(
        None,
        Unit.FILE,
        "Certificate for clients, as PEM, with the chain behind it.",
        "Without it clients' connections are not encrypted.",
    )
    tls_key: Path | None = _setting(
        None,
        Unit.FILE,
        "Private key of --tls-cert, as PEM, without a password.",
        "A node starts with nobody at the terminal.",
    )
    tls_ca: Path | None = _setting(
        None,
        Unit.FILE,
        "Authority of the clients' certificates, as PEM.",
        "Needed to verify them.",
    )
    tls_verify: Literal["off", "on", "map"] = _setting(
        "off",
        Unit.CHOICE,
        "Whether clients must show a certificate of --tls-ca; map: it also says which user they are.",
        "Passwords do for most.",
        choices=("off", "on", "map"),
    )
    tls_first: Literal["off", "on"] = _setting(
        "off",
        Unit.CHOICE,
        "Encrypt before the server introduces itself; clients must be told to expect it.",
        "Clients expect to be told whether to encrypt.",
        choices=("off", "on"),
    )
    peer_tls_cert: Path | None = _setting(
        None,
        Unit.FILE,
        "This node's certificate for the other nodes, as PEM.",
        "Without it links are not encrypted, and whoever reaches the peer port may claim to be a node.",
    )
    peer_tls_key: Path | None = _setting(
        None,
        Unit.FILE,
        "Private key of --peer-tls-cert, as PEM, without a password.",
        "A node starts with nobody at the terminal.",
    )
    peer_tls_ca: Path | None = _setting(
        None,
        Unit.FILE,
        "Authority of all nodes' certificates, as PEM; one that signs for this cluster alone.",
        "Whoever has a certificate of it is taken for a node.",
    )
    log_format: Literal["human", "json"] = _setting(
        "human",
        Unit.CHOICE,
        "How log lines on stderr look.",
        "Somebody reads the first ones on a terminal.",
        choices=("human", "json"),
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info",
        Unit.CHOICE,
        "How much is logged.",
        "A few lines at start, at changes of leadership and at trouble.",
        choices=("debug", "info", "warning", "error"),
    )

    def __post_init__(self) -> None:
        for each in settings():
            _check_value(each, getattr(self, each.field))
        _check_times(self)
        _check_sizes(self)
        _check_addresses(self)
        _check_peers(self)
        _check_certificates(self)

    @property
    def peer_address(self) -> str:
        """Where this node listens for others, if it does."""
        return self.peer_listen or DEFAULT_PEER_ADDRESS

    @property
    def clustered(self) -> bool:
        """Whether there are other nodes, or may be: then the peer address is bound."""
        return bool(self.peers) or self.peer_listen is not None


def settings() -> tuple[Setting, ...]:
    """All options in the order in which they are explained."""
    return _SETTINGS


def setting(flag: str) -> Setting:
    """The option with this flag (or TOML key; an underscore counts as a dash).

    Raises:
        BadOption: there is no such option.
    """
    wanted = flag.replace("_", "-")
    for each in _SETTINGS:
        if each.flag == wanted:
            return each
    raise BadOption(wanted, "there is no such option")


def from_mapping(values: Mapping[str, object]) -> Options:
    """Options from flags or TOML keys and their raw values; what is absent keeps its default.

    Raises:
        BadOption: an unknown key, an unreadable value, or a contradiction.
    """
    known = {setting(key).field: parse(setting(key), value) for key, value in values.items()}
    return Options(**known)  # type: ignore[arg-type]  # parse() gave each field its own type


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
    if port == "-1":
        return host, 0
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f"{address!r} is not HOST:PORT with a port from 0 to 65535")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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

_FORBIDDEN_IN_NAMES: Final = set(" .*>/\\=,")
_LONGEST_NAME: Final = 64


def _check_certificates(options: Options) -> None:
    """Files that only work together."""
    if (options.tls_cert is None) != (options.tls_key is None):
        raise BadOption("tls-cert", "a certificate and its key are needed, --tls-key")
    if options.tls_verify != "off" and (options.tls_cert is None or options.tls_ca is None):
        raise BadOption("tls-verify", "verifying clients needs --tls-cert and --tls-ca")
    if options.tls_verify == "map" and options.access is None:
        raise BadOption("tls-verify", "certificates are mapped to users, and --access names none")
    if options.tls_first == "on" and options.tls_cert is None:
        raise BadOption("tls-first", "there is no --tls-cert")
    of_peers = {options.peer_tls_cert is None, options.peer_tls_key is None, options.peer_tls_ca is None}
    if len(of_peers) > 1:
        raise BadOption("peer-tls-cert", "certificate, key and authority are needed, all three")


def _check_value(each: Setting, value: object) -> None:
    """One value against its own unit and range."""
    try:
        if each.unit is Unit.NAME:
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


def check_name(name: str) -> None:
    """Raises ValueError for what can't name a node or a cluster."""
    if not name or len(name) > _LONGEST_NAME:
        raise ValueError(f"{name!r} has not 1 to {_LONGEST_NAME} characters")
    if not name.isprintable() or _FORBIDDEN_IN_NAMES & set(name):
        raise ValueError(f"{name!r} has a blank, a control character or one of . * > / \\ = ,")


def _check_times(options: Options) -> None:
    if options.election_min_ms <= 2 * options.heartbeat_ms:
        raise BadOption(
            "election-min",
            f"{format_duration(options.election_min_ms)} is not above twice the heartbeat"
            f" ({format_duration(options.heartbeat_ms)}): one late heartbeat would start an election",
        )
    if options.election_max_ms <= options.election_min_ms:
        raise BadOption(
            "election-max",
            f"{format_duration(options.election_max_ms)} is not above --election-min"
            f" ({format_duration(options.election_min_ms)}): candidates would keep colliding",
        )


def _check_sizes(options: Options) -> None:
    message = options.max_payload + options.max_control_line + HEADERS_LIMIT + BATCH_OVERHEAD
    _at_least("batch-bytes", options.batch_bytes, message, "a message of --max-payload could never be stored")
    _at_least("uncommitted-bytes", options.uncommitted_bytes, options.batch_bytes, "a batch would never fit")
    segment = options.batch_bytes + SEGMENT_OVERHEAD
    _at_least("segment-bytes", options.segment_bytes, segment, "a batch would never fit")
    _at_least("max-pending", options.max_pending, options.max_payload, "a message could never be delivered")


def _at_least(flag: str, value: int, least: int, otherwise: str) -> None:
    if value < least:
        raise BadOption(flag, f"{format_size(value)} is below {format_size(least)}: {otherwise}")


def _check_addresses(options: Options) -> None:
    """A node can't listen twice on one address; port 0 takes a free one each time."""
    bound: dict[tuple[str, int], str] = {}
    listening = [("listen", options.listen), ("http", options.http)]
    if options.clustered:
        listening.insert(1, ("peer-listen", options.peer_address))
    for flag, address in listening:
        if address is None or not (where := split_address(address))[1]:
            continue
        if where in bound:
            raise BadOption(flag, f"{address} is this node's own --{bound[where]}")
        bound[where] = flag


def _check_peers(options: Options) -> None:
    names: set[str] = set()
    addresses: set[str] = set()
    own = split_address(options.peer_address)
    for name, address in options.peers:
        try:
            check_name(name)
            remote = split_address(address)
        except ValueError as error:
            raise BadOption("peer", str(error)) from None
        if name == options.name:
            raise BadOption("peer", f"{name!r} is the name of this node itself")
        if name in names or address in addresses:
            raise BadOption("peer", f"{name}={address} names a node that is there already")
        if remote[1] == 0:
            raise BadOption("peer", f"{name}={address} needs the port that node listens on")
        if remote == own:
            raise BadOption("peer", f"{name}={address} is this node's own --peer-listen")
        names.add(name)
        addresses.add(address)


def _read_settings() -> tuple[Setting, ...]:
    found = []
    for each in fields(Options):
        facts = dict(each.metadata)
        facts["flag"] = facts["flag"] or each.name.replace("_", "-")
        found.append(Setting(field=each.name, default=each.default, **facts))
    return tuple(found)


_SETTINGS: Final = _read_settings()
