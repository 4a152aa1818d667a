"""Which faults a seed has, and how strong.

Uniform faults hide what needs a quiet moment, so every seed draws its own mix: some faults are off, others
are gentle or fierce. The two tiers read the same mix; a fault that a tier can't play is left out there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields, replace
from math import inf
from typing import TypeVar

NEVER = inf


def maybe(draw: random.Random, probability: float, low: float, high: float, otherwise: float = 0.0) -> float:
    """A strength in [low, high] with this probability, else `otherwise` (the fault is off)."""
    return draw.uniform(low, high) if draw.random() < probability else otherwise


@dataclass(frozen=True, slots=True)
class NetworkFaults:
    """Shares are of messages (or frames); times are virtual seconds, and means of exponentials."""

    delay: float = 0.002
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    """Share of messages that take up to `straggler` longer, and so arrive after later ones."""
    straggler: float = 0.3
    replay: float = 0.0
    """Share of messages that come once more, a second later (mean): after elections and restarts."""
    slow_links: float = 0.0
    """Share of directed links on which everything takes 20 times `delay`."""
    partition_every: float = NEVER
    partition_for: float = 0.6
    depose_every: float = NEVER
    """The leader is cut off with proposals of its own, until another one leads: two histories meet again."""
    clog_every: float = NEVER
    """A directed link holds everything back for `clog_for`, then delivers it at once."""
    clog_for: float = 0.5
    reset_every: float = NEVER
    """A connection is reset, in the middle of a frame where there are frames."""

    @classmethod
    def drawn(cls, draw: random.Random) -> NetworkFaults:
        return cls(
            delay=draw.choice((0.0005, 0.003, 0.02)),
            loss=maybe(draw, 0.5, 0.0, 0.25),
            duplication=maybe(draw, 0.5, 0.0, 0.2),
            straggling=maybe(draw, 0.4, 0.0, 0.2),
            replay=maybe(draw, 0.3, 0.0, 0.05),
            slow_links=maybe(draw, 0.2, 0.1, 0.5),
            partition_every=maybe(draw, 0.5, 0.3, 1.5, NEVER),
            partition_for=draw.choice((0.3, 1.0, 2.0)),
            depose_every=maybe(draw, 0.4, 0.5, 2.0, NEVER),
            clog_every=maybe(draw, 0.3, 0.2, 1.0, NEVER),
            clog_for=draw.choice((0.2, 1.0)),
            reset_every=maybe(draw, 0.3, 0.2, 2.0, NEVER),
        )


@dataclass(frozen=True, slots=True)
class DiskFaults:
    """Times are virtual seconds, and means of exponentials."""

    sync: float = 0.002
    """How long one fdatasync takes."""
    stall_every: float = NEVER
    stall_for: float = 1.0
    """A sync that takes this much longer: past the deadline at which a leader steps down."""
    failed_sync: float = 0.0
    """Share of syncs that fail; the process must end, and what was to be synced may be lost."""
    tear: float = 0.5
    """Share of power losses after which unsynced writes survive in part: sectors of them, in any order.
    Otherwise they survive to the last or not at all."""
    garbage: float = 0.2
    """Share of unsynced sectors that then hold neither the old nor the new bytes."""
    flip_every: float = NEVER
    """Bits of something synced change on one node; an atlas keeps a good copy on others."""
    full_every: float = NEVER
    """No room on one node's disk for `full_for`."""
    full_for: float = 1.0

    @classmethod
    def drawn(cls, draw: random.Random) -> DiskFaults:
        return cls(
            sync=draw.choice((0.0005, 0.005, 0.04)),
            stall_every=maybe(draw, 0.2, 0.3, 2.0, NEVER),
            stall_for=draw.choice((0.3, 2.0)),
            failed_sync=maybe(draw, 0.2, 0.001, 0.02),
            tear=draw.choice((0.0, 0.5, 1.0)),
            garbage=draw.choice((0.0, 0.2)),
            flip_every=maybe(draw, 0.4, 0.05, 0.5, NEVER),
            full_every=maybe(draw, 0.15, 0.5, 2.0, NEVER),
            full_for=draw.choice((0.2, 1.0)),
        )


@dataclass(frozen=True, slots=True)
class ProcessFaults:
    """Times are virtual seconds, and means of exponentials."""

    crash_every: float = NEVER
    """Some process ends, or its machine loses power."""
    power_loss: float = 0.5
    """Share of crashes that lose power; after the others the kernel still has what was not synced."""
    down_for: float = 0.3
    storm_every: float = NEVER
    """Everyone crashes within 100 ms."""
    crash_after_vote: float = 0.0
    """Share of votes given or asked for after which the process crashes at once."""
    crash_at_truncation: float = 0.0
    crash_at_term_change: float = 0.0
    crash_at_apply: float = 0.0
    """Between the log's write and the state machine's."""
    crash_at_heal: float = 0.0
    """Share of partitions at whose end the newest leader crashes: who was cut off may stand with its own
    log."""
    crash_in_files: float = 0.0
    """Share of recoveries and snapshots inside which the power goes, between two operations on files."""
    pause_every: float = NEVER
    """A process stands still for `pause_for`: its timers fire late, what was sent to it waits."""
    pause_for: float = 0.5
    clock_jump_every: float = NEVER
    """A wall clock jumps by up to an hour, either way."""
    wipe: float = 0.0
    """Share of crashes of which a machine comes back with an empty disk (one at a time)."""

    @classmethod
    def drawn(cls, draw: random.Random) -> ProcessFaults:
        return cls(
            crash_every=maybe(draw, 0.7, 0.1, 1.5, NEVER),
            power_loss=draw.choice((0.2, 0.8, 1.0)),
            down_for=draw.choice((0.02, 0.3, 0.8)),
            storm_every=maybe(draw, 0.2, 0.3, 1.5, NEVER),
            crash_after_vote=maybe(draw, 0.3, 0.1, 0.7),
            crash_at_truncation=maybe(draw, 0.3, 0.1, 0.7),
            crash_at_term_change=maybe(draw, 0.2, 0.05, 0.3),
            crash_at_apply=maybe(draw, 0.3, 0.01, 0.1),
            crash_at_heal=maybe(draw, 0.4, 0.2, 0.8),
            crash_in_files=maybe(draw, 0.3, 0.05, 0.4),
            pause_every=maybe(draw, 0.3, 0.2, 1.5, NEVER),
            pause_for=draw.choice((0.1, 0.7, 2.0)),
            clock_jump_every=maybe(draw, 0.2, 0.3, 2.0, NEVER),
            wipe=maybe(draw, 0.1, 0.02, 0.2),
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What clients and operators do meanwhile. Times are virtual seconds, and means of exponentials."""

    propose_every: float = 0.02
    read_every: float = 0.1
    transfer_every: float = NEVER
    change_every: float = NEVER
    """Membership, or the number of replicas."""
    snapshot_after: int = 10**9
    """Applied batches."""
    lull_every: float = NEVER
    """Clients, but not operators, ask for nothing for `lull_for`: long enough for groups to rest. Core tier
    only."""
    lull_for: float = 0.7

    @classmethod
    def drawn(cls, draw: random.Random) -> Work:
        return cls(
            propose_every=draw.choice((0.005, 0.02, 0.1)),
            read_every=draw.choice((0.02, 0.1)),
            transfer_every=maybe(draw, 0.2, 0.3, 1.0, NEVER),
            change_every=maybe(draw, 0.3, 0.05, 0.6, NEVER),
            snapshot_after=draw.choice((3, 20, 10**9)),
        )


@dataclass(frozen=True, slots=True)
class Malice:
    """Misfortunes that wait for each other: what independent faults bring about too rarely. Core tier only.

    Shares are of the moments at which each may strike.
    """

    late: float = 0.0
    """Of leaders that take office or are cut off: messages of long ago, of any term, reach them."""
    company: float = 0.0
    """Of leaders cut off: a minority stays with them, and takes their entries."""
    tail: int = 10
    """So many proposals at most are asked of a leader that was cut off."""
    outdate: float = 0.0
    """Of leaders cut off: meanwhile the others take snapshots, so that the log behind them is gone."""
    give_back: float = 0.0
    """Of leaders cut off: soon after they return they are asked to lead again."""
    flip_newest: float = 0.0
    """Of flipped bits: in the batch that was synced last, by a process that ends at once."""
    cut_write: float = 0.0
    """Of writes with batches: the power goes before they are synced."""
    flip_vote: float = 0.0
    """Of terms and votes just synced: a bit of them flips where they lie, and the process ends at once."""
    slow_reads: float = 0.0
    """Of reads of the log for a follower: the answer, as of the begin, takes up to `slow_read`, or until the
    next read is asked for."""
    slow_read: float = 2.0
    cut_install: float = 0.0
    """Of snapshots of a peer that were installed: the power goes before, or while, the log hears of it."""
    invite_again: float = 0.0
    """Of removed nodes: somebody tries to take them in again."""
    blackout: bool = False
    """All that is under way when the faults end is lost, and nobody is told."""

    @classmethod
    def drawn(cls, draw: random.Random) -> Malice:
        """Nearly all of it together, or a little: the worst needs several of them at once."""
        likely = draw.choice((0.9, 0.9, 0.4, 0.1))
        return cls(
            late=maybe(draw, likely, 0.3, 1.0),
            company=maybe(draw, likely, 0.3, 1.0),
            tail=draw.choice((3, 10, 40)),
            outdate=maybe(draw, 0.6 * likely, 0.3, 1.0),
            give_back=maybe(draw, likely, 0.4, 1.0),
            flip_newest=maybe(draw, likely, 0.2, 0.8),
            cut_write=maybe(draw, 0.5 * likely, 0.001, 0.02),
            flip_vote=maybe(draw, 0.4 * likely, 0.02, 0.2),
            slow_reads=maybe(draw, likely, 0.1, 0.9),
            slow_read=draw.choice((0.5, 2.0, 6.0)),
            cut_install=maybe(draw, likely, 0.2, 0.8),
            invite_again=maybe(draw, likely, 0.3, 1.0),
            blackout=draw.random() < 0.5,
        )


@dataclass(frozen=True, slots=True)
class Mix:
    """Everything that a seed's run may suffer."""

    network: NetworkFaults = field(default_factory=NetworkFaults)
    disk: DiskFaults = field(default_factory=DiskFaults)
    process: ProcessFaults = field(default_factory=ProcessFaults)
    work: Work = field(default_factory=Work)
    malice: Malice = field(default_factory=Malice)

    @classmethod
    def drawn(cls, draw: random.Random) -> Mix:
        """The mix of a seed, from its stream "swarm"."""
        return cls(
            network=NetworkFaults.drawn(draw),
            disk=DiskFaults.drawn(draw),
            process=ProcessFaults.drawn(draw),
            work=Work.drawn(draw),
        )


Faults = TypeVar("Faults", NetworkFaults, DiskFaults, ProcessFaults, Malice)


def thinned(part: Faults, draw: random.Random, share: float) -> Faults:
    """Only about this share of the faults in it: some bugs need moments in which little else happens."""
    off = {
        each.name: each.default
        for each in fields(part)
        if each.default in (0.0, NEVER) and draw.random() >= share
    }
    return replace(part, **off)


def told(part: NetworkFaults | DiskFaults | ProcessFaults | Work | Malice) -> str:
    """What of it is not at its default, for a trace."""
    return " ".join(
        f"{each.name}={getattr(part, each.name):g}"
        for each in fields(part)
        if getattr(part, each.name) != each.default
    )
