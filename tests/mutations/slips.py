"""Slips in real code, written down before the simulator was made to catch them..

What of them it caught when they were new is in docs/testing.md. Three were no bugs, since another rule covers
for each of them; in their place are such as take both away.
"""

from __future__ import annotations

from .plant import Bug, Edit, bug

SLIPS: tuple[Bug, ...] = (
    # The answer to a pre-vote never counts as a vote by itself: it carries the term before the new one.
    bug(
        "who granted the pre-vote has granted the vote",
        "actors.raft.roles:_move",
        "state.granted.clear()",
        "pass",
    ),
    bug(
        "a leader never counts whom it still hears",
        "actors.raft.leader:must_step_down",
        "return not state.membership.is_quorum(heard)",
        "return False",
    ),
    bug(
        "a read joins the round that is under way",
        "actors.raft.leader:on_rare",
        "leading(state).reads.append(token)",
        "(kept.read_round.tokens if (kept := leading(state)).read_round else kept.reads).append(token)",
    ),
    bug(
        "a group that was quiet stays so in the next term",
        "actors.raft.roles:_move",
        "state.quiet = False",
        "pass",
    ),
    bug(
        "a truncation takes back one membership too few",
        "actors.raft.membership:MembershipHistory.truncate_from",
        "if changed_at < index]",
        "if changed_at <= index]",
    ),
    bug(
        "the hint after a conflict is one entry too far",
        "actors.raft.log:Log.newest_not_after",
        "index = self._run_starts[run] - 1",
        "index = self._run_starts[run]",
    ),
    bug(
        "what was cached stays so behind a truncation",
        "actors.raft.log:Log.truncate_from",
        "self.cached_from = min(self.cached_from, self.last_index + 1)",
        "pass",
    ),
    bug(
        "a leader that removed itself leads on",
        "actors.raft.leader:advance",
        "if not state.may_lead:",
        "if False:",
    ),
    bug(
        "a session expires by the clock of the machine",
        "actors.replica.sessions:SessionTable.expire",
        "if time - self._sessions[idlest].used < EXPIRY_NS:",
        "import time as clock\n        if clock.time_ns() - self._sessions[idlest].used < EXPIRY_NS:",
    ),
    bug(
        "a session forgets one answer too many",
        "actors.replica.sessions:SessionTable.admit",
        "if n >= entry.floor}",
        "if n > entry.floor}",
    ),
    bug(
        "a leader rests while a follower lacks something",
        "actors.raft.quiet:may_be_quiet",
        "and all(kept.progress[peer].match == last_index for peer in linked(state))",
        "",
    ),
    bug(
        "the oldest segment that is needed counts as free",
        "storage.cleaning:Cleaner.oldest_live",
        "number for number, use in self._index.uses.items() if use.groups",
        "number + 1 for number, use in self._index.uses.items() if use.groups",
        within=5,
        by="states",
    ),
    # Recycled bytes still don't pass, since numbers of writes never repeat; but what a torn write left does.
    Bug(
        "a torn frame passes for a whole one: neither its tag nor its checksum is compared",
        (
            Edit("storage.segment:SegmentScan._frame_at", "if fields[0] != self._tag:", "if False:"),
            Edit("storage.segment:SegmentScan._frame_at", "!= fields[11]:", "!= fields[11] and False:"),
        ),
    ),
    bug(
        "what was copied at the last start is read twice",
        "storage.replay:Replay._doubtful",
        "if write.sequence > loaded.limit:",
        "if False:",
    ),
    bug(
        "an installed snapshot keeps the members from before",
        "actors.raft.roles:_install",
        "state.memberships.reset(snapshot.membership)",
        "pass",
    ),
    bug(
        "a truncation is not replayed",
        "storage.index:LogIndex.apply",
        "elif kind == TRUNCATE:",
        "elif kind == TRUNCATE and False:",
        within=5,
        by="states",
    ),
    bug(
        "a snapshot that cuts the log keeps the old commit index",
        "actors.raft.roles:_install",
        "state.commit = max(state.commit, to.index)",
        "pass",
    ),
    bug(
        "a commit hint that was not synced is believed",
        "storage.segment:decode_commit",
        "return commit",
        "return commit + 1",
    ),
    # A stale refusal alone only moves a probe, and never below what was acknowledged.
    Bug(
        "a stale refusal takes back what was acknowledged",
        (
            Edit(
                "actors.raft.leader:on_refusal",
                "if reply.session != progress.session or progress.state is ProgressState.SNAPSHOT:",
                "if progress.state is ProgressState.SNAPSHOT:",
            ),
            Edit(
                "actors.raft.progress:Progress.become_probe",
                "self.next = max(next_index, self.match + 1)",
                "self.next = next_index",
            ),
        ),
    ),
    bug(
        "a proposal of another term is taken",
        "actors.raft.leader:why_not",
        "if message.expected_term not in (0, state.term):",
        "if False:",
    ),
)
