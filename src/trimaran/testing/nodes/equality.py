"""Whether replicas have the same state at the same index: what their machines have in common, part by part.

The rolling hash says that they applied the same batches. This says that the batches did the same to them, on
a replica that saw all of them as on one that began with somebody's snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgpack

from ...actors.replica.group import Group
from ...actors.stream.duplicates import unpack_ids
from ...actors.stream.machine import StreamMachine

OWN = ("blocks", "lost")
"""Of a stream's store: where its messages lie is each replica's own affair."""


def differences(groups: Mapping[str, Group]) -> list[str]:
    """Parts of the state in which replicas (by node) of one group differ, of those that are equally far."""
    by_index: dict[int, list[tuple[str, Mapping[str, object]]]] = {}
    for name, group in groups.items():
        by_index.setdefault(group.applier.applied, []).append((name, _state(group)))
    found: list[str] = []
    for index, states in by_index.items():
        (first, known), *others = states
        for name, state in others:
            parts = [part for part in known if state.get(part) != known[part]]
            found += [f"{part} on {first} and {name} at {index}" for part in parts]
    return found


def _state(group: Group) -> Mapping[str, object]:
    packed = group.machine.capture().state
    if not isinstance(group.machine, StreamMachine):
        return {"state": packed}
    state = cast("dict[str, object]", msgpack.unpackb(packed, strict_map_key=False))
    store = cast("dict[str, object]", state["store"])
    ids = state["duplicates"]
    return {
        "version": state["version"],
        "configuration": state["config"],
        "clock": state["clock"],
        "consumers": state["consumers"],
        "duplicate window": list(unpack_ids(ids)) if isinstance(ids, bytes) else ids,
        "messages": {name: value for name, value in store.items() if name not in OWN},
    }
