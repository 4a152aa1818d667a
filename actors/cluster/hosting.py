"""Which groups run on this node: what meta assigns is hosted, what moved away or was deleted is given up."""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, cast

import trio

from ...storage.actor import Storage
from ...storage.recovery import RecoveredGroup
from ..groups import Birth, Dormant, Groups
from ..raft.membership import Membership
from ..replica.group import Group, NotDone
from .meta_state import META_GROUP, Assignment, MetaState

logger = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 1.0
"""After a majority of meta could not confirm that something may be given up."""


class Hosting:
    """The only one who hosts and closes groups on this node, but for meta itself.

    Args:
        me: this node's id.
        state: the meta state that this node has applied.
        changed: the event of its next change.
        confirm: returns once that state holds all that was acknowledged by now; raises NotDone.
        has_machine: whether this node can run a kind of state machine.
        followed: called whenever all that could be done has been.
    """

    def __init__(
        self,
        me: int,
        storage: Storage,
        groups: Groups,
        state: Callable[[], MetaState],
        changed: Callable[[], trio.Event],
        confirm: Callable[[], Awaitable[None]],
        has_machine: Callable[[str], bool],
        followed: Callable[[], None],
    ) -> None:
        self._me = me
        self._storage = storage
        self._groups = groups
        self._state = state
        self._changed = changed
        self._confirm = confirm
        self._has_machine = has_machine
        self._followed = followed
        self._old: int | None = None
        """Up to here the meta log may name groups whose replicas here are lost without a trace."""
        meta = storage.recovered.groups.get(META_GROUP)
        self._named_before = meta.last_index if meta is not None else 0
        """How far the meta log went when this node started."""
        self._confirmed = False
        """Whether meta, as this node knows it, has all that was acknowledged before this start."""
        self._asked_in_vain = False
        """In this pass: so one pass waits for an answer once, however many groups there are."""
        self.missing: list[str] = []
        """Groups that belong here and do not run, each with why, for people."""

    async def resume_all(self) -> None:
        """Run every group that recovery found, except meta and what was given up before."""
        for recovered in list(self._storage.recovered.groups.values()):
            if recovered.released and recovered.group != META_GROUP:
                self._groups.remember(recovered)
            elif recovered.group != META_GROUP:
                await self._resume(recovered)

    async def run(self) -> None:
        """Host what meta assigns to this node, and close what meta, having caught up, no longer has."""
        while True:
            changed = self._changed()
            self._asked_in_vain = False
            hosted = self._can_tell_what_is_new()
            for assignment in list(self._state().groups.values()) if hosted else ():
                if self._belongs_here(assignment) and self._groups.get(assignment.group) is None:
                    hosted &= await self._host(assignment)
            self.missing = [
                f"{each.kind} {each.name}: {self._why_missing(each)}"
                for each in self._state().groups.values()
                if self._belongs_here(each) and not each.restoring and self._groups.get(each.group) is None
            ]
            meta = self._groups.get(META_GROUP)
            for group in list(self._groups.hosted()):
                # A node that has just started knows of groups that its meta log hasn't come to yet.
                caught_up = meta is not None and meta.applier.applied >= group.incarnation
                if group.number != META_GROUP and caught_up:
                    await self._close_if_gone(group, self._state().groups.get(group.number))
            done = await self._release_dormant()
            self._followed()
            with trio.move_on_after(math.inf if done and hosted else AGAIN_SECONDS):
                await changed.wait()

    def _belongs_here(self, assignment: Assignment) -> bool:
        """Whether a replica belongs here: it is wanted, or the group's log may still count on it (S14)."""
        return self._me in assignment.replicas or self._me in assignment.settled

    def _can_tell_what_is_new(self) -> bool:
        """Whether a group that the log does not have was never here, or may be lost with all its promises.

        If the log lost something without a name, only meta can tell, once this node has all of it again: what
        it names by then is old.
        """
        meta = self._groups.get(META_GROUP)
        if self._old is None and not self._storage.recovered.losses:
            self._old = 0
        elif self._old is None and meta is not None and not meta.state.forgetful:
            self._old = meta.state.log.last_index
        return self._old is not None

    # --- hosting ------------------------------------------------------------------------------------------

    def _why_missing(self, assignment: Assignment) -> str:
        if not self._has_machine(assignment.kind):
            return f"this node has no state machine {assignment.kind!r}"
        if self._old is None:
            return "whether it was here is not known before the meta log is whole again"
        return "whether it was deleted is not known before a majority of the meta group answers"

    async def _host(self, assignment: Assignment) -> bool:
        """Run a replica, if it is to run now. False: whether it is can't be told yet."""
        if assignment.restoring:
            return True  # `Backups` fills its directory; it starts when that is whole
        if not self._can_run(assignment.kind, assignment.name):
            return True
        if self._storage.was_deleted(assignment.group, assignment.incarnation):
            return True  # meta as this node knows it so far is older than its own log
        birth = Birth(
            assignment.group,
            assignment.incarnation,
            assignment.kind,
            assignment.name,
            assignment.initial,
            Membership.of(assignment.initial).encode(),
        )
        dormant = await self._storage.reopen(assignment.group)
        if dormant is None or dormant.incarnation != assignment.incarnation:
            if assignment.incarnation > cast(int, self._old):
                return await self._create(assignment, birth)
            logger.error("group %s: its whole log is lost here, if there was one", assignment.name)
            await self._groups.record(birth, forgetful=True)
            dormant = await self._storage.reopen(assignment.group)
            assert dormant is not None
        if not dormant.created:
            # Meta knows what the damaged record said: the log gets it again.
            await self._groups.record(birth)
            dormant = await self._storage.reopen(assignment.group)
        assert dormant is not None
        await self._resume(dormant)
        return True

    async def _create(self, assignment: Assignment, birth: Birth) -> bool:
        """Run a replica that was never here. False: it may have been deleted, and no majority of meta says.

        What meta named before this start may have been deleted since, and the log may have lost even the word
        of that: it goes with its segment. Made again, the group would take messages that are gone with it as
        soon as this node learns the rest.
        """
        if not self._confirmed and assignment.incarnation <= self._named_before:
            if self._asked_in_vain:
                return False
            try:
                await self._confirm()
            except NotDone as refused:
                logger.debug("group %s is not made here yet: %s", assignment.name, refused)
                self._asked_in_vain = True
                return False
            self._confirmed = True
        now = self._state().groups.get(assignment.group)
        if now is not None and now.incarnation == assignment.incarnation and self._belongs_here(now):
            await self._groups.create(birth, campaign=assignment.initial[0] == self._me)
        return True

    async def _resume(self, recovered: RecoveredGroup) -> None:
        if not recovered.created:
            logger.warning("group %d: its creation can't be read here: it waits for meta", recovered.group)
        elif self._can_run(recovered.kind, recovered.name):
            await self._groups.resume(recovered, Membership.decode(recovered.members).voters)

    def _can_run(self, kind: str, name: str) -> bool:
        known = self._has_machine(kind)
        if not known:
            logger.error("group %s: this node has no state machine %r", name, kind)
        return known

    # --- giving up ----------------------------------------------------------------------------------------

    async def _close_if_gone(self, group: Group, assignment: Assignment | None) -> None:
        if assignment is None:
            logger.info("group %s is deleted", group.name)
            await self._groups.close(group.number, delete=True)
        elif not self._belongs_here(assignment):
            logger.info("group %s has moved away", group.name)
            await self._groups.close(group.number, delete=False)

    async def _release_dormant(self) -> bool:
        """Free the disk of what moved away from here, and forget what was deleted meanwhile. False if that
        must wait.

        What a restarted node knows of meta may be old, and the whole cluster may be restarting: nothing is
        given up before a majority of meta has confirmed that nobody needs it. Nothing else hosts or closes
        groups meanwhile, so what is decided here holds.
        """
        dormant = [each for each in self._groups.dormant() if self._is_to_go(each)]
        if not dormant:
            return True
        try:
            await self._confirm()
        except NotDone as refused:
            logger.debug("nothing is given up yet: %s", refused)
            return False
        for each in dormant:
            if self._is_deleted(each):
                self._groups.forget(each)
            elif self._is_to_go(each):
                await self._groups.release(each)
        return True

    def _is_deleted(self, dormant: Dormant) -> bool:
        assignment = self._state().groups.get(dormant.group)
        return assignment is None or assignment.incarnation != dormant.incarnation

    def _is_to_go(self, dormant: Dormant) -> bool:
        """Whether meta, as this node knows it, says that a dormant replica is needed no more, and surely."""
        assignment = self._state().groups.get(dormant.group)
        if assignment is None or self._is_deleted(dormant):
            return True
        return not dormant.released and not self._belongs_here(assignment) and assignment.settled_at > 0
