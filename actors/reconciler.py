"""The reconciler: a leader turns desired state into single steps of its group's own log (DESIGN 8).

Meta says what a group should be: its replicas and its configuration. Whoever leads the group proposes one
membership change at a time, or the next configuration, until its log says the same. It is level-triggered: it
compares, it never remembers what it did, so a new leader goes on where the old one stopped.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Final

import trio

from ..codec import Chunk
from .group import Group, NotDone
from .membership import Change, ChangeKind, Membership
from .meta import META_GROUP, Assignment, MetaState
from .world import Clock

logger = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 0.25
STEP_SECONDS: Final = 5.0


def next_change(members: Membership, desired: frozenset[int]) -> Change | None:
    """The next single change from these members towards the desired voters, or None when there.

    New members come in as learners and are promoted (the leader refuses until they have caught up) before
    anyone leaves, so the group never has fewer able voters than it should.
    """
    for node in sorted(desired - members.members - members.removed):
        return Change(ChangeKind.ADD_LEARNER, node)
    for node in sorted(desired & members.learners):
        return Change(ChangeKind.PROMOTE, node)
    for node in sorted(members.members - desired):
        return Change(ChangeKind.REMOVE, node)
    return None


class Reconciler:
    """One task per node; acts only for the groups this node leads. `wake` asks for a look at once."""

    def __init__(
        self,
        clock: Clock,
        led: Callable[[], Mapping[int, Group]],
        meta: Callable[[], MetaState],
        configure: Callable[[Group, Assignment], Chunk | None],
        due: Callable[[Group], int | None],
    ) -> None:
        self._clock = clock
        self._led = led
        self._meta = meta
        self._configure = configure
        self._due = due
        self._wake = trio.Event()
        self._busy: set[int] = set()

    def wake(self) -> None:
        """Desired state or a leadership changed."""
        self._wake.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                for number, group in self._led().items():
                    if number not in self._busy and self._differs(group):
                        self._busy.add(number)
                        nursery.start_soon(self._reconcile, group)
                with trio.move_on_after(PERIOD_SECONDS):
                    await self._wake.wait()
                self._wake = trio.Event()

    def _differs(self, group: Group) -> bool:
        assignment = self._meta().groups.get(group.number)
        desired = self._desired(group.number)
        return (
            (bool(desired) and next_change(group.state.membership, desired) is not None)
            or (assignment is not None and self._configure(group, assignment) is not None)
            or self._is_due(group)
        )

    def _desired(self, group: int) -> frozenset[int]:
        if group == META_GROUP:
            return frozenset(self._meta().nodes)
        assignment = self._meta().groups.get(group)
        # A group that meta no longer has is closed by its hosts; its members don't matter any more.
        return frozenset(assignment.replicas) if assignment is not None else frozenset()

    def _is_due(self, group: Group) -> bool:
        due = self._due(group)
        return due is not None and due <= self._clock.wall()

    async def _reconcile(self, group: Group) -> None:
        """One step of one group; what is refused is tried again at the next look."""
        try:
            with trio.move_on_after(STEP_SECONDS):
                await self._step(group)
        except NotDone as refused:
            logger.debug("group %s: %s", group.name, refused)
        finally:
            self._busy.discard(group.number)

    async def _step(self, group: Group) -> None:
        assignment = self._meta().groups.get(group.number)
        configuration = self._configure(group, assignment) if assignment is not None else None
        if configuration is not None:
            await group.propose_and_wait(configuration)
            return
        if self._is_due(group):
            await group.tick()
            return
        desired = self._desired(group.number)
        change = next_change(group.state.membership, desired) if desired else None
        if change is not None:
            await group.change_membership(change)
            logger.info("group %s: %s %016x", group.name, change.kind.value, change.node)
            self.wake()
