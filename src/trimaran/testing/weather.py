"""The network between simulated processes: what becomes of each message.

A message is lost, late, doubled, held back or delivered, each as the seed's draw decides. A link is directed:
it can be cut, slow or clogged one way only. The replicas promise to cope with all of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from random import Random
from typing import Any

from .heap import Heap
from .report import FaultCount
from .swarm import NetworkFaults

Link = tuple[int, int]
"""(from, to)."""
Deliver = Callable[[int, int, Any], None]
"""(from, to, message)."""

SLOW = 20
"""How much longer everything takes on a slow link."""
REMEMBERED = 60
"""So many messages of each kind to each node can still arrive late."""
GHOSTS = 30
"""At most so many of them at a time."""
REPLAYED_AFTER = 1.0
"""Seconds (mean) after which a message comes once more: elections and restarts later."""


class Weather:
    """All links of one cluster.

    Args:
        deliver: called with what arrives.
    """

    def __init__(
        self, heap: Heap, faults: NetworkFaults, draw: Random, struck: FaultCount, deliver: Deliver
    ) -> None:
        self.faults = faults
        self.cut: set[Link] = set()
        """What is sent on these is lost, and what was under way."""
        self._heap = heap
        self._draw = draw
        self._struck = struck
        self._deliver = deliver
        self._speed: dict[Link, float] = {}
        self._clogged: dict[Link, float] = {}
        self._sent: defaultdict[int, dict[str, list[tuple[int, Any]]]] = defaultdict(dict)
        """By receiver and kind: (sender, message), some of what was ever sent to it, most of it of late."""
        self.held_until = 0.0
        """When the last of what was sent so far arrives."""
        self._count = 0
        self._clear = False
        self._ages: dict[Link, int] = {}
        """How often a link was reset: what was sent in an earlier age never arrives."""

    def send(self, sender: int, peer: int, message: Any) -> None:
        """A message leaves. Whether and when it arrives is drawn now."""
        faults, draw, link = self.faults, self._draw, (sender, peer)
        if message is not None:
            self._remember(sender, peer, message)
        if link in self.cut:
            self._struck["cut off"] += 1
            return
        if faults.loss and draw.random() < faults.loss:
            self._struck["loss"] += 1
            return
        copies = 1
        if faults.duplication and draw.random() < faults.duplication:
            self._struck["duplication"] += 1
            copies = 2
        for _ in range(copies):
            self._heap.after(self._delay(link), self._arrive, link, message, self._ages.get(link, 0))
        if faults.replay and draw.random() < faults.replay:
            self._struck["late replay"] += 1
            self._heap.after(draw.expovariate(1 / REPLAYED_AFTER), self._arrive_again, link, message)

    def _delay(self, link: Link) -> float:
        faults, draw = self.faults, self._draw
        delay = draw.expovariate(1 / faults.delay) * self._speed_of(link)
        if faults.straggling and draw.random() < faults.straggling:
            self._struck["straggler"] += 1
            delay += draw.uniform(0, faults.straggler)
        held = self._clogged.get(link, 0.0) - self._heap.time
        if held > 0:
            self._struck["held back"] += 1
            delay += held
        self.held_until = max(self.held_until, self._heap.time + delay)
        return delay

    def _speed_of(self, link: Link) -> float:
        if not self.faults.slow_links:
            return 1.0
        speed = self._speed.get(link)
        if speed is None:
            slow = self._draw.random() < self.faults.slow_links
            self._struck["slow link"] += slow
            speed = self._speed[link] = SLOW if slow else 1.0
        return speed

    def _arrive(self, link: Link, message: Any, age: int) -> None:
        if link not in self.cut and age == self._ages.get(link, 0):
            self._deliver(*link, message)

    def _arrive_again(self, link: Link, message: Any) -> None:
        if link not in self.cut:
            self._arrive_late(link, message)

    def _arrive_late(self, link: Link, message: Any) -> None:
        """Whatever was reset in between, but not when the faults have ended."""
        if not self._clear:
            self._deliver(*link, message)

    def _remember(self, sender: int, peer: int, message: Any) -> None:
        """Every message of a kind at first, then every fifth in the place of another one."""
        sent = self._sent[peer].setdefault(type(message).__name__, [])
        self._count += 1
        if len(sent) < REMEMBERED:
            sent.append((sender, message))
        elif self._count % 5 == 0:
            sent[self._count * 7919 // 5 % REMEMBERED] = (sender, message)

    def haunt(self, peer: int, seconds: float) -> None:
        """Within so many seconds a few of the messages that were ever sent to a node arrive there, once more
        or at last, in any order and whatever is cut: they were on their way for long. Each kind of them is as
        likely, and mostly they are of older terms, if there are such."""
        kinds, draw = list(self._sent[peer].values()), self._draw
        newest = max((message.term for sent in kinds for _, message in sent), default=0)
        old = draw.random() < 0.7
        for _ in range(draw.randint(1, GHOSTS) if kinds else 0):
            sent = draw.choice(kinds)
            sender, message = draw.choice([each for each in sent if each[1].term < newest and old] or sent)
            self._struck["late message"] += 1
            self._heap.after(draw.uniform(0, seconds), self._arrive_late, (sender, peer), message)

    # --- what happens to links

    def is_cut(self, sender: int, peer: int) -> bool:
        return (sender, peer) in self.cut

    def sever(self, links: Iterable[Link]) -> None:
        self.cut.update(links)

    def isolate(self, some: Collection[int], others: Iterable[int]) -> None:
        """Nothing gets through between the two sides, either way."""
        for other in others:
            for one in some:
                self.cut |= {(one, other), (other, one)}

    def heal(self) -> list[Link]:
        """Everything gets through again; what was cut, in order."""
        healed, self.cut = sorted(self.cut), set()
        return healed

    def clog(self, link: Link, seconds: float) -> None:
        """Holds back what is sent on a link, then lets it through at once."""
        self._clogged[link] = self._heap.time + seconds

    def reset(self, link: Link) -> None:
        """Loses what is under way on a link."""
        self._ages[link] = self._ages.get(link, 0) + 1

    def clear_up(self) -> None:
        """No faults any more."""
        self._clear = True
        self.faults = NetworkFaults()
        self._clogged.clear()
