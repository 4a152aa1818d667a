"""The reconciler: a leader turns desired state into single steps of its group's own log (DESIGN 8).

Meta says what a group should be: its replicas and its configuration. Whoever leads the group proposes one
membership change at a time, or the next configuration, until its log says the same. It is level-triggered: it
compares, it never remembers what it did, so a new leader goes on where the old one stopped.

A leader may be behind with meta: it was restarted, or cut off. Acting on an old state would undo what
earlier leaders did on a newer one, and a removed id never returns. So before it changes members a leader
catches up with meta, and the change counts only in the term in which it began to.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from ...codec import Chunk
from ...storage.errors import StorageError
from ..raft.membership import Change, ChangeKind, Membership
from ..replica.group import Group, NotDone
from ..world import Clock
from .meta_state import META_GROUP, Assignment, MetaState

logger = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 0.25
IDLE_SECONDS: Final = 0.5  # between looks while nothing is unsettled: how late a clock may be heard
EVERYTHING_SECONDS: Final = 2.0  # every led group is compared so often, whatever woke nobody
STEP_SECONDS: Final = 5.0


def next_change(
    members: Membership,
    desired: frozenset[int],
    cluster: frozenset[int] = frozenset(),
    leader: int = 0,
    able: frozenset[int] | None = None,
) -> Change | None:
    """The next single change from these members towards the desired voters, or None when there.

    New members come in as learners and are promoted (the leader refuses until they have caught up) before
    anyone leaves, so the group never has fewer able voters than it should. Those leave first that are not
    `able` to vote now (None: all are), the leader last; and nobody while those who stay would have no able
    majority: such a step could neither be committed nor taken back. A node that stays in the `cluster` is
    released and may come back; any other id is removed for good.

    An id that is gone for good, that of a lost disk, leaves before its replacement comes in: a dead voter
    helps nobody, and a replacement that is damaged as well would wait for its word for ever.
    """
    able = members.voters if able is None else able
    leaving = [
        Change(ChangeKind.RELEASE if node in cluster else ChangeKind.REMOVE, node)
        for node in sorted(members.members - desired, key=lambda node: (node == leader, node in able, node))
        if (after := members.after(Change(ChangeKind.REMOVE, node))) is not None and after.is_quorum(able)
    ]
    for change in leaving:
        if change.kind is ChangeKind.REMOVE and change.node not in able:
            return change
    for node in sorted(desired - members.members - members.removed):
        return Change(ChangeKind.ADD_LEARNER, node)
    for node in sorted(desired & members.learners):
        return Change(ChangeKind.PROMOTE, node)
    return leaving[0] if leaving else None


def able_voters(group: Group, now: float) -> frozenset[int]:
    """Who has acknowledged something of this leadership and was heard of lately: it could commit a change."""
    state = group.state
    leading = state.leading
    if leading is None:
        return frozenset()
    silent = now - state.options.election_max
    return frozenset(
        node
        for node, progress in leading.progress.items()
        if progress.vouched >= leading.noop
        and node not in state.closed_links
        and (state.quiet or progress.last_contact > silent)
    ) | {state.node}


class Reconciler:
    """One task per node; acts only for the groups this node leads. `wake` asks for a look at once.

    `catch_up` returns once `meta` shows all that was committed when it was called; it raises NotDone.
    """

    def __init__(
        self,
        clock: Clock,
        led: Callable[[], Mapping[int, Group]],
        meta: Callable[[], MetaState],
        catch_up: Callable[[], Awaitable[None]],
        configure: Callable[[Group, Assignment], Chunk | None],
        due: Callable[[Group], int | None],
        report: Callable[[Assignment, frozenset[int], int], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._led = led
        self._meta = meta
        self._catch_up = catch_up
        self._configure = configure
        self._due = due
        self._report = report
        self._wake = trio.Event()
        self._busy: set[int] = set()
        self._unsettled: set[int] = set()
        """Groups that differed at the last look: looked at again each period."""

    def wake(self) -> None:
        """Desired state or a leadership changed."""
        self._wake.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            everything_at = trio.current_time()
            while True:
                everything = self._wake.is_set() or trio.current_time() >= everything_at
                if everything:
                    self._wake = trio.Event()
                    everything_at = trio.current_time() + EVERYTHING_SECONDS
                for group in self._candidates(everything=everything):
                    self._busy.add(group.number)
                    nursery.start_soon(self._reconcile, group)
                with trio.move_on_after(PERIOD_SECONDS if self._unsettled else IDLE_SECONDS):
                    await self._wake.wait()

    def _candidates(self, *, everything: bool) -> list[Group]:
        """Led groups with something to do. A thousand idle ones should cost next to nothing, so without a
        reason only those are looked at that were unsettled, and the clocks of the others."""
        found = [
            group
            for number, group in self._led().items()
            if number not in self._busy
            and (everything or number in self._unsettled or self._is_due(group))
            and self._differs(group)
        ]
        self._unsettled = {group.number for group in found} | self._busy
        return found

    def _differs(self, group: Group) -> bool:
        assignment = self._meta().groups.get(group.number)
        return (
            self._next_change(group) is not None
            or (assignment is not None and self._configure(group, assignment) is not None)
            or self._unreported(group) is not None
            or self._is_due(group)
        )

    def _next_change(self, group: Group) -> Change | None:
        desired, state = self._desired(group.number), group.state
        able = able_voters(group, self._clock.monotonic())
        return (
            next_change(state.membership, desired, frozenset(self._meta().nodes), state.node, able)
            if desired
            else None
        )

    def _unreported(self, group: Group) -> frozenset[int] | None:
        """Members that meta does not have yet, or still has: who the log needs, now or on the way.

        Meta has them before the log does, so no node is thought dispensable while it has a vote.
        """
        assignment = self._meta().groups.get(group.number)
        if assignment is None:
            return None
        needed = group.state.membership.members | frozenset(assignment.replicas)
        settled = group.state.commit >= group.state.memberships.last_change
        return needed if settled and needed != frozenset(assignment.settled) else None

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
        except (NotDone, StorageError) as refused:  # what a failing disk means for the node, storage says
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
        if self._unreported(group) is None and self._next_change(group) is None:
            return
        term = group.state.term
        await self._catch_up()
        await self._move_members(group, term)

    async def _move_members(self, group: Group, term: int) -> None:
        """Report to meta, or change the log's members: `term` is that of before this node caught up."""
        assignment, unreported = self._meta().groups.get(group.number), self._unreported(group)
        if assignment is not None and unreported is not None:
            await self._report(assignment, unreported, group.state.commit)
            return
        change = self._next_change(group)
        if change is not None:
            await self._change(group, change, term)
            self.wake()

    async def _change(self, group: Group, change: Change, term: int) -> None:
        """One change; a leader that is to go hands over first, so that nobody waits for an election."""
        if change.node == group.state.node:
            await group.transfer(None)
            return
        if change.kind is ChangeKind.ADD_LEARNER and len(group.state.membership.voters) == 1:
            await group.announce_snapshot()
        await group.change_membership(change, term)
        logger.info("group %s: %s %016x", group.name, change.kind.value, change.node)
