"""The whole cluster as its status page shows it: a summary of each node, asked for only while somebody looks.

The page is served by any node and polls `/statusz` there. While it does, that node asks the others once a
second for a summary and keeps the newest of each, so that a request for the page waits for nobody. Nobody
looking costs nothing. What other nodes say is checked field by field before it is kept.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from ..storage.actor import Storage
from ..storage.histogram import BATCH_BOUNDS, SECONDS_BOUNDS, Histogram
from .cluster.meta_state import META_KIND, MetaState, NodeRecord
from .gateway.gateway import Gateway
from .groups import Groups
from .peers.peers import Peers
from .peers.requests import Malformed, PeerLost, Refusal, Requests
from .replica.group import Group
from .stream.machine import StreamMachine
from .world import Clock

__all__ = ["Overview", "checked", "most_memory"]

METHOD: Final = "summary"
ASK_SECONDS: Final = 1.0
"""Between two summaries of one node: as often as the page draws."""
ANSWER_SECONDS: Final = 2.0
LOOKED_AT_SECONDS: Final = 5.0
"""A page that was not asked for so long is not open any more."""
GROUPS_SHOWN: Final = 200
"""Groups in a summary; more would be no page for a person, and /raftz has them all."""
REASONS_SHOWN: Final = 8
TEXT_SHOWN: Final = 200
COUNTS_SHOWN: Final = 64
PEERS_SHOWN: Final = 32

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Heard:
    """A summary, and when it came."""

    summary: Json
    moment: float


class Overview:
    """Summaries of all nodes.

    Args:
        me: this node.
        version: the program's, for people.
        health: the reasons why this node is not healthy.
        meta: the applied meta state, which has the members.
    """

    def __init__(
        self,
        me: NodeRecord,
        version: str,
        cluster_name: str,
        storage: Storage,
        groups: Groups,
        gateway: Gateway,
        peers: Peers,
        requests: Requests,
        clock: Clock,
        meta: Callable[[], MetaState],
        health: Callable[[], Sequence[str]],
    ) -> None:
        self._me = me
        self._version = version
        self._cluster_name = cluster_name
        self._storage = storage
        self._groups = groups
        self._gateway = gateway
        self._peers = peers
        self._requests = requests
        self._clock = clock
        self._meta = meta
        self._health = health
        self._began = clock.monotonic()
        self._heard: dict[int, _Heard] = {}
        self._looked_at = -math.inf
        self._wanted = trio.Event()
        requests.handle(METHOD, self._on_question, ())

    async def run(self) -> None:
        """Ask the other nodes as long as somebody looks at the page."""
        while True:
            if self._clock.monotonic() - self._looked_at > LOOKED_AT_SECONDS:
                self._heard.clear()
                self._wanted = trio.Event()
                await self._wanted.wait()
            async with trio.open_nursery() as nursery:
                for node in list(self._peers.up()):
                    nursery.start_soon(self._ask, node)
            await trio.sleep(ASK_SECONDS)

    def statusz(self) -> Json:
        """What the page draws: every member with its newest summary, this node's first."""
        now = self._looked_at = self._clock.monotonic()
        self._wanted.set()
        members = {node: record.name for node, record in self._meta().nodes.items()}
        shown: list[Json] = [
            {
                "name": self._me.name,
                "id": f"{self._me.node:016x}",
                "age_seconds": 0.0,
                "summary": self.summary(),
            }
        ]
        for node, name in sorted(members.items(), key=lambda item: item[1]):
            if node != self._me.node:
                heard = self._heard.get(node)
                age = round(now - heard.moment, 3) if heard is not None else None
                summary = heard.summary if heard is not None else None
                shown.append({"name": name, "id": f"{node:016x}", "age_seconds": age, "summary": summary})
        return {
            "server_name": self._me.name,
            "cluster_name": self._cluster_name,
            "batch_bounds": BATCH_BOUNDS,
            "seconds_bounds": SECONDS_BOUNDS,
            "nodes": shown,
        }

    def summary(self) -> Json:
        """This node in a few hundred bytes, some hundred more for each group; counters since its start."""
        groups = list(self._groups.hosted())
        gateway, storage = self._gateway.statistics(), self._storage.statistics()
        sizes = Histogram(BATCH_BOUNDS).add(group.batch_sizes for group in groups)
        commits = Histogram(SECONDS_BOUNDS).add(group.commit_seconds for group in groups)
        names = {node: record.name for node, record in self._meta().nodes.items()}
        return {
            "version": self._version,
            "uptime_seconds": round(self._clock.monotonic() - self._began, 3),
            "cpu_seconds": round(time.process_time(), 3),
            "mem": most_memory(),
            "reasons": [reason[:TEXT_SHOWN] for reason in list(self._health())[:REASONS_SHOWN]],
            "connections": gateway.connections,
            "subscriptions": gateway.subscriptions,
            "in_msgs": gateway.in_messages,
            "out_msgs": gateway.out_messages,
            "in_bytes": gateway.in_bytes,
            "out_bytes": gateway.out_bytes,
            "slow_consumers": gateway.slow_consumers,
            "syncs": storage.writes,
            "log_bytes": storage.log_bytes,
            "sync_counts": list(self._storage.sync_seconds.counts),
            "commit_counts": list(commits.counts),
            "batch_counts": list(sizes.counts),
            "batch_entries": int(sizes.total),
            "elections": sum(group.elections for group in groups),
            "groups_total": len(groups),
            "groups_led": sum(group.leads for group in groups),
            "groups": [_group(group, names) for group in groups[:GROUPS_SHOWN]],
        }

    async def _ask(self, node: int) -> None:
        try:
            answer = await self._requests.ask(node, METHOD, [], ANSWER_SECONDS)
            self._heard[node] = _Heard(checked(answer), self._clock.monotonic())
        except (Refusal, PeerLost, trio.TooSlowError):
            pass  # the page shows how old the last one is

    async def _on_question(self, asker: int, argument: object) -> object:
        return self.summary()


def _group(group: Group, names: Mapping[int, str]) -> Json:
    state, machine = group.state, group.machine
    is_meta = machine.kind == META_KIND
    shown: dict[str, object] = {
        "name": "_meta_" if is_meta else group.name,
        "kind": machine.kind,
        "role": state.role.value,
        "term": state.term,
        "commit": state.commit,
        "applied": group.applier.applied,
        "quiet": int(state.quiet),
        "trouble": (group.failed or ("damaged" if state.faulty else ""))[:TEXT_SHOWN],
        "lags": _lags(group, names),
    }
    if isinstance(machine, StreamMachine):
        info = machine.info()
        shown |= {"messages": info.messages, "bytes": info.bytes, "consumers": info.consumers}
    return shown


def _lags(group: Group, names: Mapping[int, str]) -> list[list[object]]:
    """[follower, batches it is behind what is committed], on the leader."""
    state = group.state
    progress = state.leading.progress if state.leading is not None else {}
    return [
        [names.get(node, f"{node:016x}"), max(0, state.commit - each.match)]
        for node, each in list(progress.items())[:PEERS_SHOWN]
    ]


def most_memory() -> int:
    """Most this process has had, in bytes; Linux counts in KiB, macOS in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


# --- what other nodes say --------------------------------------------------------------------------------

TEXTS: Final = ("version",)
NUMBERS: Final = (
    *("uptime_seconds", "cpu_seconds", "mem", "connections", "subscriptions", "in_msgs", "out_msgs"),
    *("in_bytes", "out_bytes", "slow_consumers", "syncs", "log_bytes", "batch_entries", "elections"),
    *("groups_total", "groups_led"),
)
COUNTS: Final = ("sync_counts", "commit_counts", "batch_counts")
GROUP_TEXTS: Final = ("name", "kind", "role", "trouble")
GROUP_NUMBERS: Final = ("term", "commit", "applied", "quiet")
STREAM_NUMBERS: Final = ("messages", "bytes", "consumers")


def checked(answer: object) -> Json:
    """Another node's summary, with the fields that this one knows; what it lacks is empty or 0.

    Raises Malformed: it is no summary. A number that JSON has no word for would break the page for everybody.
    """
    if not isinstance(answer, dict):
        raise Malformed("no summary")
    found: dict[str, object] = {name: _text(answer.get(name)) for name in TEXTS}
    found |= {name: _number(answer.get(name)) for name in NUMBERS}
    found |= {name: [_number(each) for each in _some(answer, name, COUNTS_SHOWN)] for name in COUNTS}
    found["reasons"] = [_text(each) for each in _some(answer, "reasons", REASONS_SHOWN)]
    found["groups"] = [_checked_group(each) for each in _some(answer, "groups", GROUPS_SHOWN)]
    return found


def _checked_group(answer: object) -> Json:
    if not isinstance(answer, dict):
        raise Malformed("no group")
    found: dict[str, object] = {name: _text(answer.get(name)) for name in GROUP_TEXTS}
    found |= {name: _number(answer.get(name)) for name in GROUP_NUMBERS}
    found |= {name: _number(answer.get(name)) for name in STREAM_NUMBERS if name in answer}
    found["lags"] = list(_checked_lags(_some(answer, "lags", PEERS_SHOWN)))
    return found


def _checked_lags(lags: Sequence[object]) -> Iterator[list[object]]:
    for each in lags:
        match each:
            case [name, lag]:
                yield [_text(name), _number(lag)]
            case _:
                raise Malformed("no lag of a follower")


def _some(answer: Mapping[object, object], name: str, most: int) -> Sequence[object]:
    value = answer.get(name, [])
    if not isinstance(value, list):
        raise Malformed(f"{name} is no list")
    return value[:most]


def _text(value: object) -> str:
    return value[:TEXT_SHOWN] if isinstance(value, str) else ""


def _number(value: object) -> float:
    return value if isinstance(value, int | float) and math.isfinite(value) else 0
