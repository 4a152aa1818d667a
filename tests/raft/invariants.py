"""What must hold in every cluster at every step, whatever the network, the disks and the processes do.

| name | says |
|---|---|
| election safety | at most one leader in a term (Raft 5.2) |
| one vote | a node grants one candidate a term, also across crashes (Raft 5.2) |
| leader append-only | a leader never truncates its own log (Raft 5.3) |
| log matching | no two batches share (index, term) and differ, and each follows its predecessor (Raft 5.3) |
| leader completeness | a leader has every entry that was committed in an earlier term (Raft 5.4.3) |
| state machine safety | no two nodes commit different batches at an index, or reach different states (Raft
5.4.3) | | commit | a node's commit never falls while it lives; a leader's newest commit is of its own term
(Raft 5.4.2) | | durable commit | what a leader commits is on the disks of a majority of the voters at that
moment | | promises | a reply leaves only when the disk has what it promises (thesis 10.2.1) |
| time | batch times never go back along a log |
| outcomes | each token ends once; applied means applied there, not applied means never applied (DESIGN 7) |
| reads | a read index is not below what was acknowledged before the read began (thesis 6.4) |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trimaran.actors.raft.effects import Persist
from trimaran.actors.raft.log import EntryId
from trimaran.actors.raft.membership import Membership
from trimaran.actors.raft.messages import AppendReply, BeatReply, PeerMessage, RequestVote, VoteReply
from trimaran.actors.raft.outcomes import Applied, NotApplied, Outcome
from trimaran.actors.raft.state import GroupState, Role
from trimaran.codec import Kind, read_header, walk_batch

if TYPE_CHECKING:
    from .cluster import Disk, Node


class Violation(AssertionError):
    """An invariant does not hold. The text begins with its name in the table above."""


def require(holds: bool, name: str, *facts: object) -> None:
    if not holds:
        raise Violation(f"{name}: " + " ".join(map(str, facts)))


@dataclass(slots=True)
class Committed:
    term: int  # of the batch
    by_term: int  # the term of the first leader that committed it


@dataclass(slots=True)
class Invariants:
    """The memory of one cluster, across all crashes of its nodes."""

    leaders: dict[int, int] = field(default_factory=dict)  # term -> node
    votes: dict[tuple[int, int], int] = field(default_factory=dict)  # (node, term) -> candidate
    batches: dict[tuple[int, int], bytes] = field(default_factory=dict)  # (index, term) -> bytes
    times: dict[tuple[int, int], int] = field(default_factory=dict)
    committed: dict[int, Committed] = field(default_factory=dict)
    last_committed: int = 0
    states: dict[int, int] = field(default_factory=dict)  # index -> rolling hash of the state machine
    places: dict[int, int] = field(default_factory=dict)  # token -> index at which it was applied
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    acknowledged: int = 0  # the highest index of which a client knows
    reads: dict[int, int] = field(default_factory=dict)  # token -> `acknowledged` when it began

    # --- after every step -----------------------------------------------------------------------------------

    def check_step(self, node: Node, state: GroupState, role: Role, term: int, commit: int) -> None:
        """The last three are as of before the step."""
        require(state.term >= term, "term", node.id, "fell from", term, "to", state.term)
        require(state.commit >= commit, "commit", node.id, "fell from", commit, "to", state.commit)
        log = state.log
        require(
            log.compacted.index <= state.commit <= log.last_index and state.applied <= state.commit,
            "order",
            node.id,
            (log.compacted, state.applied, state.commit, log.synced, log.last_index),
        )
        require(state.commit <= state.matched or state.role is Role.LEADER, "matched", node.id, state.matched)
        require((state.leading is not None) == (state.role is Role.LEADER), "leading", node.id, state.role)
        if state.role is Role.LEADER and (role is not Role.LEADER or term != state.term):
            self.check_new_leader(node, state)

    def check_new_leader(self, node: Node, state: GroupState) -> None:
        other = self.leaders.setdefault(state.term, node.id)
        require(other == node.id, "election safety", node.id, "and", other, "lead in term", state.term)
        newest = self.last_committed
        if newest > state.log.compacted.index and self.committed[newest].by_term < state.term:
            require(
                state.log.term_at(newest) == self.committed[newest].term,
                "leader completeness",
                (node.id, state.term),
                "lacks",
                (newest, self.committed[newest]),
            )

    def check_persist(self, node: Node, persist: Persist, *, led_before: bool, leads: bool) -> None:
        if persist.truncate_from is not None:
            require(not (led_before and leads), "leader append-only", node.id, persist.truncate_from)
        for batch in persist.batches:
            self.check_batch(node, batch)

    def check_batch(self, node: Node, batch: bytes) -> None:
        header = read_header(batch)
        place = (header.index, header.term)
        known = self.batches.setdefault(place, batch)
        require(known == batch, "log matching", node.id, "has another batch at", place)
        before = (header.index - 1, header.previous_term)
        require(before == (0, 0) or before in self.batches, "log matching", place, "follows nothing")
        self.times[place] = header.time
        require(self.times.get(before, 0) <= header.time, "time", node.id, place, "goes back")

    # --- when something leaves a node -----------------------------------------------------------------------

    def check_promise(self, node: Node, disk: Disk, peer: int, message: PeerMessage) -> None:
        """The disk as it is at the moment at which the message leaves."""
        match message:
            case AppendReply(accepted=True, match=match):
                require(
                    disk.last_index >= match, "promises", node.id, message, "disk ends at", disk.last_index
                )
            case VoteReply(granted=True, pre=False, term=term):
                require(disk.term >= term, "promises", node.id, message, "disk has term", disk.term)
                require(disk.term > term or disk.vote == peer, "promises", node.id, message, disk.vote)
                vote = self.votes.setdefault((node.id, term), peer)
                require(vote == peer, "one vote", node.id, "votes for", peer, "after", vote, "in", term)
            case RequestVote(pre=False, term=term):
                require(disk.term >= term, "promises", node.id, message, "disk has term", disk.term)
                vote = self.votes.setdefault((node.id, term), node.id)
                require(vote == node.id, "one vote", node.id, "campaigns after voting for", vote, "in", term)
            case BeatReply(term=term):
                require(disk.term >= term, "promises", node.id, message, "disk has term", disk.term)

    # --- commit and apply -----------------------------------------------------------------------------------

    def check_commit(
        self, node: Node, state: GroupState, previous: int, members: Membership, disks: dict[int, Disk]
    ) -> None:
        """`previous` and `members` are as of before the step: it may seal a change after it commits."""
        for index in range(previous + 1, state.commit + 1):
            term = state.log.term_at(index)
            if term is None:
                continue  # a snapshot brought it
            first = self.committed.setdefault(index, Committed(term, state.term))
            require(first.term == term, "state machine safety", node.id, "commits", (index, term), first)
        self.last_committed = max(self.last_committed, state.commit)
        if state.role is Role.LEADER:
            self.check_durable(node, state, members, disks)

    def check_durable(
        self, node: Node, state: GroupState, members: Membership, disks: dict[int, Disk]
    ) -> None:
        newest = EntryId(state.commit, state.term)
        require(
            state.log.term_at(newest.index) == newest.term,
            "commit",
            node.id,
            "commits an older term's",
            newest,
        )
        holders = [voter for voter in members.voters if disks[voter].holds(newest)]
        require(
            2 * len(holders) > len(members.voters), "durable commit", node.id, newest, "is only on", holders
        )

    def check_applied(self, node: Node, batch: bytes, rolling_hash: int) -> None:
        entries = walk_batch(batch)
        index = entries.header.index
        known = self.states.setdefault(index, rolling_hash)
        require(known == rolling_hash, "state machine safety", node.id, "differs at", index)
        if entries.header.kind is not Kind.NORMAL:
            return
        for _, data in entries:
            token = int.from_bytes(data[:8], "little")
            place = self.places.setdefault(token, index)
            require(place == index, "outcomes", "token", token, "is applied at", place, "and", index)
            outcome = self.outcomes.get(token)
            require(
                not isinstance(outcome, NotApplied), "outcomes", "token", token, "is applied after", outcome
            )

    # --- clients --------------------------------------------------------------------------------------------

    def check_outcome(self, token: int, outcome: Outcome) -> None:
        require(token not in self.outcomes, "outcomes", "token", token, "ends twice:", outcome)
        self.outcomes[token] = outcome
        if isinstance(outcome, Applied):
            require(self.places.get(token, outcome.index) == outcome.index, "outcomes", token, outcome)
            self.acknowledged = max(self.acknowledged, outcome.index)
        elif isinstance(outcome, NotApplied):
            require(token not in self.places, "outcomes", "token", token, "is", outcome, "yet was applied")

    def check_read(self, token: int, index: int) -> None:
        began = self.reads.pop(token)
        require(index >= began, "reads", "index", index, "but", began, "was acknowledged before")
