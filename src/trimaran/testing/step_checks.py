"""What must hold of every single step of the rules, whatever came before it.

The properties of `checks.py` are about what others see: they fail when harm was done, which may take several
misfortunes at once. These are about what a replica believes, sends and leaves undone in one step.

| property | says |
|---|---|
| promises | an acknowledgement counts only below the first batch that is known to be unreadable |
| belief | what a leader counts as acknowledged by a member is synced there, if that member has not joined a newer term (Raft figure 2, matchIndex); and it is below what will be sent next |
| own log | an append carries batches that its leader's log has (Raft 5.3) |
| one change | a leader appends a change of the members only once it has committed something of its term, and the change before (thesis 4.1, and its correction) |
| prompt | nothing waits at a leader for what is there already: a read for a majority that has confirmed it, or for a round that may begin; a proposal for a free slot, with nothing under way |
| lease | whoever leads, or has just heard a leader, helps nobody to replace it but on that leader's own word (thesis 4.2.3) |
| quiet | only followers of a known leader rest, and leaders with nothing to do, to whom all in reach have acknowledged everything |
| outcomes | the rules end a proposal or a read once |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..actors.raft import effects as asks
from ..actors.raft.effects import Effect
from ..actors.raft.log import EntryId
from ..actors.raft.messages import (
    Append,
    AppendReply,
    Beat,
    Message,
    Now,
    PeerDown,
    PeerMessage,
    PeerSilent,
    PeerUp,
    RequestVote,
    Resigned,
    VoteReply,
)
from ..actors.raft.progress import Progress
from ..actors.raft.state import NEVER, GroupState, Leading, Role
from ..codec import read_header
from .checks import require

Belief = Callable[[GroupState, int, EntryId, EntryId], None]
"""Checks (leader, peer, matched, vouched) against the peer's disk."""


class StepChecks:
    """Those of one life of one replica: `before` and `after` each step.

    Args:
        believes: called with what a leader came to know of a peer.
    """

    def __init__(self, believes: Belief) -> None:
        self._believes = believes
        self._ended: set[int] = set()
        """Tokens that the rules have resolved."""
        self._heard = (0, -NEVER)
        """Whose lease holds, and since when (s)."""
        self._role, self._term, self._change = Role.FOLLOWER, 0, 0
        self._leased = False
        self._match = 0

    def before(self, state: GroupState, message: Message, now: Now) -> None:
        """Remember what the step is not to change."""
        self._role, self._term = state.role, state.term
        self._change = state.memberships.last_change
        if type(message) is RequestVote:
            self._leased = self._is_leased(state, message, now)
        elif type(message) is AppendReply and state.leading is not None:
            progress = state.leading.progress.get(message.sender)
            self._match = progress.match if progress is not None else 0

    def after(self, state: GroupState, message: Message, effects: Sequence[Effect], now: Now) -> None:
        """Raises `Violated`."""
        match message:
            case Append() | Beat():
                if (message.sender, message.term) == (state.leader, state.term):
                    self._heard = (message.sender, now.monotonic)
            case AppendReply():
                self._check_belief(state, message)
            case RequestVote():
                self._check_vote(state, message, effects)
            case PeerDown() | PeerUp() | PeerSilent() | Resigned():
                self._doubt(message)
        kept = state.leading
        if kept is not None:
            check_prompt(state, kept)
            if state.memberships.last_change > self._change and self._role is Role.LEADER:
                check_change(state, self._change)
        if state.quiet:
            check_quiet(state)
        for effect in effects:
            self._check_effect(state, effect)

    def _check_effect(self, state: GroupState, effect: Effect) -> None:
        if isinstance(effect, asks.Send):
            message = effect.message
            if isinstance(message, AppendReply):
                check_acknowledgement(state, message)
            elif isinstance(message, Append) and message.batches:
                check_own(state, message)
        elif isinstance(effect, asks.Persist):
            for send in effect.release:
                check_acknowledgement(state, send.message)
        elif isinstance(effect, asks.Resolve | asks.ReadReady):
            token = effect.token
            require(token not in self._ended, "outcomes", token, "is ended twice by", state.node)
            self._ended.add(token)

    # --- what a leader believes -----------------------------------------------------------------------------

    def _check_belief(self, state: GroupState, reply: AppendReply) -> None:
        """Once for each acknowledgement that taught the leader something."""
        kept = state.leading
        progress = kept.progress.get(reply.sender) if kept is not None else None
        if progress is None:
            return
        check_progress(state, reply.sender, progress)
        if progress.match != self._match:
            match, vouched = _entry(state, progress.match), _entry(state, progress.vouched)
            self._believes(state, reply.sender, match, vouched)

    # --- leases ---------------------------------------------------------------------------------------------

    def _doubt(self, message: PeerDown | PeerUp | PeerSilent | Resigned) -> None:
        """The leader's own word, or that its link closed, ends its lease. A quiet one rests on less."""
        about = message.sender if isinstance(message, Resigned) else message.node
        if about == self._heard[0]:
            self._heard = (0, -NEVER)

    def _is_leased(self, state: GroupState, message: RequestVote, now: Now) -> bool:
        if message.transfer or (message.group, message.incarnation) != (state.group, state.incarnation):
            return False
        if state.role is Role.LEADER:
            return True
        leader, heard = self._heard
        known = leader == state.leader != 0 and message.sender != leader
        return known and now.monotonic - heard < state.options.election_min

    def _check_vote(self, state: GroupState, message: RequestVote, effects: Sequence[Effect]) -> None:
        if message.pre and message.sender == state.leader:
            self._heard = (0, -NEVER)  # it does not lead
        if not self._leased:
            return
        self._leased = False
        same = (state.term, state.role) == (self._term, self._role)
        require(same, "lease", state.node, "steps back for", message.sender)
        new = message.pre or message.term > state.term
        require(not (new and _grants(effects)), "lease", state.node, "helps", message.sender)


def _entry(state: GroupState, index: int) -> EntryId:
    """What the log has there; a term of 0 where it can't say."""
    return EntryId(index, state.log.term_at(index) or 0)


def _grants(effects: Sequence[Effect]) -> bool:
    sends = [effect for effect in effects if isinstance(effect, asks.Send)]
    sends += [send for effect in effects if isinstance(effect, asks.Persist) for send in effect.release]
    return any(isinstance(send.message, VoteReply) and send.message.granted for send in sends)


def check_progress(state: GroupState, peer: int, progress: Progress) -> None:
    facts = (progress.vouched, progress.match, progress.next)
    require(progress.vouched <= progress.match < progress.next, "belief", state.node, "of", peer, facts)


def check_acknowledgement(state: GroupState, message: PeerMessage) -> None:
    """A reply was made, if only to be sent once something is synced."""
    if state.log.holes and isinstance(message, AppendReply) and message.accepted and message.counts:
        hole = min(state.log.holes)
        require(message.match < hole, "promises", state.node, "acknowledges", message.match, "lacks", hole)


def check_own(state: GroupState, message: Append) -> None:
    """The last batch stands for all: each names the term of the one before it."""
    header = read_header(message.batches[-1])
    own = header.index == message.previous_index + len(message.batches)
    own = own and state.log.term_at(header.index) == header.term
    require(own, "own log", state.node, "sends", (header.index, header.term), "which is not in its log")


def check_change(state: GroupState, before: int) -> None:
    """A change stands at the end of a leader's log; `before` is where the last one is."""
    term = state.log.term_at(state.commit)
    require(term == state.term, "one change", state.node, "committed nothing in", state.term, "but in", term)
    require(before <= state.commit, "one change", state.node, "has one at", before, "open")


def check_prompt(state: GroupState, kept: Leading) -> None:
    round_ = kept.read_round
    if round_ is not None:
        waits = not state.membership.is_quorum(round_.confirmed_by)
        require(waits, "prompt", state.node, "does not answer reads", round_.tokens)
    elif kept.reads:
        require(state.commit < kept.noop, "prompt", state.node, "begins no round for", kept.reads)
    if kept.queue and state.room:
        busy = state.log.last_index - state.log.synced >= state.options.pipeline_slots
        # With a slot free, a few small ones may wait for the commit of a batch: `leader.gathers`.
        held_up = busy or bool(kept.sealed)
        require(held_up, "prompt", state.node, "seals nothing of", len(kept.queue), "proposals")


def check_quiet(state: GroupState) -> None:
    if state.ended is not None:
        return
    require(state.leader, "quiet", state.node, "rests as", state.role.value, "of nobody")
    kept = state.leading
    if kept is None:
        return
    busy = kept.queue or kept.reads or kept.read_round or kept.handover
    done = state.commit == state.log.last_index and not busy
    require(done, "quiet", state.node, "rests and has committed", state.commit, "of", state.log.last_index)
    for peer, progress in kept.progress.items():
        knows = peer in state.closed_links or progress.match == state.log.last_index
        require(knows, "quiet", state.node, "rests, but of", peer, "knows", progress.match)
