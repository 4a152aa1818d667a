"""What /jsz tells of streams and consumers, and /varz of JetStream, in the reference's field names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .cluster.meta_state import META_GROUP
from .gateway.consumer_api import consumer_json
from .gateway.jetstream import FEATURE_LEVEL, cluster_json
from .stream.machine import StreamMachine
from .stream.views import ZERO_TIME, rfc3339, state_json

if TYPE_CHECKING:
    from .api import ApiDesk, ApiRouter
    from .cluster.meta_state import MetaState
    from .groups import Groups
    from .options import Options
    from .replica.group import Group

__all__ = ["MAIN_ACCOUNT", "META_NAME", "SYSTEM_ACCOUNT", "Asked", "JetStreamPage"]

MAIN_ACCOUNT: Final = "$G"
"""What the account with the streams is called."""
SYSTEM_ACCOUNT: Final = "$SYS"
"""What the one is called that the meta group belongs to."""
META_NAME: Final = "_meta_"

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Asked:
    """How much /jsz is to show; each implies those before it."""

    accounts: bool = False
    streams: bool = False
    consumers: bool = False
    config: bool = False
    """Configurations too."""


class JetStreamPage:
    """JetStream on one node. Looks at what is there and waits for nobody."""

    def __init__(
        self,
        options: Options,
        node: int,
        groups: Groups,
        meta: Callable[[], MetaState],
        desk: ApiDesk,
        router: ApiRouter,
        pinned: Callable[[], Mapping[int, int]],
    ) -> None:
        """`pinned`: bytes of the log that each group keeps."""
        self._options = options
        self._node = node
        self._groups = groups
        self._meta = meta
        self._desk = desk
        self._router = router
        self._pinned = pinned

    def page(self, asked: Asked) -> dict[str, object]:
        """The body of /jsz."""
        hosted = list(self._streams())
        states = [(group, machine.info()) for group, machine in hosted]
        led = [(group, state) for group, state in states if group.leads]
        page: dict[str, object] = {
            "server_id": f"{self._node:016X}",
            "now": rfc3339(self._desk.wall()),
            "config": self.config(),
            "limits": {},
            **self.stats(),
            "streams": len(states),
            "streams_leader": len(led),
            "consumers": sum(state.consumers for _, state in led),
            "consumers_leader": sum(state.consumers for _, state in led),
            "messages": sum(state.messages for _, state in states),
            "bytes": sum(state.bytes for _, state in states),
            "meta_cluster": self.meta_cluster(),
            "total": 1,
        }
        if asked.accounts:
            page["account_details"] = [self._account(hosted, asked)]
        return page

    def config(self) -> dict[str, object]:
        """What JetStream may take here; -1: as much as there is."""
        limits = self._desk.limits
        return {
            "max_memory": limits.max_memory,
            "max_storage": limits.max_storage,
            "store_dir": str(self._options.data),
            **({"domain": self._desk.domain} if self._desk.domain else {}),
            "sync_interval": 0,
            "sync_always": True,
            "strict": True,
        }

    def stats(self) -> dict[str, object]:
        """What this node's replicas take."""
        held, reserved = {"memory": 0, "file": 0}, {"memory": 0, "file": 0}
        for _, machine in self._streams():
            config = machine.config
            if config is not None:
                held[config.storage] += machine.info().bytes
                reserved[config.storage] += max(0, config.max_bytes)
        total, errors = self._router.counts
        return {
            "memory": held["memory"],
            "storage": held["file"],
            "reserved_memory": reserved["memory"],
            "reserved_storage": reserved["file"],
            "accounts": 1,
            "ha_assets": sum(len(group.state.membership.members) > 1 for group in self._groups.hosted()),
            "api": {"level": FEATURE_LEVEL, "total": total, "errors": errors},
        }

    def meta_cluster(self) -> dict[str, object]:
        """The group that knows which streams there are."""
        names = {node: record.name for node, record in self._meta().nodes.items()}
        group = self._groups.get(META_GROUP)
        shown: dict[str, object] = {"leader": ""}
        if group is not None:
            state, log = group.state, group.state.log
            shown |= cluster_json(self._desk.cluster_of(META_GROUP))
            shown |= {
                "peer": f"{self._node:016x}",
                "quorum_needed": state.membership.quorum(),
                "pending": state.commit - group.applier.applied,
                "pending_requests": 0,
                "pending_infos": 0,
                "snapshot": {
                    "pending_entries": log.last_index - log.first_index + 1,
                    "pending_size": self._pinned().get(META_GROUP, 0),
                    "last_time": rfc3339(group.snapshots.ended) if group.snapshots.ended else ZERO_TIME,
                },
            }
        return {"name": self._options.cluster_name, **shown, "cluster_size": len(names)}

    def _streams(self) -> Iterator[tuple[Group, StreamMachine]]:
        for group in self._groups.hosted():
            if isinstance(group.machine, StreamMachine):
                yield group, group.machine

    def _account(self, hosted: list[tuple[Group, StreamMachine]], asked: Asked) -> dict[str, object]:
        shown: dict[str, object] = {"name": MAIN_ACCOUNT, "id": MAIN_ACCOUNT, **self.stats()}
        if asked.streams:
            shown["stream_detail"] = [self._stream(group, machine, asked) for group, machine in hosted]
        return shown

    def _stream(self, group: Group, machine: StreamMachine, asked: Asked) -> dict[str, object]:
        assignment = self._meta().groups.get(group.number)
        cluster = cluster_json(self._desk.cluster_of(group.number))
        shown: dict[str, object] = {
            "name": group.name,
            "created": rfc3339(assignment.created if assignment is not None else 0),
            "cluster": cluster,
            "state": state_json(machine.info()),
            "stream_raft_group": group.name,
        }
        if asked.config:
            shown["config"] = machine.config.to_json() if machine.config is not None else {}
        if asked.consumers:
            shown["consumer_detail"] = list(self._consumers(group, cluster, asked))
        return shown

    def _consumers(self, group: Group, cluster: Json, asked: Asked) -> Iterator[Json]:
        """Those of a stream that this node leads: elsewhere nobody knows what waits and what is pending."""
        delivery = self._desk.serving(group.number)
        if delivery is None:
            return
        for name in delivery.names():
            led = delivery.find(name)
            if led is not None:
                shown = consumer_json(led, group.name, cluster, self._desk.wall())
                yield shown if asked.config else {k: v for k, v in shown.items() if k != "config"}
