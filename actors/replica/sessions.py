"""Exactly-once for a user's state machine: sessions, and the replicated table of what each has got answered.

A proposer whose proposal ended *unknown* can't tell whether to send it again. In a session every proposal has
a number, the group remembers the answer under it, and a repetition gets that answer instead of being applied
a second time (thesis 6.3). The table is part of the replicated state and of the snapshot, so that holds
across leaders, restarts and snapshots.

    open     -> a session's id: its place in the log, so no two are ever equal, and a repeated `open` only
                makes one more
    apply    session, number, floor, data -> [status, result]
    close    the session is forgotten

`floor` is the lowest number whose answer the proposer still lacks: answers below it are forgotten. A session
is forgotten when it was idle for `EXPIRY_NS` of the log's clock, and the one idle longest when there
are more than `MAX_SESSIONS`. What comes in a forgotten session is refused, never applied: it might be a
repetition. Everything here is decided in log order by the log's clock alone, so all replicas agree.
"""

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

EXPIRY_NS: Final = 3600 * 10**9  # far longer than anyone repeats a proposal
MAX_SESSIONS: Final = 10_000  # bounds the snapshot
WINDOW: Final = 256  # unanswered proposals of one session

_HEAD: Final = struct.Struct("<BQQQ")


class Operation(enum.IntEnum):
    OPEN = 1
    APPLY = 2
    CLOSE = 3


class SessionStatus(enum.IntEnum):
    """What became of a session's entry."""

    APPLIED = 0
    REPEATED = 1  # applied earlier; the result is that of then
    EXPIRED = 2  # the group doesn't know the session (any more)
    ANSWERED = 3  # below the floor: applied or given up earlier, its answer is forgotten
    FULL = 4  # more than `WINDOW` numbers wait for their answers
    MALFORMED = 5


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """One entry of type SESSION: 25 bytes (operation u8; session, number and floor u64; little-endian), then
    the data of an APPLY."""

    operation: Operation
    session: int = 0
    number: int = 0
    floor: int = 0
    data: bytes = b""

    def encode(self) -> bytes:
        return _HEAD.pack(self.operation, self.session, self.number, self.floor) + self.data

    @classmethod
    def decode(cls, entry: bytes) -> "SessionEntry | None":
        """The inverse of `encode`; None if these bytes are no such entry."""
        if len(entry) < _HEAD.size or entry[0] not in Operation.__members__.values():
            return None
        operation, session, number, floor = _HEAD.unpack_from(entry)
        return cls(Operation(operation), session, number, floor, entry[_HEAD.size :])


@dataclass(slots=True)
class Answer:
    """What a proposal of a session is answered; filled in as soon as the machine has applied it."""

    result: object = None


@dataclass(slots=True)
class _Session:
    used: int
    """Log time (ns) of its newest entry."""
    floor: int = 0
    answers: dict[int, Answer] = field(default_factory=dict)
    """By number, from `floor` on."""


class SessionTable:
    """The sessions of one group. Invariant: ordered by `used`, the one idle longest first."""

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def expire(self, time: int) -> None:
        """The log's clock shows `time` (ns): forget who was idle for too long."""
        while self._sessions:
            idlest = next(iter(self._sessions))
            if time - self._sessions[idlest].used < EXPIRY_NS:
                break
            del self._sessions[idlest]

    def open(self, place: int, time: int) -> None:
        """A session whose id is its place in the log."""
        self._sessions[place] = _Session(time)
        while len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]

    def close(self, session: int) -> None:
        self._sessions.pop(session, None)

    def admit(self, entry: SessionEntry, time: int) -> tuple[SessionStatus, Answer]:
        """What becomes of an APPLY. APPLIED: the machine must apply it, and its result goes into the answer.

        REPEATED comes with the answer of then, which may be one of this same batch. Uses the session.
        """
        session = self._sessions.pop(entry.session, None)
        if session is None:
            return SessionStatus.EXPIRED, Answer()
        self._sessions[entry.session] = session  # to the end: used last
        session.used = time
        if entry.floor > session.floor:
            session.floor = entry.floor
            session.answers = {n: answer for n, answer in session.answers.items() if n >= entry.floor}
        if entry.number < session.floor:
            return SessionStatus.ANSWERED, Answer()
        if entry.number in session.answers:
            return SessionStatus.REPEATED, session.answers[entry.number]
        if len(session.answers) >= WINDOW:
            return SessionStatus.FULL, Answer()
        answer = session.answers[entry.number] = Answer()
        return SessionStatus.APPLIED, answer

    def capture(self) -> list[object]:
        """msgpack-able: [id, used, floor, [[number, result], ...]] of each session, in order."""
        return [
            [
                place,
                session.used,
                session.floor,
                [[n, answer.result] for n, answer in session.answers.items()],
            ]
            for place, session in self._sessions.items()
        ]

    def restore(self, captured: Sequence[object]) -> None:
        """The inverse of `capture`."""
        self._sessions.clear()
        for place, used, floor, answers in cast(
            Sequence[tuple[int, int, int, list[tuple[int, object]]]], captured
        ):
            kept = {number: Answer(result) for number, result in answers}
            self._sessions[place] = _Session(used, floor, kept)
