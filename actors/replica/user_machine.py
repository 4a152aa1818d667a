"""A user's own state machine in a group (DESIGN 8): the small interface users write, and its adapter."""

import logging
from collections.abc import Sequence
from typing import Final, Protocol, cast, runtime_checkable

import msgpack

from ...codec import BatchHeader, Entries, EntryType
from ...storage.manifest import FileEntry
from .machine import Capture, Fileless, StateUnusable
from .sessions import Answer, Operation, SessionEntry, SessionStatus, SessionTable

logger = logging.getLogger(__name__)

STATE_VERSION: Final = 1
UNANSWERED: Final = 0x54
"""Type of the msgpack extension that stands for a result which can't be carried. Its data says why."""
MAX_RESULT_BYTES: Final = 1 << 20
"""Of one packed result: a session keeps up to `WINDOW` of them, and every snapshot has them all."""


@runtime_checkable
class StateMachine(Protocol):
    """What a user replicates. It must be deterministic: no clock, no randomness, no I/O that decides
    anything.

    It starts empty, or from the state of a snapshot, and then sees every committed batch exactly once, in
    order.
    """

    def apply(self, entries: Sequence[bytes], index: int, time: int) -> Sequence[object]:
        """Apply the entries of one batch; one result for each.

        A result is what msgpack carries, in at most 1 MiB: None, bool, int of 64 bits, float, str, bytes,
        lists and maps of these. Its proposer gets it as msgpack brings it, a tuple as a list. In place of
        anything else the proposer gets `Unanswered`; the entry is applied all the same.

        A declared refusal (`refused(reason)`) is that entry's result. Any other exception stops this replica
        of the group, which names the index and never skips it.

        Args:
            entries: the proposals, as they were given to `propose`.
            index: of the batch, counting up by one.
            time: when the leader sealed it, nanoseconds since 1970; never falls.
        """
        ...

    def snapshot(self) -> bytes:
        """The whole state as of the last applied batch."""
        ...

    def restore(self, state: bytes) -> None:
        """Take the state of a snapshot in place of the present one."""
        ...


def refused(reason: str) -> dict[str, str]:
    """A result that says "no": the entry stays in the log, and its proposer gets the reason."""
    return {"refused": reason}


def carried(result: object) -> object:
    """A result as msgpack brings it, or the extension that says why it can't: the same on every replica.

    A session's answers are part of the snapshot. One that can't be packed would stop all replicas at the next
    one, and one that the machine changes later would make them differ.
    """
    if result is None or type(result) in (bool, float):
        return result
    try:
        packed = cast(bytes, msgpack.packb([[[[[[result]]]]]]))  # as deep as it will lie in a snapshot
        if len(packed) <= MAX_RESULT_BYTES:
            [[[[[[brought]]]]]] = msgpack.unpackb(packed, strict_map_key=False)
            return cast(object, brought)
        why = f"a result of more than {MAX_RESULT_BYTES} bytes"
    except (TypeError, ValueError, OverflowError):
        why = f"a result of type {type(result).__name__} that msgpack does not carry"
    logger.error("a state machine returned %s: its proposer gets no answer", why)
    return cast(object, msgpack.ExtType(UNANSWERED, why.encode()))


def carried_all(results: Sequence[object]) -> list[object]:
    """`carried` of each of a batch's results: at once, if nothing is wrong with any of them."""
    try:
        packed = cast(bytes, msgpack.packb([[[[[results]]]]]))
        if len(packed) <= MAX_RESULT_BYTES:  # so each of them is small enough
            [[[[[brought]]]]] = msgpack.unpackb(packed, strict_map_key=False)
            return cast(list[object], brought)
    except (TypeError, ValueError, OverflowError):
        pass  # which of them it is shows when each is looked at
    return [carried(result) for result in results]


def why_unanswered(result: object) -> str | None:
    """Why this result could not be carried; None for all others."""
    if isinstance(result, msgpack.ExtType) and result.code == UNANSWERED:
        return cast(bytes, result.data).decode(errors="replace")
    return None


class BadState(StateUnusable):
    """A snapshot of a user's machine that this version can't read."""


class UserMachine(Fileless):
    """`Machine` around a user's `StateMachine` and its sessions; their state rides in the manifest, without
    files."""

    def __init__(self, kind: str, machine: StateMachine) -> None:
        self.kind = kind
        self.machine = machine
        self.sessions = SessionTable()

    def empty(self) -> None:
        return

    def apply(self, batch: Entries) -> list[object]:
        """The user's machine sees what the sessions let through; the rest is answered here."""
        self.sessions.expire(batch.header.time)
        if EntryType.SESSION not in bytes(batch.types):
            return self._results(batch.datas(), batch.header)
        verdicts: list[tuple[SessionStatus | None, Answer]] = []
        admitted: list[tuple[bytes, Answer]] = []
        for position, (kind, data) in enumerate(batch):
            if kind != EntryType.SESSION:
                verdicts.append((None, Answer()))
                admitted.append((bytes(data), verdicts[-1][1]))
                continue
            entry = SessionEntry.decode(bytes(data))
            verdicts.append(self._judge(entry, batch.header, position))
            if (
                entry is not None
                and entry.operation is Operation.APPLY
                and verdicts[-1][0] is SessionStatus.APPLIED
            ):
                admitted.append((entry.data, verdicts[-1][1]))
        if admitted:
            self._apply(admitted, batch.header)
        return [
            answer.result if status is None else [int(status), answer.result] for status, answer in verdicts
        ]

    def _judge(
        self, entry: SessionEntry | None, header: BatchHeader, position: int
    ) -> tuple[SessionStatus, Answer]:
        if entry is None:
            return SessionStatus.MALFORMED, Answer()
        if entry.operation is Operation.APPLY:
            return self.sessions.admit(entry, header.time)
        if entry.operation is Operation.CLOSE:
            self.sessions.close(entry.session)
            return SessionStatus.APPLIED, Answer()
        place = header.index << 16 | position  # a batch has fewer than 2**16 entries
        self.sessions.open(place, header.time)
        return SessionStatus.APPLIED, Answer(place)

    def _apply(self, admitted: list[tuple[bytes, Answer]], header: BatchHeader) -> None:
        results = self._results([data for data, _ in admitted], header)
        for (_, answer), result in zip(admitted, results, strict=True):
            answer.result = result

    def _results(self, entries: list[bytes], header: BatchHeader) -> list[object]:
        if not entries:
            return []
        results = list(self.machine.apply(entries, header.index, header.time))
        if len(results) != len(entries):
            raise ValueError(f"apply returned {len(results)} results for {len(entries)} entries")
        return carried_all(results)

    def capture(self) -> Capture:
        snapshot = self.machine.snapshot()
        if not isinstance(snapshot, bytes):  # it comes from outside; anything else would be found at restart
            raise TypeError(f"snapshot returned {type(snapshot).__name__}, not bytes")
        state = {"v": STATE_VERSION, "sessions": self.sessions.capture(), "machine": snapshot}
        return Capture(state=cast(bytes, msgpack.packb(state)))

    async def restore(self, state: bytes, files: Sequence[FileEntry], *, accept_loss: bool = False) -> None:
        """Raises BadState."""
        try:
            fields = msgpack.unpackb(state, strict_map_key=False)
            version, sessions, machine = fields["v"], fields["sessions"], cast(bytes, fields["machine"])
        except (msgpack.UnpackException, ValueError, KeyError, TypeError) as error:
            raise BadState(f"{self.kind}: unreadable snapshot: {error}") from error
        if version != STATE_VERSION:
            raise BadState(f"{self.kind}: snapshot format {version} is not {STATE_VERSION}")
        try:
            self.sessions.restore(sessions)
            self.machine.restore(machine)
        except Exception as error:
            # A user's machine may raise anything; whatever it is, it has not taken the state.
            raise BadState(f"{self.kind}: the machine did not take the snapshot: {error}") from error
