"""What a careless maintainer does: off by one, a reset forgotten, a case left out. Never tuned for.

They were written down when the simulator was done, one or two for each part of the rules, and hunted as they
are. Whoever makes it catch one of them better says so here and in docs/testing.md, and writes new ones.
"""

from __future__ import annotations

from .plant import Bug, bug

CARELESS: tuple[Bug, ...] = (
    bug(
        "an append that begins inside the snapshot is counted one too long",
        "actors.raft.follower:on_append",
        "if each.header.index > compacted.index]",
        "if each.header.index >= compacted.index]",
    ),
    bug(
        "a hard state counts as synced while it is being written",
        "actors.raft.state:GroupState.hard_state_synced",
        "self.unsynced[0].number > self.hard_state_in",
        "self.unsynced[0].number >= self.hard_state_in",
    ),
    bug(
        "a candidate believes what it knew to match in the last term",
        "actors.raft.roles:become_candidate",
        "state.term, state.vote, state.matched = state.term + 1, state.node, state.commit",
        "state.term, state.vote = state.term + 1, state.node",
    ),
    bug(
        "a learner that was promoted does not notice",
        "actors.raft.follower:store",
        "members_changed = True",
        "pass",
    ),
    bug(
        "the last voter may be released",
        "actors.raft.membership:Membership.after",
        "case ChangeKind.RELEASE if node in self.members and self.voters != alone:",
        "case ChangeKind.RELEASE if node in self.members:",
    ),
    bug(
        "reads stay in the queue when their round begins",
        "actors.raft.read_index:start_round",
        "kept.reads = []",
        "pass",
    ),
    bug(
        "a read of the log that was answered counts as still under way",
        "actors.raft.leader:on_fetched",
        "progress.fetching = 0",
        "pass",
    ),
    bug(
        "the commit hint of a damaged hard state is read all the same",
        "storage.index:LogIndex.apply",
        "decode_commit(body) if intact else log.commit",
        "decode_commit(body)",
    ),
    bug(
        "a session's use does not keep it alive",
        "actors.replica.sessions:SessionTable.admit",
        "session.used = time",
        "pass",
    ),
    bug(
        "what a snapshot covers is still missed",
        "actors.raft.log:Log.compact",
        "self.holes = {hole for hole in self.holes if hole > index}",
        "pass",
    ),
    bug(
        "a change of the members that was put back is not taken for one",
        "actors.raft.healing:on_synced",
        "if membership is not None:",
        "if False:",
    ),
    bug(
        "a snapshot as of a change lacks it",
        "actors.raft.membership:MembershipHistory.at",
        "if changed_at > index:",
        "if changed_at >= index:",
    ),
)
