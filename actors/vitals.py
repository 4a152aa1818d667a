"""What a node tells about itself over HTTP: health, /varz, /raftz and /jsz, from what it already knows."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Final, cast

from ..codec import IMPLEMENTATION
from ..storage.actor import Storage
from ..storage.histogram import BATCH_BOUNDS, SECONDS_BOUNDS, Histogram
from .cluster.meta_state import META_GROUP, META_KIND, MetaState
from .gateway.client import PINGS_MAX
from .gateway.gateway import Gateway
from .groups import Groups
from .jsz import MAIN_ACCOUNT, META_NAME, SYSTEM_ACCOUNT, Asked, JetStreamPage
from .metrics import Family, exposition, of_histogram
from .options import Options
from .overview import Overview, most_memory
from .peers.peers import Peers
from .proposals import Proposals
from .replica.group import Group
from .replica.group_statistics import GroupStatistics
from .scrub import Scrub
from .stream.consumer import Consumer
from .stream.durations import show_duration
from .stream.machine import StreamMachine
from .units import split_address
from .world import Clock

Json = Mapping[str, object]

VARZ_METRICS: Final = (
    ("connections", "gauge", "Clients connected"),
    ("total_connections", "counter", "Clients since the start"),
    ("subscriptions", "gauge", "Subscriptions of clients"),
    ("in_msgs", "counter", "Messages from clients"),
    ("out_msgs", "counter", "Messages to clients"),
    ("in_bytes", "counter", "Bytes from clients"),
    ("out_bytes", "counter", "Bytes to clients"),
    ("slow_consumers", "counter", "Clients closed because they read too slowly"),
    ("routes", "gauge", "Links to other nodes that stand"),
    ("mem", "gauge", "Most memory this process has had, in bytes"),
)
STATISTICS: Final = tuple(field.name for field in fields(GroupStatistics))
STATES: Final = {"leader": "LEADER", "follower": "FOLLOWER", "candidate": "CANDIDATE", "learner": "OBSERVER"}
"""What the reference calls a replica's roles."""
NOTHING_MORE: Final = Asked()
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
        missing: Callable[[], Sequence[str]],
        overview: Overview,
        jetstream: JetStreamPage,
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
        self._missing = missing
        self._overview = overview
        self._jetstream = jetstream
        self._started = clock.wall()
        self._began = clock.monotonic()
        self._behind: dict[int, tuple[int, float]] = {}

    def health(self) -> Sequence[str]:
        """Reasons against: every group that belongs here must run, have a leader, and have applied what is
        committed."""
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
        return reasons + list(self._missing())

    def _group_reason(self, group: Group) -> str | None:
        if group.failed:
            return group.failed
        if group.state.faulty:
            return group.repair.waits_for or "it is damaged, and repair has only begun"
        if differ := group.repair.divergence.undecided:
            return f"replicas differ and nobody can say who is right, so nothing is committed: index {differ}"
        if group.repair.in_vain:
            return f"no replica has it, and nobody gets a snapshot from here: {group.repair.waits_for}"
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
            "uptime": show_uptime(self._clock.monotonic() - self._began),
            "uptime_seconds": round(self._clock.monotonic() - self._began, 3),
            "cpu": round(100 * time.process_time() / max(1e-3, self._clock.monotonic() - self._began), 1),
            "cpu_seconds": round(time.process_time(), 3),
            "connections": gateway.connections,
            "total_connections": gateway.total_connections,
            "subscriptions": gateway.subscriptions,
            "in_msgs": gateway.in_messages,
            "out_msgs": gateway.out_messages,
            "in_bytes": gateway.in_bytes,
            "out_bytes": gateway.out_bytes,
            "in_client_msgs": gateway.in_messages,
            "out_client_msgs": gateway.out_messages,
            "in_client_bytes": gateway.in_bytes,
            "out_client_bytes": gateway.out_bytes,
            "slow_consumers": gateway.slow_consumers,
            "slow_consumer_stats": _by_kind(gateway.slow_consumers),
            "stale_connections": gateway.stale_connections,
            "stale_connection_stats": _by_kind(gateway.stale_connections),
            "connect_urls": self._gateway.urls(),
            "cluster": self._cluster(),
            "system_account": SYSTEM_ACCOUNT,
            "jetstream": {
                "config": self._jetstream.config(),
                "stats": self._jetstream.stats(),
                "meta": self._jetstream.meta_cluster(),
                "limits": {},
            },
            "auth_timeout": options.auth_timeout_ms / 1000,
            "ping_interval": options.ping_interval_ms * 1_000_000,
            "ping_max": PINGS_MAX,
            "gomaxprocs": 1,
            "remotes": len(self._peers.linked()),
            "leafnodes": 0,
            "config_load_time": rfc3339(self._started),
            "cores": os.cpu_count() or 1,
            "mem": most_memory(),
            "routes": sum(link.up for link in self._peers.statistics().values()),
            "http_host": split_address(options.http)[0] if options.http else "",
            "http_port": split_address(options.http)[1] if options.http else 0,
            "http_base_path": "",
            "https_port": 0,
            "gateway": asdict(gateway),
            "wal": {**asdict(storage), "syncs": storage.writes, "full": str(self._storage.full or "")},
            "scrub": asdict(self._scrub.statistics),
            "proposals": asdict(self._proposals.statistics()),
            "peers": {name: asdict(link) for name, link in self._peers.statistics().items()},
            "bad_peer_frames": self._peers.bad_frames,
            "unknown_peer_frames": self._peers.unknown_frames,
            "unknown_group_messages": self._groups.unknown_messages,
        }

    def _cluster(self) -> Json:
        """Where the other nodes are reached."""
        host, port = split_address(self._peers.me.address) if self._peers.me.address else ("", 0)
        urls = [record.address for record in self._meta().nodes.values() if record.node != self._node]
        return {
            "name": self._options.cluster_name,
            "addr": host,
            "cluster_port": port,
            "urls": urls,
            "pool_size": 1,
        }

    def raftz(self) -> Iterator[tuple[str, Json]]:
        names = {node: record.name for node, record in self._meta().nodes.items()}
        pinned = self._storage.pinned()
        for group in list(self._groups.hosted()):
            kept = pinned.get(group.number, 0)
            yield _label(group), self._raft(group, names, kept) | {"pinned_bytes": kept}

    def _raft(self, group: Group, names: Mapping[int, str], pinned: int) -> dict[str, object]:
        state, statistics = group.state, group.statistics()
        peers: dict[str, object] = {}
        if state.leading is not None:
            now = self._clock.monotonic()
            for node, progress in state.leading.progress.items():
                peers[f"{node:016x}"] = {
                    "name": names.get(node, ""),
                    "state": progress.state.value,
                    "last_replicated_index": progress.match,
                    "known": node in names,
                    "last_seen": show_duration(max(0, int((now - progress.last_contact) * 1e9))),
                    "last_seen_seconds": round(now - progress.last_contact, 3),
                }
        return {
            **{name: getattr(statistics, name) for name in STATISTICS},
            "id": f"{state.node:016x}",
            "state": STATES.get(statistics.role, statistics.role.upper()),
            "size": len(state.membership.members),
            "committed": state.commit,
            "ever_had_leader": state.term > 0,
            "voted_for": f"{state.vote:016x}" if state.vote else "",
            "pterm": state.log.last.term,
            "pindex": state.log.last_index,
            "system_account": True,
            "traffic_account": SYSTEM_ACCOUNT,
            "wal": {
                "messages": state.log.last_index - state.log.first_index + 1,
                "first_seq": state.log.first_index,
                "last_seq": state.log.last_index,
                "bytes": pinned,
            },
            "leader": names.get(state.leader, f"{state.leader:016x}" if state.leader else ""),
            "quorum_needed": state.membership.quorum(),
            "snapshots_taken": group.snapshots.taken,
            "snapshot_began": group.snapshots.began,
            "snapshot_ended": group.snapshots.ended,
            "snapshots_sent": group.snapshots.sent,
            "snapshots_installed": group.snapshots.installed,
            "peers": peers,
        }

    def jsz(self, asked: Asked = NOTHING_MORE) -> Json:
        return self._jetstream.page(asked)

    def connz(self, offset: int, limit: int, *, subscriptions: bool) -> Json:
        connections = self._gateway.connz(offset, limit, self._clock.wall(), subscriptions=subscriptions)
        return {
            "server_id": f"{self._node:016X}",
            "now": rfc3339(self._clock.wall()),
            "num_connections": len(connections),
            "total": self._gateway.statistics().connections,
            "offset": offset,
            "limit": limit,
            "connections": connections,
        }

    def routez(self) -> Json:
        links = self._peers.statistics()
        linked = self._peers.linked()
        routes = [
            {
                "rid": number,
                "remote_id": f"{linked[name]:016X}" if name in linked else "",
                "remote_name": name,
                "did_solicit": True,
                "is_configured": name in dict(self._options.peers),
                "pending_size": link.queued_bytes,
                "out_msgs": link.sent_frames,
                "out_bytes": link.sent_bytes,
                "compression": "off",
                **asdict(link),
            }
            for number, (name, link) in enumerate(sorted(links.items()), 1)
        ]
        return {
            "server_id": f"{self._node:016X}",
            "server_name": self._options.name,
            "now": rfc3339(self._clock.wall()),
            "num_routes": sum(link.up for link in links.values()),
            "routes": routes,
        }

    def subsz(self, offset: int, limit: int, *, subscriptions: bool) -> Json:
        count = self._gateway.statistics().subscriptions
        shown: dict[str, object] = {
            "server_id": f"{self._node:016X}",
            "now": rfc3339(self._clock.wall()),
            "num_subscriptions": count,
            "total": count,
            "offset": offset,
            "limit": limit,
        }
        if subscriptions:
            shown["subscriptions_list"] = self._gateway.subsz(offset, limit)
        return shown

    def accountz(self, account: str) -> Json:
        clients: dict[str, list[int]] = {MAIN_ACCOUNT: []}
        for name in self._gateway.account_names():
            clients[name] = []
        for client in self._gateway.clients():
            name = client.account.name.decode() or MAIN_ACCOUNT
            clients.setdefault(name, []).append(len(client.subscriptions))
        shown: dict[str, object] = {
            "server_id": f"{self._node:016X}",
            "now": rfc3339(self._clock.wall()),
            "system_account": SYSTEM_ACCOUNT,
        }
        if not account:
            return shown | {"accounts": list(clients)}
        if account in clients:
            shown["account_detail"] = {
                "account_name": account,
                "name_tag": account,
                "update_time": rfc3339(self._started),
                "expired": False,
                "complete": True,
                "jetstream_enabled": account == MAIN_ACCOUNT and self._options.jetstream == "on",
                "leafnode_connections": 0,
                "client_connections": len(clients[account]),
                "subscriptions": sum(clients[account]),
            }
        return shown

    def statusz(self) -> Json:
        return self._overview.statusz()

    def metrics(self) -> Iterator[str]:
        common = {"server_id": f"{self._node:016X}", "server_name": self._options.name}
        return exposition(self._families(), common | {"cluster": self._options.cluster_name})

    def _families(self) -> Iterator[Family]:
        varz = self.varz()
        for name, kind, text in VARZ_METRICS:
            yield Family(f"gnatsd_varz_{name}", kind, text).add(float(str(varz[name])))
        healthy = 0.0 if self.health() else 1.0
        yield Family("gnatsd_healthz_status_value", "gauge", "1: /healthz says ok").add(healthy)
        streams = [group for group in self._groups.hosted() if isinstance(group.machine, StreamMachine)]
        yield from _stream_families(streams)
        yield from self._raft_families(list(self._groups.hosted()))
        storage = self._storage.statistics()
        yield Family("jetstream_raft_fsyncs_total", "counter", "Writes to the log, each with a sync").add(
            storage.writes
        )
        yield of_histogram(
            "jetstream_raft_fsync_seconds",
            "Time of a write to the log and its sync",
            self._storage.sync_seconds,
        )
        log_bytes = Family("jetstream_raft_log_bytes", "gauge", "Bytes of the log of all groups")
        yield log_bytes.add(storage.log_bytes)
        full = Family("jetstream_raft_disk_full", "gauge", "1: streams led here take no more messages")
        yield full.add(self._storage.full is not None)
        pinned = Family("jetstream_raft_pinned_bytes", "gauge", "Closed segments that a group keeps")
        for number, size in self._storage.pinned().items():
            group = self._groups.get(number)
            pinned.add(size, group=_label(group) if group is not None else str(number))
        yield pinned

    def _raft_families(self, groups: Sequence[Group]) -> Iterator[Family]:
        sizes = Histogram(BATCH_BOUNDS).add(group.batch_sizes for group in groups)
        yield of_histogram("jetstream_raft_entries_per_append", "Entries of a batch", sizes)
        commits = Histogram(SECONDS_BOUNDS).add(group.commit_seconds for group in groups)
        yield of_histogram(
            "jetstream_raft_commit_seconds",
            "From sealing a batch on its leader to having applied it",
            commits,
        )
        elections = Family("jetstream_raft_elections_total", "counter", "Elections this node stood for")
        yield elections.add(sum(group.elections for group in groups))
        changes = Family("jetstream_raft_leader_changes_total", "counter", "Elections this node won")
        yield changes.add(sum(group.leaderships for group in groups))
        leading = [group for group in groups if group.leads]
        yield Family("jetstream_raft_groups", "gauge", "Groups on this node").add(len(groups))
        yield Family("jetstream_raft_groups_led", "gauge", "Groups this node leads").add(len(leading))
        apply_lag = Family("jetstream_raft_apply_lag", "gauge", "Batches committed and not applied here")
        for group in groups:
            apply_lag.add(group.state.commit - group.applier.applied, group=_label(group))
        yield apply_lag
        names = {node: record.name for node, record in self._meta().nodes.items()}
        peer_lag = Family("jetstream_raft_peer_lag", "gauge", "Batches a follower is behind its leader")
        for group in leading:
            progress = group.state.leading.progress if group.state.leading is not None else {}
            for node, each in progress.items():
                lag = max(0, group.state.commit - each.match)
                peer_lag.add(lag, group=_label(group), peer=names.get(node, f"{node:016x}"))
        yield peer_lag


STREAM_METRICS: Final = (
    ("total_messages", "messages", "Messages of the stream"),
    ("total_bytes", "bytes", "Bytes of the stream"),
    ("first_seq", "first_seq", "First sequence"),
    ("last_seq", "last_seq", "Last sequence"),
    ("consumer_count", "consumers", "Consumers"),
    ("subject_count", "num_subjects", "Subjects that have messages"),
)
CONSUMER_METRICS: Final[Sequence[tuple[str, Callable[[Consumer], int]]]] = (
    ("delivered_consumer_seq", lambda each: each.delivered.consumer),
    ("delivered_stream_seq", lambda each: each.delivered.stream),
    ("ack_floor_consumer_seq", lambda each: each.floor.consumer),
    ("ack_floor_stream_seq", lambda each: each.floor.stream),
    ("num_ack_pending", lambda each: len(each.pending)),
    ("num_redelivered", lambda each: sum(pending.count > 1 for pending in each.pending.values())),
)


def _stream_families(groups: Sequence[Group]) -> Iterator[Family]:
    machines = [(group, cast(StreamMachine, group.machine)) for group in groups]
    states = [(group, machine.info()) for group, machine in machines]
    total = "jetstream_server_total_"
    yield Family(f"{total}streams", "gauge", "Streams on this node").add(len(groups))
    yield Family(f"{total}consumers", "gauge", "Their consumers").add(sum(s.consumers for _, s in states))
    yield Family(f"{total}messages", "gauge", "Their messages").add(sum(s.messages for _, s in states))
    yield Family(f"{total}message_bytes", "gauge", "Their bytes").add(sum(s.bytes for _, s in states))
    for name, attribute, text in STREAM_METRICS:
        family = Family(f"jetstream_stream_{name}", "gauge", text)
        for group, state in states:
            leads = "true" if group.leads else "false"
            family.add(getattr(state, attribute), stream_name=group.name, is_stream_leader=leads)
        yield family
    for name, read in CONSUMER_METRICS:
        family = Family(f"jetstream_consumer_{name}", "gauge", name.replace("_", " "))
        for group, machine in machines:
            leads = "true" if group.leads else "false"
            for each in machine.consumers:
                labels = {"stream_name": group.name, "consumer_name": each.name, "is_consumer_leader": leads}
                family.add(read(each), **labels)
        yield family


def _by_kind(clients: int) -> Json:
    """A count of the clients' connections beside those of kinds that are not there."""
    return {"clients": clients, "routes": 0, "gateways": 0, "leafs": 0}


def show_uptime(seconds: float) -> str:
    """As the reference shows it: `1d2h3m4s`, from the largest unit that is there."""
    shown, rest = "", int(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        count, rest = divmod(rest, size)
        shown += f"{count}{unit}" if count or shown else ""
    return f"{shown}{rest}s"


def _label(group: Group) -> str:
    return META_NAME if group.machine.kind == META_KIND else group.name


def rfc3339(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC, to the millisecond."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1_000_000:03d}Z"
