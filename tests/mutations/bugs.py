"""The classic bugs, each as an edit of the product. docs/testing.md tells what catches them (`table.py`)."""

from __future__ import annotations

from .plant import Bug, Edit, bug

ELECTIONS = (
    bug(
        "a vote is not persisted",
        "actors.raft.follower:on_request_vote",
        "effects.append(state.persist(now, hard_state=True, release=(reply,)))",
        "effects.append(reply)",
    ),
    bug(
        "a vote is persisted, and sent before its sync",
        "actors.raft.follower:on_request_vote",
        "effects.append(state.persist(now, hard_state=True, release=(reply,)))",
        "effects += [state.persist(now, hard_state=True), reply]",
    ),
    bug(
        "a repeated vote request is answered before the sync of the first",
        "actors.raft.follower:on_request_vote",
        "effects.append(state.promise(now, reply))",
        "effects.append(reply)",
    ),
    bug(
        "a vote is given without a look at the candidate's log",
        "actors.raft.follower:may_grant",
        "if not state.log.is_covered_by(EntryId(message.last_index, message.last_term)):",
        "if False:",
    ),
    bug(
        "logs are compared by their length only",
        "actors.raft.log:Log.is_covered_by",
        "return (other.term, other.index) >= (last.term, last.index)",
        "return other.index >= last.index",
    ),
    bug(
        "two votes in a term",
        "actors.raft.follower:may_grant",
        "return state.vote == message.sender or (state.vote == 0 and state.leader == 0)",
        "return True",
    ),
    bug(
        "a candidate asks for votes before its own is synced",
        "actors.raft.roles:become_candidate",
        "return [state.persist(now, hard_state=True, release=requests)]",
        "return [state.persist(now, hard_state=True), *requests]",
    ),
    bug(
        "a candidate counts its own vote before it is synced",
        "actors.raft.candidate:on_synced",
        "if state.role is Role.PRE_CANDIDATE or not state.hard_state_synced:",
        "if state.role is Role.PRE_CANDIDATE:",
        within=2000,
    ),
    bug(
        "a newer term is not persisted",
        "actors.raft.roles:become_follower",
        "effects.append(state.persist(now, hard_state=True))",
        "pass",
    ),
    bug(
        "learners and strangers count for a majority",
        "actors.raft.membership:Membership.is_quorum",
        "return len(self.voters.intersection(nodes)) >= self.quorum()",
        "return len(set(nodes)) >= self.quorum()",
    ),
    bug(
        "half of the voters are a majority",
        "actors.raft.membership:Membership.quorum",
        "return len(self.voters) // 2 + 1",
        "return (len(self.voters) + 1) // 2",
    ),
    bug(
        "a message of an older term is obeyed",
        "actors.raft.roles:_from_peer",
        "if message.term < state.term:",
        "if message.term < state.term and not isinstance(message, Append):",
    ),
    bug(
        "a late acknowledgement of an older term is counted",
        "actors.raft.roles:_from_peer",
        "if message.term < state.term:",
        'if message.term < state.term and type(message).__name__ != "AppendReply":',
    ),
)

REPLICATION = (
    bug(
        "acknowledged before the sync",
        "actors.raft.follower:store",
        "state.persist(now, truncate_from=truncate_from, batches=batches, release=(acknowledgement,))",
        "state.persist(now, truncate_from=truncate_from, batches=batches), acknowledgement",
    ),
    bug(
        "a repeated append is acknowledged before the sync of the first",
        "actors.raft.follower:accept_append",
        "effects = [state.promise(now, acknowledgement, index=matched)]",
        "effects = [acknowledgement]",
    ),
    bug(
        "the leader counts itself before its sync",
        "actors.raft.leader:quorum_match",
        "progress, synced = leading(state).progress, state.log.synced",
        "progress, synced = leading(state).progress, state.log.last_index",
    ),
    bug(
        "an entry of an older term is committed by counting (figure 8)",
        "actors.raft.leader:commit_and_seal",
        "if index > state.commit and state.log.term_at(index) == state.term:",
        "if index > state.commit:",
    ),
    bug(
        "one acknowledgement too few is enough",
        "actors.raft.leader:quorum_match",
        "return matches[members.quorum() - 1]",
        "return matches[max(0, members.quorum() - 2)]",
    ),
    bug(
        "the previous entry is not compared",
        "actors.raft.follower:on_append",
        "if state.log.term_at(previous.index) != previous.term:",
        "if state.log.term_at(previous.index) is None:",
    ),
    bug(
        "an old append cuts off what came after it",
        "actors.raft.follower:accept_append",
        "new = [each for each in arrived if state.log.term_at(each.header.index) != each.header.term]",
        "new = arrived",
    ),
    bug(
        "what conflicts is kept",
        "actors.raft.follower:accept_append",
        "new = [each for each in arrived if state.log.term_at(each.header.index) != each.header.term]",
        "new = [each for each in arrived if each.header.index > state.log.last_index]",
    ),
    bug(
        "a heartbeat commits what was never compared",
        "actors.raft.follower:on_beat",
        "effects = learn_commit(state, min(message.commit, state.matched), now)",
        "effects = learn_commit(state, min(message.commit, state.log.last_index), now)",
    ),
    bug(
        "an append commits what lies behind it",
        "actors.raft.follower:accept_append",
        "learn_commit(state, min(message.commit, matched), now)",
        "learn_commit(state, min(message.commit, state.log.last_index), now)",
    ),
    bug(
        "what a leader knew to match is believed in the next term",
        "actors.raft.roles:become_follower",
        "state.term, state.vote, state.matched = term, 0, state.commit",
        "state.term, state.vote = term, 0",
    ),
    bug(
        "an acknowledgement is taken for all that was sent",
        "actors.raft.leader:on_append_reply",
        "progress.acknowledge(reply.match, counts=reply.counts)",
        "progress.acknowledge(max(reply.match, progress.next - 1), counts=reply.counts)",
    ),
    bug(
        "entries cut off still count as synced",
        "actors.raft.log:Log.truncate_from",
        "self.synced = min(self.synced, self.last_index)",
        "pass",
    ),
    bug(
        "a sync under way covers entries that were cut off",
        "actors.raft.state:GroupState.persist",
        "written.last_index = min(written.last_index, truncate_from - 1)",
        "pass",
    ),
    bug(
        "entries of an earlier history are read from the disk and sent",
        "actors.raft.leader:on_fetched",
        "if message.failed or not is_own(state, message):",
        "if message.failed:",
        within=2000,
    ),
    bug(
        "what was lost on the way is never sent again",
        "actors.raft.progress:Progress.is_stuck",
        "return self._silent_beats >= (PATIENCE if received >= self.next - 1 else 2)",
        "return False",
    ),
    bug(
        "a probe that was lost is waited for",
        "actors.raft.leader:on_beat_reply",
        "progress.paused = False",
        "pass",
    ),
    bug(
        "the log's clock goes back",
        "actors.raft.leader:seal",
        "time = max(log.last_time, now.wall)",
        "time = now.wall",
    ),
)

ANSWERS = (
    bug(
        "a read without its round of heartbeats",
        "actors.raft.read_index:start_round",
        "ReadRound(kept.read_number, state.commit, kept.reads, {state.node})",
        "ReadRound(kept.read_number, state.commit, kept.reads, set(state.membership.voters))",
    ),
    bug(
        "a read before the first commit of the term",
        "actors.raft.read_index:start_round",
        "or state.commit < kept.noop",
        "",
    ),
    bug(
        "a read is confirmed by answers to earlier heartbeats",
        "actors.raft.read_index:confirm",
        "if round_ is None or reply.read < round_.number:",
        "if round_ is None:",
    ),
    bug(
        "a read waits for a voter that has left",
        "actors.raft.changes:seal_change",
        "return effects + read_index.finish_round(state)",
        "return effects",
        within=2000,
    ),
    bug(
        "what may still be committed is called not applied",
        "actors.raft.leader:resign",
        "[(token, unknown) for batch in kept.sealed for token in batch.tokens]",
        "[(token, refused) for batch in kept.sealed for token in batch.tokens]",
    ),
    bug(
        "queued proposals are forgotten with the leadership",
        "actors.raft.leader:resign",
        "ends += [(waiting.token, refused) for waiting in kept.queue]",
        "pass",
    ),
    bug(
        "waiting reads are forgotten with the leadership",
        "actors.raft.leader:resign",
        "ends += [(token, refused) for token in kept.reads]",
        "pass",
    ),
    bug(
        "a transfer that came to nothing has no end",
        "actors.raft.transfer:expire",
        "return [Resolve(handover.token, NotApplied(Reason.TIMED_OUT, state.leader))]",
        "return []",
    ),
    bug(
        "a transfer begins before the target has the whole log",
        "actors.raft.transfer:push",
        "if progress is None or progress.vouched < state.log.last_index:",
        "if progress is None:",
    ),
    bug(
        "a session's repetition is applied again",
        "actors.replica.sessions:SessionTable.admit",
        "if entry.number in session.answers:",
        "if False:",
    ),
    bug(
        "the sessions are not in the snapshot",
        "actors.replica.user_machine:UserMachine.capture",
        '"sessions": self.sessions.capture(),',
        '"sessions": [],',
    ),
    bug(
        "a session's answers are not in the snapshot",
        "actors.replica.sessions:SessionTable.capture",
        "[[n, answer.result] for n, answer in session.answers.items()],",
        "[],",
    ),
)

MEMBERS = (
    bug(
        "a change is in effect only when it is committed",
        "actors.raft.state:GroupState.membership",
        "return self.memberships.current",
        "return self.memberships.at(self.commit)",
    ),
    bug(
        "two changes at a time",
        "actors.raft.changes:why_not",
        "state.memberships.last_change > state.commit or any(w.kind is Kind.MEMBERSHIP for w in kept.queue)",
        "False",
    ),
    bug(
        "a change that was cut off stays in effect",
        "actors.raft.follower:store",
        "members_changed = state.memberships.truncate_from(first)",
        "pass",
    ),
    bug(
        "a snapshot's members are those of the log's end",
        "actors.raft.membership:MembershipHistory.at",
        "if changed_at > index:",
        "if False:",
    ),
    bug(
        "a removed id may return",
        "actors.raft.membership:Membership.after",
        "return Membership(self.voters - alone, self.learners - alone, self.removed | alone)",
        "return Membership(self.voters - alone, self.learners - alone, self.removed)",
        within=2000,
    ),
)

DAMAGE = (
    bug(
        "faulty is treated as whole",
        "actors.raft.state:GroupState.faulty",
        "return self.unrestored or self.forgetful or bool(self.log.holes)",
        "return False",
    ),
    bug(
        "faulty is treated as absent",
        "actors.raft.healing:on_damaged",
        "state.log.holes.add(index)",
        "state.log.truncate_from(max(index, state.commit + 1))",
    ),
    bug(
        "a damaged replica's acknowledgements count",
        "actors.raft.follower:accept_append",
        "counts=matched <= state.readable_to and not state.forgetful,",
        "counts=True,",
        within=2000,
    ),
    bug(
        "a copy counts before it is synced",
        "actors.raft.healing:on_synced",
        "while state.mending and state.mending[0].number <= number:",
        "while state.mending:",
        within=2000,
    ),
    bug(
        "damage is passed on: the checksum is not looked at",
        "testing.stable_log:_is_named",
        "header = verify_batch(batch)",
        "from ..codec import read_header; header = read_header(batch)",
    ),
)

RECOVERY = (
    bug(
        "recovery cuts a last write that is damaged",
        "storage.replay:Replay._decide_doubtful",
        "if write.vouch is not None or not seen.ragged:",
        "if write.intact:",
    ),
    bug(
        "recovery takes a torn record for a sound one",
        "storage.segment:SegmentScan._check_body",
        "found.intact = is_batch(body, found.group, found.incarnation, found.index, found.term, found.crc)",
        "found.intact = True",
        within=5,
        by="states",
    ),
    bug(
        "recovery vouches for the page cache: the copied tail is not synced",
        "storage.wal:_name_segment",
        "disk.fsync(descriptor)",
        "pass",
    ),
    bug(
        "a new segment's name is not synced",
        "storage.wal:_name_segment",
        "disk.sync_directory(WAL)",
        "pass",
    ),
    bug(
        "recovery goes on behind the old tail without a copy of it",
        "storage.recovery:_start_segment",
        "segment = _prepare(disk, header, buffers)",
        "buffers = []; segment = _prepare(disk, header, buffers)",
    ),
    bug(
        "the vote is lost at replay",
        "storage.index:LogIndex.apply",
        "log.term, log.vote = term, index",
        "log.term, log.vote = term, 0",
    ),
    # Either alone is masked by the other: a truncation is written before what replaces the entries.
    Bug(
        "an overwritten entry stays at replay",
        (
            Edit("storage.index:LogIndex._make_way", "self._cut(log, index)", "pass"),
            Edit(
                "storage.index:LogIndex.apply", "elif kind == TRUNCATE:", "elif kind == TRUNCATE and False:"
            ),
        ),
    ),
    Bug(
        "a snapshot of another history leaves the log in its place",
        (
            Edit("actors.raft.roles:_install", "truncate_from = to.index", "truncate_from = None"),
            Edit("storage.records:log_reset", "TruncateSuffix(group, incarnation, index),", ""),
        ),
        within=2000,
    ),
    bug(
        "a segment is freed while it has the newest vote",
        "storage.index:LogIndex._settle",
        "self._count(segment, log.group, 1, length + FRAME_SIZE)",
        "pass",
    ),
    bug(
        "a freed segment's name is not synced",
        "storage.wal:retire_segment",
        "disk.sync_directory(WAL)",
        "pass",
        within=2000,
    ),
    bug(
        "a manifest is written in place",
        "storage.node:replace_file",
        "_write_durably(disk, temporary, data)",
        "return _write_durably(disk, path, data)",
    ),
    bug(
        "a manifest gets its name before it is synced",
        "storage.node:_write_durably",
        "sync_strictly(disk.fsync, descriptor)",
        "pass",
    ),
    bug(
        "a manifest's directory is not synced",
        "storage.node:replace_file",
        "disk.sync_directory(directory)",
        "pass",
    ),
    bug(
        "a torn write's begin passes for the whole",
        "storage.segment:SegmentScan._complete",
        "return Write(self._segment, start, sequence, end, records, vouch, chain_before, frames)",
        "return Write(self._segment, start, sequence, end, records[:1], vouch, chain_before, frames)",
    ),
)

FILES = (
    bug(
        "the storage actor's writes are not synced",
        "storage.runner:_write_and_sync",
        "disk.fdatasync(descriptor)",
        "pass",
        within=5,
        by="states",
    ),
    bug(
        "a snapshot names blocks that are not synced",
        "storage.group_directory:GroupDirectory.sync",
        "sync_strictly(self.disk.fdatasync, descriptor)",
        "pass",
        within=5,
        by="states",
    ),
    bug(
        "recovery skips what a block has beyond its manifest, and does not cut it",
        "storage.group_directory:_cut",
        "if size > file.length:",
        "if False:",
        within=5,
        by="states",
    ),
    # The whole write tried again would be safe on a disk that then works: the bug is to trust a second sync.
    bug(
        "a failed sync is tried again",
        "storage.actor:Storage._write_on",
        "self._fail(error)",
        "self._disk.fdatasync(write.built.segment.descriptor)",
        within=5,
        by="states",
    ),
)

BUGS: tuple[Bug, ...] = (*ELECTIONS, *REPLICATION, *ANSWERS, *MEMBERS, *DAMAGE, *RECOVERY, *FILES)
