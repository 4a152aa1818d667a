"""Bugs that nobody had tuned the simulator for when they were written down: 4 of 12 were caught then.

It has been looked at what hid the others, so they say nothing about bugs that nobody thought of any more;
`careless.py` has such. Two of the twelve were none, and are gone: `GroupState.applied` not moved by a
snapshot (no rule and nobody else relies on it), and a copy of another batch put into a hole (who gives a copy
and who takes it in have both compared it with what is missing before).
"""

from __future__ import annotations

from .plant import Bug, bug

UNFORESEEN: tuple[Bug, ...] = (
    bug(
        "a read is answered as of what the leader has applied",
        "actors.raft.read_index:finish_round",
        "ReadReady(token, round_.index)",
        "ReadReady(token, state.applied)",
    ),
    bug(
        "the first entry of a term is taken for the one before it",
        "actors.raft.leader:take_office",
        "noop=last_index + 1,",
        "noop=last_index,",
    ),
    bug(
        "an installed snapshot counts as synced at once",
        "actors.raft.log:Log.reset",
        "self.synced = 0",
        "self.synced = index",
    ),
    bug(
        "a damaged hard state in the last write is dropped",
        "storage.replay:Replay._kept",
        "if record.kind == HARD_STATE:",
        "if False:",
    ),
    bug(
        "a session's floor is not restored",
        "actors.replica.sessions:SessionTable.restore",
        "_Session(used, floor, kept)",
        "_Session(used, 0, kept)",
    ),
    bug(
        "recovery goes on with a write's number that was used",
        "storage.recovery:_start_segment",
        "sequence = replay.sequence + 1",
        "sequence = replay.sequence",
    ),
    bug(
        "a batch may be one proposal too large",
        "actors.raft.leader:take_batch",
        "count += chunk.count",
        "count += 0",
    ),
    bug(
        "a refusal leaves before its term is synced",
        "actors.raft.follower:refuse_append",
        "return state.promise(now, Send(message.sender, reply))",
        "return Send(message.sender, reply)",
    ),
    bug(
        "a transfer that came to nothing goes on",
        "actors.raft.transfer:expire",
        "kept.handover = None",
        "pass",
    ),
    bug(
        "a leader helps whoever wants to replace it",
        "actors.raft.state:GroupState.in_lease",
        "if self.leader == self.node:",
        "if False:",
    ),
)
