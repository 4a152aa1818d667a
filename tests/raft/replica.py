"""One Raft core in the hands of a test: messages in, effects out, a disk that syncs when the test says so."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from trimaran.actors.raft import roles
from trimaran.actors.raft.effects import Effect, Persist, Resolve, Send
from trimaran.actors.raft.membership import Membership
from trimaran.actors.raft.messages import (
    Append,
    AppendReply,
    Beat,
    BeatReply,
    Message,
    Now,
    PeerMessage,
    Propose,
    RequestVote,
    Synced,
    Tick,
    VoteReply,
)
from trimaran.actors.raft.outcomes import Outcome
from trimaran.actors.raft.state import GroupState, RaftOptions, Role
from trimaran.codec import Chunk, EntryType, Kind, make_chunk, seal_batch

GROUP, INCARNATION = 2, 77
Kindred = TypeVar("Kindred")


def batch(
    index: int, term: int, previous_term: int, *, kind: Kind = Kind.NORMAL, data: bytes = b"x", time: int = 0
) -> bytes:
    """A sealed batch as another leader would have made it."""
    chunks = [] if kind in (Kind.NOOP, Kind.TICK) else [chunk_of(data)]
    return seal_batch(
        chunks,
        kind=kind,
        group=GROUP,
        incarnation=INCARNATION,
        index=index,
        term=term,
        previous_term=previous_term,
        time=time,
    )


def batches(first: int, previous_term: int, terms: Sequence[int]) -> tuple[bytes, ...]:
    """Successive batches of these terms, the first at `first`."""
    before = [previous_term, *terms]
    return tuple(batch(first + i, term, before[i]) for i, term in enumerate(terms))


def chunk_of(*entries: bytes) -> Chunk:
    return make_chunk([(EntryType.OPAQUE, entry) for entry in entries])


class Replica:
    """The replica `node` of `voters`; its log already has batches of the terms in `log` (index 1, 2, ...)."""

    def __init__(
        self,
        node: int = 1,
        *,
        voters: Sequence[int] = (1, 2, 3),
        learners: Sequence[int] = (),
        term: int = 0,
        vote: int = 0,
        log: Sequence[int] = (),
        commit: int = 0,
        unrestored: bool = False,
        forgetful: bool = False,
        holes: Sequence[int] = (),
        options: RaftOptions | None = None,
    ) -> None:
        self.time = 100.0
        self.wall = 1_000
        self.effects: list[Effect] = []
        self.released: list[Send] = []
        self.unsynced: list[Persist] = []
        self.tokens = 0
        self.options = options if options is not None else RaftOptions()
        self.state = GroupState.recovered(
            group=GROUP,
            incarnation=INCARNATION,
            node=node,
            options=self.options,
            randomness=random.Random(1),
            now=self.now(),
            settled=Membership.of(voters, learners),
            term=max([term, *log]),
            vote=vote,
            entries=[(index, term, int(Kind.NORMAL), 88) for index, term in enumerate(log, 1)],
            commit=commit,
            unrestored=unrestored,
            forgetful=forgetful,
            holes=holes,
        )

    def now(self) -> Now:
        return Now(self.time, self.wall)

    # --- driving --------------------------------------------------------------------------------------------

    def step(self, message: Message) -> list[Effect]:
        self.effects = roles.step(self.state, message, self.now())
        self.unsynced += [effect for effect in self.effects if isinstance(effect, Persist)]
        return self.effects

    def sync(self) -> list[Send]:
        """The disk finishes what it has. What that releases, and what the core does then (in `effects`)."""
        written, self.unsynced = self.unsynced, []
        released = [send for persist in written for send in persist.release]
        self.effects = []
        if written:
            self.step(Synced(written[-1].number))
        return released

    def settle(self) -> list[Send]:
        """Sync until nothing is left to sync; everything that left meanwhile."""
        left: list[Send] = []
        while self.unsynced:
            left += self.sync() + self.all(Send)
        return left

    def wait(self, seconds: float) -> None:
        self.time += seconds

    def tick(self) -> list[Effect]:
        """Let the deadline pass."""
        self.time = max(self.time, self.state.deadline)
        return self.step(Tick())

    def campaign(self) -> list[Send]:
        """From an election timeout through the pre-vote to the requests that leave after the sync."""
        self.tick()
        if self.state.role is Role.PRE_CANDIDATE:
            for voter in self.others():
                if self.state.role is Role.PRE_CANDIDATE:
                    self.step(self.vote_reply(voter, pre=True))
        assert self.state.role is Role.CANDIDATE, self.state.role
        return self.sync()

    def lead(self) -> Replica:
        """Become leader with every voter's help; the no-op is sealed, and synced nowhere yet."""
        self.campaign()
        for voter in self.others():
            if self.state.role is Role.CANDIDATE:
                self.step(self.vote_reply(voter))
        assert self.state.role is Role.LEADER, self.state.role
        return self

    def serve(self) -> Replica:
        """Lead, with the no-op synced and acknowledged by everyone."""
        self.lead()
        self.settle()
        self.acknowledge(*self.state.membership.members - {self.state.node})
        assert self.state.commit == self.state.log.last_index
        return self

    def acknowledge(self, *peers: int, match: int | None = None) -> None:
        """These peers have synced up to `match` (the log's end)."""
        for peer in peers:
            self.step(self.append_reply(peer, match if match is not None else self.state.log.last_index))

    def propose(self, *entries: bytes, expected_term: int = 0, chunk: Chunk | None = None) -> int:
        self.tokens += 1
        self.step(Propose(chunk or chunk_of(*(entries or (b"x",))), self.tokens, expected_term))
        return self.tokens

    # --- what came of it ------------------------------------------------------------------------------------

    def role(self) -> Role:
        return self.state.role

    def others(self) -> list[int]:
        return sorted(self.state.membership.voters - {self.state.node})

    def all(self, kind: type[Kindred]) -> list[Kindred]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def one(self, kind: type[Kindred]) -> Kindred:
        found = self.all(kind)
        assert len(found) == 1, f"{len(found)} {kind.__name__} in {self.effects}"
        return found[0]

    def sent(self, kind: type[Kindred], to: int | None = None) -> list[Kindred]:
        """Messages of this kind that left at once."""
        return [
            send.message
            for send in self.all(Send)
            if isinstance(send.message, kind) and to in (None, send.peer)
        ]

    def outcomes(self) -> dict[int, Outcome]:
        return {effect.token: effect.outcome for effect in self.all(Resolve)}

    def terms(self) -> list[int]:
        log = self.state.log
        return [log.term_at(index) or 0 for index in range(log.first_index, log.last_index + 1)]

    # --- messages of peers ----------------------------------------------------------------------------------

    def request_vote(
        self, sender: int, term: int, last: tuple[int, int], *, pre: bool = False, transfer: bool = False
    ) -> RequestVote:
        return RequestVote(
            group=GROUP,
            incarnation=INCARNATION,
            sender=sender,
            term=term,
            last_index=last[0],
            last_term=last[1],
            pre=pre,
            transfer=transfer,
        )

    def vote_reply(
        self, sender: int, *, pre: bool = False, granted: bool = True, term: int | None = None
    ) -> VoteReply:
        term = self.state.term if term is None else term
        return VoteReply(
            group=GROUP, incarnation=INCARNATION, sender=sender, term=term, pre=pre, granted=granted
        )

    def append(
        self,
        sender: int,
        term: int,
        previous: tuple[int, int],
        terms: Sequence[int] = (),
        *,
        commit: int = 0,
        session: int = 1,
        content: tuple[bytes, ...] | None = None,
    ) -> Append:
        return Append(
            group=GROUP,
            incarnation=INCARNATION,
            sender=sender,
            term=term,
            previous_index=previous[0],
            previous_term=previous[1],
            commit=commit,
            session=session,
            batches=batches(previous[0] + 1, previous[1], terms) if content is None else content,
        )

    def append_reply(
        self, sender: int, match: int, *, term: int | None = None, session: int = 1
    ) -> AppendReply:
        return AppendReply(
            group=GROUP,
            incarnation=INCARNATION,
            sender=sender,
            term=self.state.term if term is None else term,
            session=session,
            accepted=True,
            match=match,
        )

    def refusal(self, sender: int, append: Append, hint: tuple[int, int]) -> AppendReply:
        return AppendReply(
            group=GROUP,
            incarnation=INCARNATION,
            sender=sender,
            term=self.state.term,
            session=append.session,
            accepted=False,
            match=append.previous_index,
            hint_index=hint[0],
            hint_term=hint[1],
        )

    def beat_reply(self, sender: int, *, match: int = 0, read: int = 0) -> BeatReply:
        return BeatReply(
            group=GROUP,
            incarnation=INCARNATION,
            sender=sender,
            term=self.state.term,
            read=read,
            match=match,
        )

    def beat(self, sender: int, term: int, *, commit: int = 0, read: int = 0) -> Beat:
        return Beat(group=GROUP, incarnation=INCARNATION, sender=sender, term=term, commit=commit, read=read)


def messages_in(sends: Sequence[Send], kind: type[Kindred]) -> list[Kindred]:
    return [send.message for send in sends if isinstance(send.message, kind)]


def peers_of(sends: Sequence[Send], kind: type[PeerMessage]) -> list[int]:
    return [send.peer for send in sends if isinstance(send.message, kind)]
