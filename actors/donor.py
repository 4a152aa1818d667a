"""What a node gives to the others' damaged replicas: each question goes to the group that it is about.

How a damaged replica asks, and what each answer means, is in `repair.py`.
"""

from __future__ import annotations

from typing import cast

from ..storage.errors import StorageError
from .groups import Groups
from .peers.requests import Refusal, Requests, shaped
from .replica.divergence import HASHES
from .replica.group import Group, NotDone
from .replica.mender import RECORDS
from .replica.repair import BATCHES, SNAPSHOT, STANDING


class Donor:
    """Owned by the node. Answers only from replicas that take part in their group."""

    def __init__(self, groups: Groups, requests: Requests) -> None:
        self._groups = groups
        requests.handle(BATCHES, self._on_batches, (int, int, list))
        requests.handle(SNAPSHOT, self._on_snapshot, (int, int, int))
        requests.handle(HASHES, self._on_hashes, (int, int, int, int))
        requests.handle(RECORDS, self._on_records, (int, int, int, int, list))
        requests.handle(STANDING, self._on_standing, (int, int))

    def _replica(self, number: object, incarnation: object) -> Group:
        group = self._groups.get(cast(int, number))
        if group is None or group.incarnation != incarnation:
            raise Refusal("no replica of this group is here")
        if group.failed or group.state.ended is not None:
            raise Refusal("the replica here has stopped")
        return group

    async def _on_batches(self, asker: int, argument: object) -> object:
        number, incarnation, wanted = cast(
            tuple[int, int, list[list[int]]], tuple(cast(list[object], argument))
        )
        group = self._replica(number, incarnation)
        places = [_place(each) for each in wanted]
        return [[int(verdict), batch] for verdict, batch in await group.repair.give_batches(places)]

    async def _on_snapshot(self, asker: int, argument: object) -> object:
        number, incarnation, at_least = cast(tuple[int, int, int], tuple(cast(list[object], argument)))
        try:
            return await self._replica(number, incarnation).repair.give_snapshot(asker, at_least)
        except (NotDone, StorageError) as error:
            raise Refusal(f"no snapshot could be taken: {error}") from error

    async def _on_hashes(self, asker: int, argument: object) -> object:
        number, incarnation, index, theirs = cast(
            tuple[int, int, int, int], tuple(cast(list[object], argument))
        )
        return self._replica(number, incarnation).repair.divergence.answer(index, theirs)

    async def _on_records(self, asker: int, argument: object) -> object:
        number, incarnation, index, rolling_hash, wanted = cast(
            tuple[int, int, int, int, list[object]], tuple(cast(list[object], argument))
        )
        group = self._replica(number, incarnation)
        if group.applier.differs(index, rolling_hash):
            raise Refusal(f"the replicas differ at index {index}")
        numbers = [cast(int, shaped(each, int)) for each in wanted]
        try:
            return [list(pair) for pair in await group.repair.give_records(numbers)]
        except StorageError as error:
            raise Refusal(f"they can't be read: {error}") from error

    async def _on_standing(self, asker: int, argument: object) -> object:
        number, incarnation = cast(tuple[int, int], tuple(cast(list[object], argument)))
        return list(self._replica(number, incarnation).repair.standing())


def _place(item: object) -> tuple[int, int]:
    """(index, term) of a batch that is asked for. Raises Malformed."""
    index, term = cast(list[int], shaped(item, (int, int)))
    return index, term
