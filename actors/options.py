"""Every option of a node, once: its default, unit, range and reason.

`Options` is the only table. The command line flags, the keys of the TOML file, `--help` and
`docs/options.md` are all generated from it or checked against it, so they can't drift apart.
Nothing here knows click, TOML files or Trio: a program that embeds a node builds `Options` directly.

Sizes are kept in bytes and durations in milliseconds (the suffix of the field says which). What holds for
one value is in `setting.py`; what holds between two of them is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from .setting import BadOption, Peer, Setting, Unit, check_value, parse
from .units import GIB, KIB, MIB, check_name, format_duration, format_size, split_address

__all__ = ["Options", "from_mapping", "setting", "settings"]

HEADERS_LIMIT: Final = 64 * KIB
"""Room kept for the header block of one message, as the reference server limits it."""

BATCH_OVERHEAD: Final = 4 * KIB
"""Room kept for what a batch adds to a single message: batch and entry headers, table, padding."""

SEGMENT_OVERHEAD: Final = 64 * KIB
"""Room kept in a log segment beside its largest batch: segment header, frames, trailer."""

DEFAULT_PEER_ADDRESS: Final = "127.0.0.1:6222"
DATA_DIRECTORY: Final = Path("trimaran-data")

Default = TypeVar("Default")


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
    admit: Literal["invited", "anybody"] = _setting(
        "invited",
        Unit.CHOICE,
        "Who becomes a member of the cluster: who was invited, or anybody who connects as a node.",
        "A member votes and gets messages; `anybody` is for networks where only nodes reach that port.",
        choices=("invited", "anybody"),
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
        flag="quiet-after",
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
    look_on: Literal["on", "off"] = _setting(
        "on",
        Unit.CHOICE,
        "While traffic is dense, look for more for up to 0.3 ms before sleeping.",
        "A small batch takes a quarter less time; off where a busy processor costs more than that is worth.",
        choices=("on", "off"),
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
    node_log_cache_bytes: int = _setting(
        64 * MIB,
        Unit.SIZE,
        "Recent log of all groups together that is kept in memory, besides what the disk does not have yet.",
        "Two busy groups have all they want; of a hundred each keeps what its followers need next.",
        minimum=64 * KIB,
        maximum=64 * GIB,
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
    jetstream_domain: str | None = _setting(
        None,
        Unit.NAME,
        "JetStream's domain, the same on all nodes: `$JS.DOMAIN.API.` then means `$JS.API.`.",
        "Clients name a domain only where there are several.",
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
            check_value(each, getattr(self, each.field))
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
    # `parse` is what gives each field its type.
    known: dict[str, Any] = {setting(key).field: parse(setting(key), value) for key, value in values.items()}
    return Options(**known)


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
