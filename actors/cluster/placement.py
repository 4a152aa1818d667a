"""Which nodes hold a group's replicas: rules over plain numbers, decided at apply, so equal on every node.

Spread first (the least loaded nodes), disturb little (who holds a replica keeps it where possible).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol


class Placed(Protocol):
    """The part of an assignment that placement looks at."""

    @property
    def replicas(self) -> tuple[int, ...]: ...


def hosted(nodes: Iterable[int], groups: Iterable[Placed]) -> dict[int, int]:
    """Node -> how many replicas it is to hold."""
    load = dict.fromkeys(nodes, 0)
    for group in groups:
        for node in group.replicas:
            load[node] = load.get(node, 0) + 1
    return load


def first(nodes: Iterable[int], groups: Iterable[Placed]) -> dict[int, int]:
    """Node -> in how many replica sets it comes first, which is where a leader is at home."""
    led = dict.fromkeys(nodes, 0)
    for group in groups:
        led[group.replicas[0]] = led.get(group.replicas[0], 0) + 1
    return led


def place(load: Mapping[int, int], led: Mapping[int, int], count: int) -> tuple[int, ...]:
    """The `count` least loaded nodes of `load`; the one that comes first least often comes first."""
    chosen = sorted(load, key=lambda node: (load[node], node))[:count]
    return tuple(sorted(chosen, key=lambda node: (led.get(node, 0), node)))


def resize(replicas: Sequence[int], load: Mapping[int, int], count: int, keep: int = 0) -> tuple[int, ...]:
    """A replica set of another size: newcomers are the least loaded, the most loaded leave, `keep` stays.

    `load` holds every node that may take a replica. Returns fewer than `count` if there are too few.
    """
    left = list(replicas)
    while len(left) > count:
        left.remove(max((node for node in left if node != keep), key=lambda node: (load.get(node, 0), node)))
    newcomers = sorted((node for node in load if node not in left), key=lambda node: (load[node], node))
    return (*left, *newcomers[: count - len(left)])


def substitute(
    replicas: Sequence[int], load: Mapping[int, int], leaving: int, heir: int = 0
) -> tuple[int, ...]:
    """The set with `leaving` replaced by `heir` or the least loaded other node; shorter if there is none."""
    rest = [node for node in load if node not in replicas and node != leaving]
    chosen = heir if heir in rest else min(rest, key=lambda node: (load[node], node), default=0)
    swapped = (chosen if node == leaving else node for node in replicas)
    return tuple(node for node in swapped if node)


def even_out(
    sets: Mapping[int, tuple[int, ...]], nodes: Iterable[int], moves: int
) -> dict[int, tuple[int, ...]]:
    """Replica sets in which no node of `nodes` holds two more than another, as far as `moves` replicas allow,
    and which one comes first as evenly as possible. Only the sets that change, by the group's number.
    """
    after = dict(sets)
    load = dict.fromkeys(nodes, 0)
    for replicas in after.values():
        for node in replicas:
            load[node] = load.get(node, 0) + 1
    for _ in range(moves):
        if not _move_one(after, load):
            break
    _spread_first(after, load)
    return {group: replicas for group, replicas in after.items() if replicas != sets[group]}


def _move_one(sets: dict[int, tuple[int, ...]], load: dict[int, int]) -> bool:
    """Move one replica from the fullest node to the emptiest that may take it; False: it is even."""
    for full in sorted(load, key=lambda node: (-load[node], node)):
        for empty in sorted(load, key=lambda node: (load[node], node)):
            if load[full] - load[empty] < 2:
                break
            for group in sorted(sets):
                if full in sets[group] and empty not in sets[group]:
                    sets[group] = tuple(empty if node == full else node for node in sets[group])
                    load[full] -= 1
                    load[empty] += 1
                    return True
    return False


def _spread_first(sets: dict[int, tuple[int, ...]], load: Mapping[int, int]) -> None:
    """Put first, in each set, its member that comes first least often, while that evens things out."""
    led = dict.fromkeys(load, 0)
    for replicas in sets.values():
        led[replicas[0]] += 1
    changed = True
    while changed:
        changed = False
        for group in sorted(sets):
            best = min(sets[group], key=lambda node: (led[node], node))
            before = sets[group][0]
            if led[before] - led[best] >= 2:
                sets[group] = (best, *(node for node in sets[group] if node != best))
                led[before] -= 1
                led[best] += 1
                changed = True
