"""The files of a machine get whole again: what is missing comes from any replica, by number (DESIGN 6).

The machine says what it misses and judges what comes (`machine.Patient`); here is only who is asked. As with
the log, no leader is needed: two replicas that are damaged in different places heal each other.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

import trio

from ...storage.errors import StorageError
from ..peers.requests import PeerLost, Refusal, Shape, describe, shaped
from .machine import Patient

if TYPE_CHECKING:
    from .group import Group

logger = logging.getLogger(__name__)

RECORDS: Final = "repair.records"
ASK_SECONDS: Final = 5.0
NUMBERS_AT_ONCE: Final = 1024
HEDGE_SECONDS: Final = 0.5
"""So long a peer is waited for before the next one is asked as well: its answer may have been lost."""
ANSWER_BYTES: Final = 4 << 20
"""An answer holds about this much, and at least one record."""


class Asks(Protocol):
    """The part of the node that carries questions (`Requests`)."""

    async def ask(
        self, peer: int, method: str, argument: object, seconds: float, shape: Shape = object
    ) -> object: ...


class Reach(Protocol):
    """The part of the node that knows who can be reached (`Peers`)."""

    def is_up(self, peer: int) -> bool: ...
    def name_of(self, node: int) -> str: ...


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one round of questions."""

    used: int
    """Records that were of use."""
    answered: frozenset[int]
    """Peers that said what they have."""


class Mender:
    """Asks for one group's missing records, and gives others theirs."""

    def __init__(self, asks: Asks, reach: Reach) -> None:
        self.mended = 0
        """Records that came from other replicas and are in place since the start."""
        self.given = 0
        """Records given to other replicas."""
        self._asks = asks
        self._reach = reach
        self._taking = trio.Lock()
        self._group: Group

    def attach(self, group: Group) -> None:
        self._group = group

    async def ask(self, patient: Patient, peers: Collection[int]) -> Round:
        """One question to each peer that is up, until nothing is missing. Raises StorageError.

        One that takes its time holds nobody up: the next is asked beside it.
        """
        used: dict[int, int] = {}
        failures: list[StorageError] = []
        async with trio.open_nursery() as nursery:
            for peer in sorted(peers):
                missing = await patient.missing(NUMBERS_AT_ONCE)
                if not missing or not self._reach.is_up(peer):
                    continue
                answered = trio.Event()
                nursery.start_soon(self._mend_from, peer, patient, missing, used, failures, answered)
                with trio.move_on_after(HEDGE_SECONDS):
                    await answered.wait()
            if any(used.values()):
                nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]
        self.mended += sum(used.values())
        return Round(sum(used.values()), frozenset(used))

    async def _mend_from(
        self,
        peer: int,
        patient: Patient,
        missing: list[int],
        used: dict[int, int],
        failures: list[StorageError],
        answered: trio.Event,
    ) -> None:
        """Ask one peer and take what it has; `used` says how much that was, if it answered."""
        name = self._reach.name_of(peer)
        try:
            records = await self._ask(peer, missing)
            async with self._taking:
                used[peer] = await patient.take(records)
            if used[peer]:
                logger.info("group %s: %d damaged records come from %s", self._group.name, used[peer], name)
        except (PeerLost, Refusal, trio.TooSlowError) as error:
            logger.info("group %s: %s gives no records: %s", self._group.name, name, describe(error))
        except StorageError as error:
            failures.append(error)
        finally:
            answered.set()

    async def _ask(self, peer: int, missing: list[int]) -> dict[int, bytes]:
        group = self._group
        manifest = group.snapshots.manifest
        seen = [manifest.index, manifest.rolling_hash] if manifest is not None else [0, 0]
        question = [group.number, group.incarnation, *seen, missing]
        answer = cast(list[object], await self._asks.ask(peer, RECORDS, question, ASK_SECONDS, list))
        pairs = [cast(list[object], shaped(each, (int, bytes))) for each in answer]
        return {cast(int, number): cast(bytes, record) for number, record in pairs}

    async def give(self, patient: Patient, numbers: list[int]) -> list[tuple[int, bytes]]:
        """What of these can be read here. Raises StorageError."""
        given = await patient.give(numbers[:NUMBERS_AT_ONCE], ANSWER_BYTES)
        self.given += len(given)
        return given
