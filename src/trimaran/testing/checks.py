"""What must hold in every cluster, whatever the network, the disks and the processes do.

| property | says |
|---|---|
| election safety, one vote, leader append-only, log matching, leader completeness, own term, state machine safety, commit monotone | the rules of `actors/raft/checker.py`, over all nodes and all their lives |
| promises | a reply leaves only when the log has synced what it promises (thesis 10.2.1) |
| durable commit | what a leader commits is synced on a majority of the voters at that moment |
| recovery | a process that starts finds all that was synced, nothing that was never written, and gives up nothing |
| order | compacted <= applied <= commit <= last index; queues stay below their bounds |
| outcomes | each proposal ends once: applied means applied there, whole; not applied means never applied |
| exactly once | no entry is applied twice, no session's entry is admitted twice |
| sequence | an acknowledged append has a higher number than every append acknowledged before it was begun |
| reads | a read shows at least what was acknowledged, or read, before it began (thesis 6.4) |
| replicas | equal results and equal states at equal indexes, also across snapshots and restarts |
| liveness | once the faults end there is a leader, everyone catches up, and new proposals are applied |
| log time | batch times never go back along a log |
| every end | once the faults end, no proposal is left without an end |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..actors.raft.checker import Checker
from ..actors.raft.checker import Violation as RuleBroken
from ..actors.raft.log import EntryId
from ..actors.raft.messages import AppendReply, BeatReply, PeerMessage, RequestVote, VoteReply
from ..actors.raft.outcomes import Applied, NotApplied, Outcome
from ..actors.raft.state import GroupState, Role
from ..actors.replica.sessions import Operation, SessionEntry, SessionStatus
from ..codec import BatchHeader, Entries, EntryType, Kind
from ..storage.index import GroupLog
from .journal import OPERATION


class Violated(AssertionError):
    """A property of the table above does not hold."""

    def __init__(self, name: str, *facts: object) -> None:
        super().__init__(f"{name}: {' '.join(map(str, facts))}")
        self.name = name
        self.facts = " ".join(map(str, facts))


def require(holds: object, name: str, *facts: object) -> None:
    if not holds:
        raise Violated(name, *facts)


@dataclass(slots=True)
class Asked:
    """A proposal or a read that a client waits for."""

    began: float
    sequence: int
    """The highest sequence acknowledged when it began."""
    index: int
    """The highest index acknowledged, or read at, when it began."""
    count: int = 1
    """Entries; the first has the asked token, the others those that follow it."""


@dataclass(slots=True)
class Synced:
    """What a log had synced when its process ended."""

    term: int
    vote: int
    prefix: EntryId
    first: int
    terms: tuple[int, ...]
    uncut: int
    """Up to here nothing was under way that would take entries back."""


@dataclass(slots=True)
class _First:
    """What the first replica that applied an index got out of it."""

    rolling_hash: int
    results: Sequence[object]
    crc: int


@dataclass(slots=True)
class Checks:
    """The memory of one cluster over all lives of its processes."""

    journal: bool = True
    """The machine is a `Journal`, so entries have tokens."""
    checker: Checker = field(init=False)
    asked: dict[int, Asked] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    acknowledged: int = 0
    """The highest sequence number that a client was told."""
    shown: int = 0
    """The highest index that a client was told of, or has read at."""
    last_applied: int = 0
    _written: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """(index, term) -> checksum and time of every batch that was ever on its way to a disk."""
    _applied: dict[int, _First] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)
    """Token -> the index at which it was applied."""
    _states: dict[int, bytes] = field(default_factory=dict)
    """Index -> the machine's snapshot as of it."""
    _votes: dict[tuple[int, int], int] = field(default_factory=dict)
    """(node, term) -> candidate, as promised to others."""

    def __post_init__(self) -> None:
        self.checker = Checker(_broken, memory=1 << 30)

    # --- a step of the rules --------------------------------------------------------------------------------

    def check_step(self, state: GroupState) -> None:
        log = state.log
        require(
            log.compacted.index <= state.commit <= log.last_index and state.applied <= state.commit,
            "order",
            state.node,
            (log.compacted.index, state.applied, state.commit, log.last_index),
        )
        require((state.leading is not None) == (state.role is Role.LEADER), "order", state.node, state.role)

    def check_bounds(self, state: GroupState) -> None:
        """What a replica keeps in memory."""
        log, options, leading = state.log, state.options, state.leading
        unsynced = log.size_of(max(log.synced, log.compacted.index) + 1, log.last_index)
        bound = options.log_cache_bytes + unsynced + options.max_batch_bytes
        require(log.cache_bytes <= bound, "order", state.node, "caches", log.cache_bytes)
        if leading is not None:
            queued = leading.queued_bytes + leading.sealed_bytes
            bound = options.uncommitted_bytes + options.max_batch_bytes
            require(queued <= bound, "order", state.node, "has queued", queued, "bytes")

    def check_written(self, header: BatchHeader) -> None:
        """A batch is on its way to a disk. Its time is not before that of the one it follows."""
        place, batch = (header.index, header.term), (header.header_crc, header.time)
        known = self._written.setdefault(place, batch)
        require(known == batch, "log matching", place, "has two contents")
        before = self._written.get((header.index - 1, header.previous_term))
        require(before is None or before[1] <= header.time, "log time", place, "goes back")

    def check_promise(self, node: int, log: GroupLog, peer: int, message: PeerMessage) -> None:
        """A message leaves; `log` is what is synced at this moment."""
        term_kept = max(log.term, log.prefix.term, log.terms[-1] if log.terms else 0)
        match message:
            case AppendReply(accepted=True, match=match, term=term):
                # In a newer term, what was acknowledged may be cut off by the very write that stored it: the
                # answer is then like one that was long on its way.
                last = max(log.last, log.prefix.index)
                kept = last >= match or term < term_kept
                require(kept, "promises", node, "acknowledges", match, "has synced", last)
            case VoteReply(granted=True, pre=False, term=term):
                kept = term_kept > term or (log.term == term and log.vote == peer)
                require(kept, "promises", node, "votes", (term, peer), "has synced", (log.term, log.vote))
                self._check_vote(node, term, peer)
            case RequestVote(pre=False, term=term):
                require(term_kept >= term, "promises", node, "stands in", term, "has synced", term_kept)
                self._check_vote(node, term, node)
            case BeatReply(term=term):
                require(term_kept >= term, "promises", node, "answers in", term, "has synced", term_kept)

    def _check_vote(self, node: int, term: int, candidate: int) -> None:
        vote = self._votes.setdefault((node, term), candidate)
        require(vote == candidate, "one vote", node, "votes in", term, "for", vote, "and", candidate)

    def check_durable(self, newest: EntryId, voters: Sequence[int], holders: Sequence[int]) -> None:
        """A leader commits; `holders` are the voters that have synced it."""
        require(2 * len(holders) > len(voters), "durable commit", newest, "of", voters, "only on", holders)

    # --- recovery -------------------------------------------------------------------------------------------

    def check_recovery(self, node: int, log: GroupLog, before: Synced | None) -> None:
        for position, term in enumerate(log.terms):
            place = (log.first + position, term)
            require(term == 0 or place in self._written, "recovery", node, "invents", place)
        if before is None:
            return
        require(
            (log.term, log.vote) == (before.term, before.vote)
            or log.term > before.term
            or (log.term == before.term and not before.vote),
            "recovery",
            node,
            "forgot its vote",
            (before.term, before.vote),
            (log.term, log.vote),
        )
        require(log.prefix.index >= before.prefix.index, "recovery", node, "forgot", before.prefix)
        for position, term in enumerate(before.terms):
            index = before.first + position
            if index <= log.prefix.index or index > before.uncut:
                continue
            kept = log.first <= index <= log.last and log.terms[index - log.first] == term
            require(kept, "recovery", node, "lost", (index, term), "of", before.uncut)

    def check_recovered(self, state: GroupState, before: Synced | None) -> None:
        """What the rules go on with."""
        for position, term in enumerate(before.terms if before is not None else ()):
            index = before.first + position if before is not None else 0
            if state.log.compacted.index < index and before is not None and index <= before.uncut:
                has = state.log.term_at(index)
                require(has == term, "recovery", state.node, "goes on without", (index, term))

    # --- the state machine ----------------------------------------------------------------------------------

    def check_applied(
        self, node: int, index: int, batch: Entries, rolling_hash: int, results: Sequence[object]
    ) -> None:
        crc = batch.header.header_crc
        first = self._applied.get(index)
        if first is None:
            require(index <= self.last_applied + 1, "replicas", node, "skips to", index, self.last_applied)
            self._applied[index] = _First(rolling_hash, results, crc)
            self.last_applied = max(self.last_applied, index)
            if self.journal and batch.header.kind is Kind.NORMAL:
                self._place(index, batch, results)
            return
        require(first.crc == crc, "state machine safety", node, "applies another batch at", index)
        require(first.rolling_hash == rolling_hash, "state machine safety", node, "differs at", index)
        require(first.results == results, "replicas", node, "answers differently at", index, results)

    def _place(self, index: int, batch: Entries, results: Sequence[object]) -> None:
        for position, (kind, data) in enumerate(batch):
            if kind == EntryType.SESSION:
                self._place_session(index, bytes(data), results[position])
                continue
            token, _ = OPERATION.unpack_from(data)
            place = self._places.setdefault(token, index)
            require(place == index, "exactly once", token, "is applied at", place, "and", index)
            require(
                not isinstance(self.outcomes.get(token), NotApplied),
                "outcomes",
                token,
                "is applied after",
                self.outcomes.get(token),
            )

    def _place_session(self, index: int, data: bytes, result: object) -> None:
        """A session's entry counts if it was admitted."""
        entry = SessionEntry.decode(data)
        if entry is None or entry.operation is not Operation.APPLY:
            return
        if not isinstance(result, list) or result[0] != SessionStatus.APPLIED:
            return
        token, _ = OPERATION.unpack_from(entry.data)
        place = self._places.setdefault(token, index)
        require(place == index, "exactly once", token, "is applied at", place, "and", index)

    def check_state(self, node: int, index: int, snapshot: bytes) -> None:
        """A replica's whole state as of an index."""
        known = self._states.setdefault(index, snapshot)
        require(known == snapshot, "replicas", node, "has another state as of", index)

    def check_installed(self, node: int, index: int, rolling_hash: int) -> None:
        first = self._applied.get(index)
        known = first is not None and first.rolling_hash == rolling_hash
        require(known, "state machine safety", node, "installs a state as of", index, "that nobody had")

    # --- clients --------------------------------------------------------------------------------------------

    def begin(self, token: int, time: float, count: int = 1) -> None:
        self.asked[token] = Asked(time, self.acknowledged, self.shown, count)

    def end(self, token: int, outcome: Outcome) -> Asked:
        """The one end of a proposal."""
        require(token not in self.outcomes, "outcomes", token, "ends twice:", outcome)
        self.outcomes[token] = outcome
        asked = self.asked.pop(token)
        if isinstance(outcome, NotApplied):
            require(token not in self._places, "outcomes", token, "is", outcome, "yet was applied")
        elif isinstance(outcome, Applied):
            self.shown = max(self.shown, outcome.index)
        return asked

    def check_acknowledged(self, token: int, outcome: Applied, asked: Asked) -> None:
        """An append of plain entries was acknowledged; a `Journal` gives their sequence numbers."""
        require(outcome.index > asked.index, "sequence", token, outcome.index, "is not behind", asked.index)
        numbers = outcome.result
        if not isinstance(numbers, list) or len(numbers) != asked.count:
            raise Violated("outcomes", token, "has", numbers, "for", asked.count, "entries")
        if not self.journal:
            return
        for each in {token, token + asked.count - 1}:
            place = self._places.get(each)
            require(place == outcome.index, "outcomes", each, "acknowledged at", outcome.index, "is", place)
        dense = list(range(numbers[0], numbers[0] + asked.count))
        require(numbers == dense, "sequence", token, "got", numbers)
        self.check_number(token, numbers[0], asked)
        self.acknowledged = max(self.acknowledged, numbers[-1])

    def check_number(self, token: int, number: int, asked: Asked) -> None:
        floor = asked.sequence
        require(number > floor, "sequence", token, "is number", number, "after", floor, "was acknowledged")

    def check_read(self, token: int, index: int) -> Asked:
        """A read is answered as of an index."""
        asked = self.asked.pop(token)
        require(index >= asked.index, "reads", "index", index, "but", asked.index, "was known before")
        self.shown = max(self.shown, index)
        return asked


def _broken(violation: RuleBroken) -> None:
    raise Violated(violation.rule, violation.facts, violation.event)
