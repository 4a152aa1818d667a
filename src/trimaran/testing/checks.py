"""What must hold in every cluster, whatever the network, the disks and the processes do.

| property | says |
|---|---|
| election safety, one vote, leader append-only, log matching, leader completeness, own term, state machine safety, commit monotone | the rules of `actors/raft/checker.py`, over all nodes and all their lives |
| promises | a reply leaves only when the log has synced what it promises (thesis 10.2.1), nor in a term that it has not (Raft figure 2) |
| durable commit | what a leader commits is synced, and readable but for bits that flipped since, on a majority of the voters at that moment |
| recovery | a process that starts finds all that was synced, nothing that was never written, gives up nothing, and can read what it calls sound; the rules go on with just that |
| damage | a batch that can't be read is one to the rules too, until its copy is synced |
| members | the members in effect are those that the log says (thesis 4.1), a snapshot has those of its index, and who was removed never returns |
| transfer | who is told to stand has the whole log of the leader (thesis 3.10) |
| check-quorum | a leader that hears no majority leads no more (thesis 6.2), nor one whose removal is committed (4.2.2) |
| rest | a quiet leader has left no follower behind that it reaches; with nothing to do and no faults, terms don't rise |
| fence | a proposal that names a term is applied in that term or not at all (rule S16) |
| order | compacted <= applied <= commit <= last index; queues stay below their bounds |
| outcomes | each proposal ends once: applied means applied there, whole; not applied means never applied |
| exactly once | no entry is applied twice, no session's entry is admitted twice |
| sequence | an acknowledged append has a higher number than every append acknowledged before it was begun |
| reads | a read shows at least what was acknowledged, or read, before it began (thesis 6.4) |
| replicas | equal results and equal states at equal indexes, also across snapshots and restarts |
| liveness | once the faults end there is a leader, everyone catches up, and new proposals are applied |
| log time | batch times never go back along a log |
| every end | once the faults end, no proposal is left without an end |

`step_checks.py` has what must hold of a single step.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ..actors.raft.checker import Checker
from ..actors.raft.checker import Violation as RuleBroken
from ..actors.raft.log import EntryId
from ..actors.raft.membership import Membership
from ..actors.raft.messages import AppendReply, BeatReply, PeerMessage, RequestVote, VoteReply
from ..actors.raft.outcomes import Applied, NotApplied, Outcome
from ..actors.raft.state import GroupState, RaftOptions, Role
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
    term: int = 0
    """In which alone it may be applied; 0: in any."""


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

    def contradicts(self, entry: EntryId) -> bool:
        """Whether the log had another batch at this index."""
        position = entry.index - self.first
        return 0 <= position < len(self.terms) and self.terms[position] != entry.term


@dataclass(slots=True)
class _First:
    """What the first replica that applied an index got out of it."""

    rolling_hash: int
    results: Sequence[object]
    crc: int
    term: int


@dataclass(slots=True)
class Checks:
    """The memory of one cluster over all lives of its processes."""

    birth: Membership
    """The first members."""
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
    committed: int = 0
    """The highest commit index of any replica, ever."""
    _members: dict[EntryId, Membership] = field(default_factory=dict)
    """What each membership batch that was ever on its way to a disk says."""
    _agreed: dict[int, Membership] = field(default_factory=dict)
    """Index -> what the membership batch says that was applied there, in log order."""
    _removed: dict[int, int] = field(default_factory=dict)
    """Node -> index of its removal, as a client was told."""
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
        if state.role is Role.LEADER and state.node not in state.membership.voters:
            done = state.memberships.last_change <= state.commit
            require(not done, "check-quorum", state.node, "leads and was removed at", state.commit)
        self.committed = max(self.committed, state.commit)

    def check_damage(self, state: GroupState, log: GroupLog, unsynced: Collection[int]) -> None:
        """`log` is what is synced; what of it can't be read is a hole, but for `unsynced` indexes."""
        for fault in log.faults():
            if fault.index in unsynced or state.log.term_at(fault.index) != fault.term:
                continue  # it is being written anew, or cut off
            known = fault.index in state.log.holes or fault.index <= state.log.compacted.index
            require(known, "damage", state.node, "takes", fault.index, "for readable")

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

    def check_written(
        self, batch: bytes, header: BatchHeader, options: RaftOptions, members: Membership | None = None
    ) -> None:
        """A batch is on its way to a disk, with what it says about the members. It is no larger than one may
        be (rule S8), and its time is not before that of the one it follows."""
        require(len(batch) <= options.max_batch_bytes, "order", "a batch has", len(batch), "bytes")
        if members is not None:
            self._members[EntryId(header.index, header.term)] = members
        place, content = (header.index, header.term), (header.header_crc, header.time)
        known = self._written.setdefault(place, content)
        require(known == content, "log matching", place, "has two contents")
        before = self._written.get((header.index - 1, header.previous_term))
        require(before is None or before[1] <= header.time, "log time", place, "goes back")

    def check_promise(self, node: int, log: GroupLog, peer: int, message: PeerMessage) -> None:
        """A message leaves; `log` is what is synced at this moment."""
        term_kept = max(log.term, log.prefix.term, log.terms[-1] if log.terms else 0)
        match message:
            case AppendReply(accepted=True, match=match, term=term):
                # What was stored in an older term may be cut off again by the very write that stored it. The
                # node then stored it first and joined the newer term afterwards, so its vote there took it
                # into account; the proof of leader completeness (Raft 5.4.3) needs that order and no more. To
                # the others the answer is one that was long on its way.
                last = max(log.last, log.prefix.index)
                kept = last >= match or term < term_kept
                require(kept, "promises", node, "acknowledges", match, "has synced", last)
            case VoteReply(granted=True, pre=False, term=term):
                # With a newer term synced it can't vote in this one again, whatever it forgets of it.
                kept = term_kept > term or (log.term == term and log.vote == peer)
                require(kept, "promises", node, "votes", (term, peer), "has synced", (log.term, log.vote))
                self._check_vote(node, term, peer)
            case RequestVote(pre=False, term=term):
                require(term_kept >= term, "promises", node, "stands in", term, "has synced", term_kept)
                self._check_vote(node, term, node)
            case BeatReply(term=term) | AppendReply(term=term) | VoteReply(pre=False, term=term):
                # Figure 2: the term is on the disk before anything is answered in it.
                require(term_kept >= term, "promises", node, "answers in", term, "has synced", term_kept)

    def _check_vote(self, node: int, term: int, candidate: int) -> None:
        vote = self._votes.setdefault((node, term), candidate)
        require(vote == candidate, "one vote", node, "votes in", term, "for", vote, "and", candidate)

    def check_durable(self, entry: EntryId, voters: Sequence[int], holders: Sequence[int]) -> None:
        """A leader commits; `holders` are the voters that have synced it, readably."""
        require(2 * len(holders) > len(voters), "durable commit", entry, "of", voters, "only on", holders)

    # --- members --------------------------------------------------------------------------------------------

    def check_members(self, state: GroupState) -> None:
        """The members in effect are those of the newest batch in the log that says any, or those from before
        the log. Where one can't be read, nobody can say."""
        log, newest = state.log, 0
        for place in self._members:
            if place.index > max(newest, log.compacted.index) and log.term_at(place.index) == place.term:
                newest = place.index
        if any(hole >= newest for hole in log.holes):
            return
        if newest:
            says = self._members[EntryId(newest, log.term_at(newest) or 0)]
        else:
            says = self._members_as_of(log.compacted.index)
        require(state.membership == says, "members", state.node, state.membership, "but as of", newest, says)

    def check_manifest_members(self, node: int, index: int, members: Membership) -> None:
        """What a snapshot says about the members is as of its index."""
        says = self._members_as_of(index)
        require(members == says, "members", node, "has", members, "in the snapshot as of", index, "not", says)

    def _members_as_of(self, index: int) -> Membership:
        return next((self._agreed[at] for at in reversed(self._agreed) if at <= index), self.birth)

    def note_removed(self, node: int, index: int) -> None:
        """A client was told that the removal of a node was applied."""
        self._removed[node] = index

    def check_handover(self, node: int, peer: int, last: EntryId, log: GroupLog) -> None:
        """A leader whose log ends in `last` tells a peer, which has synced `log`, to stand."""
        require(holds(log, last), "transfer", peer, "is told to stand by", node, "and lacks", last)

    def check_quorum(self, state: GroupState, heard: Collection[int], within: float) -> None:
        """A leader has `heard` of these members within so many seconds."""
        enough = state.role is not Role.LEADER or state.membership.is_quorum({*heard, state.node})
        require(enough, "check-quorum", state.node, "leads", "and heard", sorted(heard), "within", within)

    def check_rest(self, leader: GroupState, follower: GroupState) -> None:
        facts = (follower.node, follower.log.last, leader.node, leader.log.last)
        require(follower.log.last == leader.log.last, "rest", "a quiet group has replicas that differ", facts)

    # --- recovery -------------------------------------------------------------------------------------------

    def check_recovery(self, node: int, log: GroupLog, before: Synced | None) -> None:
        for position, term in enumerate(log.terms):
            place = (log.first + position, term)
            require(term == 0 or place in self._written, "recovery", node, "invents", place)
        if before is None:
            return
        # What was on its way to the disk may have got there: a newer term, or a vote in a term without one.
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

    def check_recovered(self, state: GroupState, log: GroupLog, before: Synced | None) -> None:
        """What the rules go on with: what the log has."""
        newest = EntryId(log.last, log.terms[-1]) if log.terms else EntryId(log.prefix.index, log.prefix.term)
        require(
            state.log.last == newest, "recovery", state.node, "goes on from", state.log.last, "not", newest
        )
        require(state.commit <= self.committed, "recovery", state.node, "knows a commit of", state.commit)
        if before is None or before.contradicts(state.log.compacted):
            # A manifest of another history is durable: it takes the place of the whole log (Raft section 7,
            # rule 7), also if the process ended before the log was told so.
            return
        for position, term in enumerate(before.terms):
            index = before.first + position
            if state.log.compacted.index < index <= before.uncut:
                has = state.log.term_at(index)
                require(has == term, "recovery", state.node, "goes on without", (index, term))

    # --- the state machine ----------------------------------------------------------------------------------

    def check_applied(
        self, node: int, index: int, batch: Entries, rolling_hash: int, results: Sequence[object]
    ) -> None:
        crc = batch.header.header_crc
        first = self._applied.get(index)
        if first is None:
            if batch.header.kind is Kind.MEMBERSHIP:
                self._agree(index, Membership.decode(batch.entry(0)))
            require(index <= self.last_applied + 1, "replicas", node, "skips to", index, self.last_applied)
            self._applied[index] = _First(rolling_hash, results, crc, batch.header.term)
            self.last_applied = max(self.last_applied, index)
            if self.journal and batch.header.kind is Kind.NORMAL:
                self._place(index, batch, results)
            return
        require(first.crc == crc, "state machine safety", node, "applies another batch at", index)
        require(first.rolling_hash == rolling_hash, "state machine safety", node, "differs at", index)
        require(first.results == results, "replicas", node, "answers differently at", index, results)

    def _agree(self, index: int, members: Membership) -> None:
        self._agreed[index] = members
        back = sorted(node for node in members.members if self._removed.get(node, index) < index)
        require(not back, "members", back, "were removed, and are members again at", index)

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

    def begin(self, token: int, time: float, count: int = 1, term: int = 0) -> None:
        self.asked[token] = Asked(time, self.acknowledged, self.shown, count, term)

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
        term = self._applied[outcome.index].term if outcome.index in self._applied else 0
        require(asked.term in (0, term), "fence", token, "was for term", asked.term, "applied in", term)
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


def holds(log: GroupLog, entry: EntryId) -> bool:
    """Whether a synced log has an entry, or has it no more since a snapshot covers it."""
    if entry.index <= log.prefix.index:
        return True
    position = entry.index - log.first
    return 0 <= position < len(log.terms) and log.terms[position] == entry.term


def _broken(violation: RuleBroken) -> None:
    raise Violated(violation.rule, violation.facts, violation.event)
