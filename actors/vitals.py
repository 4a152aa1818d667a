"""What a node tells about itself over HTTP: health, /varz, /raftz and /jsz, from what it already knows."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Final

from ..codec import IMPLEMENTATION
from ..storage.actor import Storage
from .gateway.gateway import Gateway
from .group import Group, GroupStatistics
from .groups import Groups
from .meta import META_GROUP, META_KIND, MetaState
from .options import Options
from .peers import Peers
from .proposals import Proposals
from .scrub import Scrub
from .stream.machine import StreamMachine
from .world import Clock

Json = Mapping[str, object]

STATISTICS: Final = tuple(field.name for field in fields(GroupStatistics))
CATCH_UP_SECONDS: Final = 1.0
"""A replica is healthy while what it has applied is at most this far behind what it knows to be committed."""


class Vitals:
    """`Monitored`: reads, never waits, never changes anything but its own memory of who lags since when."""

    def __init__(
        self,
        options: Options,
        version: str,
        node: int,
        storage: Storage,
        groups: Groups,
        peers: Peers,
        proposals: Proposals,
        gateway: Gateway,
        scrub: Scrub,
        clock: Clock,
        meta: Callable[[], MetaState],
        ready: Callable[[], bool],
    ) -> None:
        self._options = options
        self._version = version
        self._node = node
        self._storage = storage
        self._groups = groups
        self._peers = peers
        self._proposals = proposals
        self._gateway = gateway
        self._scrub = scrub
        self._clock = clock
        self._meta = meta
        self._ready = ready
        self._started = clock.wall()
        self._began = clock.monotonic()
        self._behind: dict[int, tuple[int, float]] = {}

    def health(self) -> Sequence[str]:
        """Reasons against: every hosted group must have a leader and have applied what is committed."""
        reasons: list[str] = []
        if self._storage.failed is not None:
            reasons.append(f"the log has failed: {self._storage.failed}")
        if self._storage.full is not None:
            reasons.append(f"streams led here take no more messages: {self._storage.full}")
        if self._groups.get(META_GROUP) is None:
            missing = {name for name, _ in self._options.peers} - self._peers.linked().keys()
            waiting = f": waiting for {', '.join(sorted(missing))}" if missing else ""
            reasons.append(f"this node belongs to no cluster yet{waiting}")
        elif not self._ready():
            reasons.append("this node is starting its groups")
        for group in self._groups.hosted():
            reason = self._group_reason(group)
            if reason is not None:
                reasons.append(f"{group.machine.kind} {group.name}: {reason}")
        return reasons

    def _group_reason(self, group: Group) -> str | None:
        if group.failed:
            return group.failed
        if group.state.faulty:
            return group.repair.waits_for or "it is damaged, and repair has only begun"
        if self._groups.leadership(group.number) is None:
            return "no leader is known"
        if group.state.node not in group.state.membership.voters:
            return "this node is a learner that has not caught up yet"
        if group.applier.applied >= group.state.commit:
            self._behind.pop(group.number, None)
            return None
        # Behind is normal for a moment under load; what counts is not having reached an old commit in time.
        now = self._clock.monotonic()
        target, since = self._behind.setdefault(group.number, (group.state.commit, now))
        if group.applier.applied >= target:
            self._behind[group.number] = (group.state.commit, now)
            return None
        return "applying is behind what is committed" if now - since > CATCH_UP_SECONDS else None

    def varz(self) -> Json:
        options, gateway, storage = self._options, self._gateway.statistics(), self._storage.statistics()
        host, port = self._gateway.address
        return {
            "server_id": f"{self._node:016X}",
            "server_name": options.name,
            "version": self._version,
            "proto": 1,
            "host": host,
            "port": port,
            "codec": IMPLEMENTATION,
            "max_connections": options.max_connections,
            "max_control_line": options.max_control_line,
            "max_payload": options.max_payload,
            "max_pending": options.max_pending,
            "start": rfc3339(self._started),
            "now": rfc3339(self._clock.wall()),
            "uptime_seconds": round(self._clock.monotonic() - self._began, 3),
            "cpu_seconds": round(time.process_time(), 3),
            "connections": gateway.connections,
            "total_connections": gateway.total_connections,
            "subscriptions": gateway.subscriptions,
            "in_msgs": gateway.in_messages,
            "out_msgs": gateway.out_messages,
            "in_bytes": gateway.in_bytes,
            "out_bytes": gateway.out_bytes,
            "slow_consumers": gateway.slow_consumers,
            "gateway": asdict(gateway),
            "wal": {**asdict(storage), "syncs": storage.writes, "full": str(self._storage.full or "")},
            "scrub": asdict(self._scrub.statistics),
            "proposals": asdict(self._proposals.statistics()),
            "peers": {name: asdict(link) for name, link in self._peers.statistics().items()},
            "bad_peer_frames": self._peers.bad_frames,
            "unknown_peer_frames": self._peers.unknown_frames,
            "unknown_group_messages": self._groups.unknown_messages,
        }

    def raftz(self) -> Iterator[tuple[str, Json]]:
        names = {node: record.name for node, record in self._meta().nodes.items()}
        pinned = self._storage.pinned()
        for group in list(self._groups.hosted()):
            yield _label(group), self._raft(group, names) | {"pinned_bytes": pinned.get(group.number, 0)}

    def _raft(self, group: Group, names: Mapping[int, str]) -> dict[str, object]:
        state, statistics = group.state, group.statistics()
        peers: dict[str, object] = {}
        if state.leading is not None:
            now = self._clock.monotonic()
            for node, progress in state.leading.progress.items():
                peers[f"{node:016x}"] = {
                    "name": names.get(node, ""),
                    "state": progress.state.value,
                    "last_replicated_index": progress.match,
                    "last_seen_seconds": round(now - progress.last_contact, 3),
                }
        return {
            **{name: getattr(statistics, name) for name in STATISTICS},
            "id": f"{state.node:016x}",
            "leader": names.get(state.leader, f"{state.leader:016x}" if state.leader else ""),
            "quorum_needed": state.membership.quorum(),
            "snapshots_taken": group.snapshots.taken,
            "snapshot_began": group.snapshots.began,
            "snapshot_ended": group.snapshots.ended,
            "snapshots_sent": group.snapshots.sent,
            "snapshots_installed": group.snapshots.installed,
            "peers": peers,
        }

    def jsz(self) -> Json:
        streams: list[Json] = []
        messages = size = 0
        for group in self._groups.hosted():
            if isinstance(group.machine, StreamMachine):
                state = group.machine.info()
                messages += state.messages
                size += state.bytes
                streams.append(
                    {
                        "name": group.name,
                        "messages": state.messages,
                        "bytes": state.bytes,
                        "first_seq": state.first_seq,
                        "last_seq": state.last_seq,
                        "leader": group.leads,
                    }
                )
        return {
            "streams": len(streams),
            "consumers": 0,
            "messages": messages,
            "bytes": size,
            "meta_cluster": {"name": self._options.cluster_name, "cluster_size": len(self._meta().nodes)},
            "stream_details": streams,
        }


def _label(group: Group) -> str:
    return "_meta_" if group.machine.kind == META_KIND else group.name


def rfc3339(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC, to the millisecond."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1_000_000:03d}Z"
