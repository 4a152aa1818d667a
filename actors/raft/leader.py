"""The rules of the leader (Raft figure 2 "Leaders", 5.3, 5.4.2; check-quorum, thesis 6.2).

    proposals -> one queue -> sealed batches -> the own disk and every follower, at the same moment
                                                     |
                      commit: a majority of voters has synced an entry of this term

No other role appends to the log on its own account (rule S2). What the thesis adds has its own files:

    changes.py      membership, one change at a time (thesis 4)     read_index.py   linearizable reads (6.4)
    transfer.py     handing the leadership over (3.10)              quiet.py        idle groups (DESIGN 8)
"""

from __future__ import annotations

import math

from ...codec import (
    BATCH_HEADER_SIZE,
    MAX_ENTRIES,
    Chunk,
    EntryType,
    Kind,
    payload_size,
    read_header,
    seal_batch,
)
from . import changes, follower, quiet, read_index, roles, transfer
from .effects import Effect, Fetch, Resolve, Sealed, Send, SendSnapshot
from .messages import (
    Append,
    AppendReply,
    Beat,
    BeatReply,
    Fetched,
    Message,
    Now,
    PeerDown,
    PeerSilent,
    PeerUp,
    Propose,
    ProposeMembership,
    ProposeSnapshot,
    ProposeTick,
    ReadIndex,
    RequestVote,
    Resigned,
    SnapshotReply,
    SnapshotSent,
    StorageRoom,
    Synced,
    Tick,
    TimeoutNow,
    Transfer,
)
from .outcomes import Applied, NotApplied, Outcome, Reason, Unknown
from .progress import Progress, ProgressState
from .state import GroupState, Leading, SealedBatch, Waiting, leading

Proposal = Propose | ProposeTick | ProposeSnapshot | ProposeMembership

COMMAND_BYTES = 64 << 10
"""What is larger makes the log grow, whatever it does to the state."""
WAITING_COST = 128
"""Bytes a proposal without a chunk counts in the queue, so that the queue is bounded for them as well."""

GATHER_FROM = 8
"""Entries of the batch under way that show that there are many clients, so that more will come meanwhile."""
GATHER_BYTES = 32 << 10
"""So much that waits is a batch of its own: it costs more than a batch does."""
GATHER_SECONDS = 5e-3
"""Nothing is held up if a commit takes longer than this."""


def step(state: GroupState, message: Message, now: Now) -> list[Effect]:
    match message:
        case AppendReply():
            return on_append_reply(state, message, now)
        case Synced():
            return commit_and_seal(state, now)
        case Propose() | ProposeTick() | ProposeSnapshot() | ProposeMembership():
            return on_proposal(state, message, now)
        case BeatReply():
            return on_beat_reply(state, message, now)
        case Tick():
            return on_tick(state, message, now)
        case _:
            return on_rare(state, message, now)


def on_rare(state: GroupState, message: Message, now: Now) -> list[Effect]:
    """What does not come with every batch or heartbeat."""
    match message:
        case ReadIndex(token):
            quiet.wake(state, now)
            leading(state).reads.append(token)
            return read_index.start_round(state)
        case Transfer():
            return transfer.on_transfer(state, message, now)
        case Fetched():
            return on_fetched(state, message)
        case SnapshotSent(peer, ok, index) | SnapshotReply(sender=peer, ok=ok, index=index):
            return on_snapshot_sent(state, peer, ok, index)
        case StorageRoom():
            return seal_ready(state, now)
        case PeerUp(node):
            return on_peer_up(state, node, now)
        case PeerDown(node):
            return on_peer_down(state, node, now)
        case PeerSilent(node):
            quiet.on_peer_silent(state, node, now)
        case RequestVote():
            quiet.wake(state, now)  # somebody hears no leader
            return follower.on_request_vote(state, message, now)
        case Append() | Beat() | TimeoutNow():
            raise AssertionError(f"two leaders in term {state.term}: this one and {message.sender:x}")
    return []


# --- upon election (Raft 5.2, section 8) --------------------------------------------------------------------


def take_office(state: GroupState, now: Now) -> list[Effect]:
    """Append a no-op at once: what earlier terms left behind can only commit below an entry of this one."""
    last_index = state.log.last_index
    others = state.membership.members - {state.node}
    state.leading = Leading(
        noop=last_index + 1,
        progress={peer: Progress(last_index + 1, now.monotonic) for peer in sorted(others)},
        quorum_deadline=now.monotonic + state.options.election_min,
    )
    return seal(state, Kind.NOOP, [], (), now) + beats(state)


# --- proposals: one queue for all kinds (rules S1, S4, S16) -------------------------------------------------


def on_proposal(state: GroupState, message: Proposal, now: Now) -> list[Effect]:
    """Queue it, or say at once why not. Never waits for the disk."""
    kept = leading(state)
    quiet.wake(state, now)
    waiting = as_waiting(message)
    reason = why_not(state, message, waiting, now)
    if reason is not None:
        refused = Resolve(message.token, NotApplied(reason, state.leader))
        if isinstance(message, ProposeMembership):
            return [changes.refused(state, message.change, reason), refused]
        return [refused]
    kept.queue.append(waiting)
    kept.queued_bytes += waiting.size
    return seal_ready(state, now)


def as_waiting(message: Proposal) -> Waiting:
    match message:
        case ProposeTick():
            return Waiting(message.token, Kind.TICK, size=WAITING_COST)
        case ProposeMembership():
            return Waiting(message.token, Kind.MEMBERSHIP, change=message.change, size=WAITING_COST)
        case _:
            kind = Kind.NORMAL if isinstance(message, Propose) else Kind.SNAPSHOT
            return Waiting(message.token, kind, chunk=message.chunk, size=message.chunk.encoded_size)


def why_not(state: GroupState, message: Proposal, waiting: Waiting, now: Now) -> Reason | None:
    """The reason to refuse a proposal before it is queued."""
    kept, options = leading(state), state.options
    if message.expected_term not in (0, state.term):
        return Reason.STALE_TERM  # rule S16
    if kept.handover is not None:
        return Reason.TRANSFERRING  # thesis 3.10, step 1
    if BATCH_HEADER_SIZE + waiting.size > options.max_batch_bytes:
        return Reason.TOO_LARGE  # rule S8: it would fit no batch
    if kept.sealed_bytes + kept.queued_bytes + waiting.size > options.uncommitted_bytes:
        return Reason.BUSY
    if not state.space and not options.uses_reserve and grows(message):
        return Reason.NO_SPACE
    if isinstance(message, ProposeMembership):
        return changes.why_not(state, message.change, now)
    return None


def grows(message: Proposal) -> bool:
    """Whether a proposal makes what is stored larger. A stream's commands configure, acknowledge, delete and
    purge: refused, they could not make space."""
    if not isinstance(message, Propose):
        return False
    chunk = message.chunk
    return chunk.encoded_size > COMMAND_BYTES or set(chunk.types) != {EntryType.STREAM_COMMAND}


# --- sealing (rules S2, S5, S6, S8, S15) --------------------------------------------------------------------


def seal_ready(state: GroupState, now: Now) -> list[Effect]:
    """Seal while the disk has a free slot: a batch is what arrived while the last ones were being written."""
    kept, log, slots = leading(state), state.log, state.options.pipeline_slots
    effects: list[Effect] = []
    while kept.queue and state.room and log.last_index - log.synced < slots and not gathers(kept):
        if kept.queue[0].kind is Kind.MEMBERSHIP:
            effects += changes.seal_change(state, now)
        else:
            effects += seal_next(state, now)
    return effects


def gathers(kept: Leading) -> bool:
    """Whether a few small proposals wait for the batch under way to be committed, and for more of their kind.

    A batch costs three nodes nearly the same work whether it has one message or thirty. With many clients
    that each wait for one acknowledgement, batches would else go round with a third of the clients each;
    held up for the time of one commit, the next batch has all others. With few clients a batch is small
    anyway, and where commits take long (a slow link, a slow disk) it isn't worth the wait.
    """
    return (
        bool(kept.sealed)
        and kept.queue[0].kind is Kind.NORMAL
        and kept.sealed[-1].entries >= GATHER_FROM
        and kept.queued_bytes < GATHER_BYTES
        and kept.commit_seconds < GATHER_SECONDS
    )


def seal_next(state: GroupState, now: Now) -> list[Effect]:
    """The head of the queue: successive normal proposals as one batch, anything else alone (rule S6)."""
    kept = leading(state)
    kind = kept.queue[0].kind
    taken = take_batch(state) if kind is Kind.NORMAL else [take_one(kept)]
    chunks = [waiting.chunk for waiting in taken if waiting.chunk is not None]
    tokens, start = [], 0
    for waiting in taken:
        count = waiting.chunk.count if waiting.chunk is not None else 0
        tokens.append((waiting.token, start, count))
        start += count
    return seal(state, kind, chunks, tuple(tokens), now)


def take_batch(state: GroupState) -> list[Waiting]:
    """Whole proposals (rule S15) up to the caps of a batch, counted as encoded (rule S8)."""
    kept, limit = leading(state), state.options.max_batch_bytes - BATCH_HEADER_SIZE
    taken: list[Waiting] = []
    count = entries_size = 0
    while kept.queue and kept.queue[0].kind is Kind.NORMAL:
        chunk = kept.queue[0].chunk
        assert chunk is not None
        count += chunk.count
        entries_size += chunk.entries_size
        if taken and (count > MAX_ENTRIES or payload_size(count, entries_size) > limit):
            break
        taken.append(take_one(kept))
    return taken


def take_one(kept: Leading) -> Waiting:
    waiting = kept.queue.popleft()
    kept.queued_bytes -= waiting.size
    return waiting


def seal(
    state: GroupState, kind: Kind, chunks: list[Chunk], tokens: tuple[tuple[int, int, int], ...], now: Now
) -> list[Effect]:
    """Append one batch: encoded once, and off to the disk and to every follower with nothing in between."""
    kept, log = leading(state), state.log
    index = log.last_index + 1
    time = max(log.last_time, now.wall)  # the log's clock never goes back, whoever leads
    batch = seal_batch(
        chunks,
        kind=kind,
        group=state.group,
        incarnation=state.incarnation,
        index=index,
        term=state.term,
        previous_term=log.last.term,
        time=time,
    )
    log.append(batch, index, state.term, time)
    entries = sum(count for _, _, count in tokens)
    kept.sealed.append(
        SealedBatch(index, len(batch), tuple(token for token, _, _ in tokens), entries, now.monotonic)
    )
    kept.sealed_bytes += len(batch)
    effects: list[Effect] = [Sealed(index, state.term, tokens)] if tokens else []
    effects.append(state.persist(now, batches=(batch,)))
    alone = (batch,)
    for peer, progress in kept.progress.items():
        if progress.next == index and progress.streams():  # it lacks nothing but this
            effects.append(append(state, peer, progress, alone))
        else:
            effects += feed(state, peer, progress)
    return effects


# --- replication (Raft 5.3; progress.py) --------------------------------------------------------------------


def feed(state: GroupState, peer: int, progress: Progress) -> list[Effect]:
    """Send what this follower lacks, as far as its window allows."""
    log = state.log
    effects: list[Effect] = []
    if progress.next > log.last_index and progress.state is ProgressState.PIPELINE:
        return effects
    while progress.may_send():
        if progress.next < log.first_index:
            progress.become_snapshot()
            return [*effects, SendSnapshot(peer)]
        if progress.state is ProgressState.PROBE:
            effects.append(append(state, peer, progress, probe_load(state, progress.next)))
            break
        if progress.next > log.last_index:
            break
        batches = log.cached(progress.next, state.options.append_bytes)
        if batches is None:
            progress.fetching = progress.next
            last = log.cached_from - 1
            return [*effects, Fetch(peer, progress.next, last, state.options.append_bytes)]
        effects.append(append(state, peer, progress, batches))
    return effects


def probe_load(state: GroupState, first: int) -> tuple[bytes, ...]:
    """A probe may be refused or lost, so it carries little: nothing at all if the next batch is large."""
    batches = state.log.cached(first, state.options.probe_bytes) or ()
    return batches if sum(map(len, batches)) <= state.options.probe_bytes else ()


def append(state: GroupState, peer: int, progress: Progress, batches: tuple[bytes, ...]) -> Send:
    previous = progress.next - 1
    previous_term = state.log.term_at(previous)
    assert previous_term is not None, f"the log does not know the term of {previous}"
    message = Append(
        group=state.group,
        incarnation=state.incarnation,
        sender=state.node,
        term=state.term,
        previous_index=previous,
        previous_term=previous_term,
        commit=state.commit,
        session=progress.session,
        batches=batches,
    )
    progress.sent(previous + len(batches), sum(map(len, batches)))
    return Send(peer, message)


def on_append_reply(state: GroupState, reply: AppendReply, now: Now) -> list[Effect]:
    progress = leading(state).progress.get(reply.sender)
    if progress is None or reply.match > state.log.last_index:
        return []
    progress.heard(now.monotonic)
    if not reply.accepted:
        return on_refusal(state, reply, progress)
    progress.acknowledge(reply.match, counts=reply.counts)
    if progress.is_answered(reply.session) or (
        progress.state is ProgressState.SNAPSHOT and progress.match >= state.log.compacted.index
    ):
        progress.become_pipeline()
    changes.follow_round(state, progress, now)
    effects = commit_and_seal(state, now)
    if state.leading is None:  # the commit removed this leader from the members
        return effects
    return effects + feed(state, reply.sender, progress) + transfer.push(state)


def on_refusal(state: GroupState, reply: AppendReply, progress: Progress) -> list[Effect]:
    """Go back to where the logs may agree (Raft 5.3, end). What a snapshot covers can't be compared."""
    if reply.session != progress.session or progress.state is ProgressState.SNAPSHOT:
        return []
    if not reply.counts:
        progress.forget()
    log = state.log
    if reply.hint_index < log.compacted.index:
        next_index = reply.hint_index + 1
    else:
        agree = log.newest_not_after(reply.hint_index, reply.hint_term)
        next_index = agree.index + 1 if agree.term <= reply.hint_term else agree.index
    asked = progress.next
    progress.become_probe(next_index)
    progress.paused = progress.next >= asked  # it denies what it had acknowledged: not again at once
    return feed(state, reply.sender, progress)


def on_fetched(state: GroupState, message: Fetched) -> list[Effect]:
    """Older batches from the disk. They are sent if they are still what is wanted, and what this log has."""
    progress = leading(state).progress.get(message.peer)
    if progress is None or message.first != progress.fetching:
        return []
    progress.fetching = 0
    if message.first != progress.next or message.first < state.log.first_index:
        return feed(state, message.peer, progress)
    if message.failed or not is_own(state, message):
        progress.become_probe(progress.next)
        progress.paused = progress.next >= state.log.first_index  # try again after a heartbeat, not at once
        return feed(state, message.peer, progress)
    return [append(state, message.peer, progress, message.batches), *feed(state, message.peer, progress)]


def is_own(state: GroupState, message: Fetched) -> bool:
    """Whether these batches are what the log has now: the answer may be to a question of an earlier term."""
    headers = [read_header(batch) for batch in message.batches]
    return bool(headers) and all(
        (header.index, header.term) == (index, state.log.term_at(index))
        for index, header in enumerate(headers, message.first)
    )


def on_snapshot_sent(state: GroupState, peer: int, ok: bool, index: int) -> list[Effect]:
    """A snapshot is no acknowledgement: it only moves the place where the probe begins."""
    progress = leading(state).progress.get(peer)
    if progress is None or progress.state is not ProgressState.SNAPSHOT:
        return []
    if ok and index <= state.log.last_index:
        progress.become_probe(index + 1)
        return feed(state, peer, progress)
    progress.become_probe(progress.next)
    progress.paused = True  # try again after a heartbeat, not at once
    return []


def on_peer_up(state: GroupState, node: int, now: Now) -> list[Effect]:
    """What was in flight may be lost."""
    quiet.wake(state, now)
    progress = leading(state).progress.get(node)
    if progress is None:
        return []
    progress.become_probe(progress.match + 1 if progress.match else progress.next)
    return feed(state, node, progress)


def on_peer_down(state: GroupState, node: int, now: Now) -> list[Effect]:
    """Send nothing more than heartbeats until it answers."""
    quiet.on_peer_silent(state, node, now)
    progress = leading(state).progress.get(node)
    if progress is not None:
        progress.become_probe(progress.match + 1 if progress.match else progress.next)
        progress.paused = True
    return []


# --- commit (Raft 5.3, 5.4.2) -------------------------------------------------------------------------------


def commit_and_seal(state: GroupState, now: Now) -> list[Effect]:
    """Something was synced, here or elsewhere: more may be committed, and a slot may be free."""
    # Half of the acknowledgements, and the own sync most often, come when a majority was there before them.
    index = quorum_match(state) if state.commit < state.log.last_index else 0
    effects: list[Effect] = []
    if index > state.commit and state.log.term_at(index) == state.term:  # never by counting an older term's
        effects += advance(state, index, now)
    if state.leading is not None:
        effects += seal_ready(state, now)
    return effects


def quorum_match(state: GroupState) -> int:
    """The highest index a majority of the voters has synced; the own disk is one vote (thesis 10.2.1)."""
    progress, synced = leading(state).progress, state.log.synced
    members = state.membership
    matches = [
        synced if voter == state.node else progress[voter].vouched if voter in progress else 0
        for voter in members.voters
    ]
    matches.sort(reverse=True)
    return matches[members.quorum() - 1]


def advance(state: GroupState, index: int, now: Now) -> list[Effect]:
    """Commit up to `index`, and what follows from that besides applying."""
    kept, before = leading(state), state.commit
    effects = state.advance_commit(index)
    while kept.sealed and kept.sealed[0].index <= state.commit:
        batch = kept.sealed.popleft()
        kept.sealed_bytes -= batch.size
        kept.commit_seconds = now.monotonic - batch.since
    told = read_index.start_round(state)
    if state.options.eager_commit and not told:
        told = beats(state)
    effects += told
    if before < state.memberships.last_change <= state.commit:
        effects += changes.dismiss_removed(state)
        if not state.may_lead:  # thesis 4.2.2: it led until its own removal was committed
            effects += beats(state)
            effects += roles.become_follower(state, now, term=state.term)
    return effects


# --- heartbeats and check-quorum (Raft 5.2, thesis 6.2) -----------------------------------------------------


def next_beat(state: GroupState, now: Now) -> float:
    """All groups beat on one grid, so that a node's heartbeats to a peer travel together."""
    interval = state.options.heartbeat
    grid = (math.floor(now.monotonic / interval) + 1) * interval
    return grid if grid > now.monotonic else grid + interval


def on_tick(state: GroupState, tick: Tick, now: Now) -> list[Effect]:
    if now.monotonic < state.deadline:
        return []
    if state.quiet:
        state.deadline = now.monotonic + state.options.quiet_heartbeat
        return beats(state, quiet=True)
    if not tick.late and must_step_down(state, now):
        return roles.become_follower(state, now, term=state.term)
    state.deadline = next_beat(state, now)
    for progress in leading(state).progress.values():
        progress.may_repeat = True
    resting = quiet.may_be_quiet(state, now)
    if resting:
        quiet.rest_if_agreed(state, now)  # also if there is nobody to ask
    return transfer.expire(state, now) + beats(state, quiet=resting)


def must_step_down(state: GroupState, now: Now) -> bool:
    """Nobody is served by a leader that a majority does not hear, or whose own disk stands still."""
    if state.unsynced and now.monotonic - state.unsynced[0].since > state.options.fsync_deadline:
        return True
    kept = leading(state)
    if now.monotonic < kept.quorum_deadline:
        return False
    heard = {peer for peer, progress in kept.progress.items() if progress.active} | {state.node}
    for progress in kept.progress.values():
        progress.active = False
    kept.quorum_deadline = now.monotonic + state.options.election_min
    return not state.membership.is_quorum(heard)


def beats(state: GroupState, *, quiet: bool = False) -> list[Effect]:
    kept = leading(state)
    beat = Beat(**state.envelope(), commit=state.commit, read=kept.read_number, quiet=quiet)
    return [Send(peer, beat) for peer in kept.progress]


def on_beat_reply(state: GroupState, reply: BeatReply, now: Now) -> list[Effect]:
    """A sign of life, a vote for the reads that wait, and the moment to notice that frames were lost."""
    progress = leading(state).progress.get(reply.sender)
    if progress is None:
        return []
    progress.heard(now.monotonic)
    changes.follow_round(state, progress, now)
    quiet.agree(state, reply, now)
    effects = read_index.confirm(state, reply)
    if progress.next <= state.log.compacted.index <= reply.match:
        # It has what the log lacks, and this leader does not know: a snapshot's answer was lost, or the link
        # was new before it acknowledged anything behind it. It would refuse each further snapshot as old.
        progress.become_probe(reply.match + 1)
    elif progress.may_repeat:
        progress.may_repeat = False
        if progress.state is ProgressState.PROBE:
            progress.paused = False
        elif progress.state is ProgressState.PIPELINE and (
            progress.is_stuck(reply.match) or progress.is_mute()
        ):
            progress.become_probe(progress.match + 1)
    return effects + feed(state, reply.sender, progress)


# --- the end of a leadership --------------------------------------------------------------------------------


def announce_end(state: GroupState) -> list[Effect]:
    """No follower should wait for a leader that knows it is none; a quiet one would wait for long."""
    return [Send(peer, Resigned(**state.envelope())) for peer in leading(state).progress]


def resign(state: GroupState, reason: Reason, hint: int = 0) -> list[Effect]:
    """Who waits learns what is certain: queued is in no log, sealed may yet be committed (DESIGN 7)."""
    kept = leading(state)
    state.leading = None
    refused = NotApplied(reason, hint)
    unknown = Unknown(Reason.LEADERSHIP_LOST if reason is Reason.NOT_LEADER else reason)
    ends: list[tuple[int, Outcome]] = [(token, unknown) for batch in kept.sealed for token in batch.tokens]
    ends += [(waiting.token, refused) for waiting in kept.queue]
    ends += [(token, refused) for token in kept.reads]
    if kept.read_round is not None:
        ends += [(token, refused) for token in kept.read_round.tokens]
    if kept.handover is not None:
        done = kept.handover.sent and reason is Reason.NOT_LEADER
        ends.append((kept.handover.token, Applied(state.commit) if done else refused))
    return [Resolve(token, outcome) for token, outcome in ends]
