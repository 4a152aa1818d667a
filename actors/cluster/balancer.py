"""The balancer: leaderships go home, to the node that comes first in a group's replica set.

After a crash or a restart its groups are led elsewhere. When the node is back and has caught up, whoever
leads them meanwhile hands them over, one at a time, and only while they are quiet: a busy group stays where
it is. When an operator asks (`trimaran rebalance`), busy ones go home too. A `step-down` is not undone by
this: only a node that comes back, or that question, sets it going.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Final

import trio

from ..replica.group import Group, NotDone
from .meta_state import MetaState

logger = logging.getLogger(__name__)

START_SECONDS: Final = 1.0
"""For the own log to be applied: what was wished before the start is history."""
LOOK_SECONDS: Final = 5.0
"""A group is quiet if its log has not grown between two looks. Long enough to catch up after a restart."""
FORCED_LOOKS: Final = 3
HANDOVER_SECONDS: Final = 2.0


class Balancer:
    """One task per node; acts for the groups that this node leads."""

    def __init__(
        self,
        me: int,
        led: Callable[[], Mapping[int, Group]],
        meta: Callable[[], MetaState],
        is_up: Callable[[int], bool],
    ) -> None:
        self._me = me
        self._led = led
        self._meta = meta
        self._is_up = is_up
        self._returned: set[int] = set()
        """Nodes that came back, until everything that is theirs is with them."""
        self._lengths: dict[int, int] = {}
        """Last index of each led group at the last look."""
        self._asked = 0
        """The last wish for a rebalance that this node has acted upon, or had in its log when it started."""
        self._forced_looks = 0

    def on_peer_up(self, peer: int) -> None:
        self._returned.add(peer)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        await trio.sleep(START_SECONDS)
        self._asked = self._meta().rebalanced
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        forced = self._is_asked()
        waiting: set[int] = set()
        lengths = {number: group.state.log.last_index for number, group in self._led().items()}
        for group in list(self._led().values()):
            home = self._home(group)
            if home == self._me or not (forced or home in self._returned):
                continue
            quiet = self._lengths.get(group.number) == lengths.get(group.number)
            if not ((quiet or forced) and await self._send_home(group, home)):
                waiting.add(home)
        self._lengths = lengths
        self._returned &= waiting

    def _is_asked(self) -> bool:
        """Whether an operator wants all groups at home: until the replicas have moved, and a look longer."""
        meta = self._meta()
        moving = any(set(group.replicas) != set(group.settled) for group in meta.groups.values())
        if self._asked != meta.rebalanced or (self._forced_looks and moving):
            self._forced_looks = FORCED_LOOKS
        self._asked = meta.rebalanced
        self._forced_looks -= self._forced_looks > 0
        return self._forced_looks > 0

    def _home(self, group: Group) -> int:
        assignment = self._meta().groups.get(group.number)
        return assignment.replicas[0] if assignment is not None else self._me

    async def _send_home(self, group: Group, home: int) -> bool:
        """Whether the group is led from home now. What is refused is tried at the next look."""
        if not self._is_up(home) or home not in group.state.membership.voters:
            return False
        try:
            with trio.move_on_after(HANDOVER_SECONDS) as patience:
                await group.transfer(home)
        except NotDone as refused:
            logger.debug("group %s stays: %s", group.name, refused)
            return False
        return not patience.cancelled_caught
