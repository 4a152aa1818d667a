"""The stream: the state machine that users see, an ordered and numbered sequence of messages.

Every decision is made when a batch is applied, in log order and by the batch's time alone, so replicas can't
differ. A run of plain publishes costs Python per batch and per distinct subject; the rest is C. A publish
that has to be decided by itself (a header that asks for something, a limit that refuses) goes the slow way,
with the same results and the same bytes.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import msgpack

from ...codec import Entries, EntryType
from ...codec.block import EVERYTHING, NO_SUBJECT, Record, Refusals, accounted_size
from ...storage.manifest import FileEntry
from ..replica.machine import Capture
from . import headers
from .commands import read_command
from .config import MAX_FIRST, StreamConfig, subject_transform_of
from .consumers import Consumers
from .duplicates import Duplicates, unpack_ids
from .durations import show_duration
from .errors import (
    BEYOND_LAST,
    DELETE_DENIED,
    MAXIMUM_BYTES,
    MAXIMUM_MESSAGES,
    MAXIMUM_PER_SUBJECT,
    ROLLUP_INVALID,
    ApiError,
    StateDamaged,
)
from .expiry import Expiry, parse_ttl, read_due
from .results import Status, pack, pack_all, refused
from .store import MessageStore
from .subjects import SubjectFilter
from .together import Together

if TYPE_CHECKING:
    from ...storage.files import GroupFiles
    from .damage import Damage

StoredMessage = Record
"""One message as the stream holds it: sequence, time (ns), subject, headers, payload."""

BLOCK_BYTES: Final = 8 << 20
"""A block is closed at this size: large enough to make files few, small enough to sync and send in one go."""
PENDING_BYTES: Final = 16 << 20
"""Written behind, per group: beyond this `settle` waits."""
STATE_VERSION: Final = 2
"""Version 1 did not say with which sequence each block begins; ids and times to live were lists there."""
STATE_LEVEL: Final = 2
"""Every node that speaks this protocol reads the present version."""
HIGHEST_SEQUENCE: Final = (1 << 56) - 1
"""A result has 56 bits for a sequence."""

_PUBLISH: Final = struct.Struct("<HHI")
_REFUSALS: Final = Refusals(subject=refused(10059), size=refused(10054), entry=refused(10003))
_SEALED: Final = refused(10109)


@dataclass(frozen=True, slots=True)
class StreamState:
    """What `STREAM.INFO` shows; times in ns, 0 for none."""

    messages: int
    bytes: int
    first_seq: int
    first_time: int
    last_seq: int
    last_time: int
    num_subjects: int
    num_deleted: int
    consumers: int = 0


@dataclass(frozen=True, slots=True)
class News:
    """A message that was just stored."""

    sequence: int
    subject: bytes
    headers: bytes
    payload: bytes
    time: int
    before: int
    """Sequence of the last message of this subject before it; 0: none."""


class StreamMachine:
    """One replica of one stream."""

    kind: Final = "stream"

    def __init__(
        self,
        files: GroupFiles,
        name: str,
        *,
        block_bytes: int = BLOCK_BYTES,
        level: Callable[[], int] = lambda: STATE_LEVEL,
    ) -> None:
        """`level` says which protocol all nodes of the cluster know: snapshots are written so that they can
        read them."""
        self._files = files
        self._level = level
        self._newest = False
        """Whether the present version of the state was ever written or read here."""
        self._block_bytes = block_bytes
        self.name = name
        self.on_applied: Callable[[], None] = _nobody
        """Called after each batch: the leader's deliveries look for what came."""
        self._tell_repair: Callable[[], None] | None = None
        self.empty()

    def empty(self) -> None:
        """Forgets everything: the state of a stream that was never configured."""
        self._store = MessageStore(self._files, self.name, self._block_bytes, self._tell_damage)
        self.consumers = Consumers(self._store)
        self._expiry = Expiry(self._store)
        self._duplicates = Duplicates()
        self._last_id = b""
        self.news: list[News] = []
        """What the last batch stored, of a stream that publishes it again; else nothing."""
        self._fresh: list[int] = []
        """Subjects met in the current run; those of which nothing was stored are released."""
        self.clock = 0
        """Time (ns) of the last applied batch."""
        self.version = 0
        """Version of the configuration; 0 before the first one."""
        self._adopt(None)

    # --- applying

    def apply(self, batch: Entries) -> bytes:
        """Applies a batch; one packed result per entry."""
        self.clock = max(self.clock, batch.header.time)
        self.news.clear()
        self._expire()
        results = self._apply_entries(batch)
        self._store.flush()
        self.on_applied()
        return results

    def _apply_entries(self, batch: Entries) -> bytes:
        types = bytes(batch.types)
        count = len(types)
        parts: list[bytes] = []
        at = 0
        while at < count:
            if types[at] == EntryType.PUBLISH and self._plain:
                end = count - len(types[at:].lstrip(_PUBLISH_TYPE))
                parts.append(self._publish_run(batch, at, end - at))
            else:
                end = at + 1
                parts.append(pack_all([self._apply_entry(types[at], bytes(batch.entry(at)))]))
            at = end
        return b"".join(parts)

    def _apply_entry(self, entry_type: int, entry: bytes) -> int:
        match entry_type:
            case EntryType.PUBLISH:
                return self._publish(entry, checked=False)
            case EntryType.PUBLISH_CHECKED:
                return self._publish(entry, checked=True)
            case EntryType.STREAM_COMMAND:
                return self._command(entry)
            case _:
                return refused(10003)

    def _expire(self) -> None:
        """Lets go what the clock says is too old."""
        if self.config is None:
            return
        markers = self.config.subject_delete_marker_ttl
        for subject in self._expiry.expire(self.clock, self.config.max_age, watched=markers > 0):
            self._mark(subject, markers)
        self._duplicates.expire(self.clock - self.config.duplicate_window)

    def next_due(self) -> int | None:
        """When (ns) something expires although nothing happens: the leader then proposes a tick."""
        return None if self.config is None else self._expiry.next_due(self.config.max_age)

    def _mark(self, subject: bytes, ttl: int) -> None:
        """Leaves a message, for a while (ns), that says that a subject's last one expired."""
        shown = show_duration(ttl).encode()
        block = b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: %b\r\nNats-Rollup: sub\r\n\r\n" % shown
        sequence = self._store.append(subject, block, b"", self.clock)
        self._expiry.note(sequence, ttl, self.clock, marker=True)

    # --- publishing

    def _publish_run(self, batch: Entries, first: int, count: int) -> bytes:
        """The fast way: nothing about one message can change what becomes of another."""
        config, store = self._configured, self._store
        before = store.last
        self._fresh.clear()
        results, ids = store.append_run(
            batch,
            first,
            count,
            self._identify,
            max_message_size=config.max_msg_size if config.max_msg_size > 0 else EVERYTHING,
            refusals=_REFUSALS,
        )
        if store.last != before:
            self._last_id = b""
        for number in self._fresh:
            store.release(number)
        if config.max_msgs_per_subject > 0:
            live = [number for number in ids if number != NO_SUBJECT]
            self._enforce_per_subject(live)
        self._enforce_limits()
        return results

    def _identify(self, subjects: list[bytes]) -> array[int]:
        known = self._store.subjects
        ids = array("I")
        for subject in subjects:
            number = known.get(subject)
            if number is None or self._stray:
                number = self._admit(subject)
            ids.append(number)
        return ids

    def _admit(self, subject: bytes) -> int:
        if subject not in self._takes:
            return NO_SUBJECT
        number = self._store.subject_id(subject)
        self._fresh.append(number)
        return number

    def _publish(self, entry: bytes, checked: bool) -> int:
        """The slow way: one message, decided by itself. The order of the checks is part of the protocol."""
        parts = _split(entry)
        if parts is None:
            return _REFUSALS.entry
        subject, header_block, payload = parts
        config = self.config
        if config is None or subject not in self._takes:
            return _REFUSALS.subject
        if self._transform is not None:
            subject = self._transform(subject) or subject
        if config.sealed:
            return _SEALED
        asked = headers.parse_headers(header_block) if checked else {}
        if asked:
            answer = self._check_headers(config, subject, asked, len(header_block) + len(payload))
            if answer is not None:
                return answer
        elif 0 < config.max_msg_size < len(header_block) + len(payload):
            return _REFUSALS.size
        if config.discard == "new":
            size = accounted_size(len(subject), len(header_block), len(payload))
            answer = self._check_room(config, subject, size, rolls_up=bool(asked.get(headers.ROLLUP)))
            if answer is not None:
                return answer
        return self._store_message(config, subject, header_block, payload, asked)

    def _check_headers(
        self, config: StreamConfig, subject: bytes, asked: Mapping[bytes, bytes], size: int
    ) -> int | None:
        """The result of a publish whose headers forbid storing it, or None."""
        expected_stream = asked.get(headers.EXPECTED_STREAM)
        if expected_stream and expected_stream != config.name.encode():
            return refused(10060)
        ttl = asked.get(headers.TTL)
        if ttl and not config.allow_msg_ttl and parse_ttl(ttl) is not None:
            return refused(10166)
        for header, err_code in _NOT_SUPPORTED.items():
            if asked.get(header):
                return refused(err_code)
        known = self._duplicates.get(asked.get(headers.MSG_ID, b""))
        if known is not None:
            return pack(Status.DUPLICATE, known[0])
        if 0 < config.max_msg_size < size:
            return _REFUSALS.size
        answer = self._check_expectations(subject, asked) or self._check_rollup(config, asked)
        if answer is None and ttl and parse_ttl(ttl) is None:
            return refused(10165)
        return answer

    def _check_expectations(self, subject: bytes, asked: Mapping[bytes, bytes]) -> int | None:
        store = self._store
        last = asked.get(headers.EXPECTED_LAST_SEQUENCE)
        if last and headers.parse_sequence(last) != store.last:
            return refused(10071, store.last)
        last_of_subject = asked.get(headers.EXPECTED_LAST_SUBJECT_SEQUENCE)
        pattern = asked.get(headers.EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT)
        if last_of_subject:
            held = self._last_matching(pattern or subject)
            if headers.parse_sequence(last_of_subject) != held:
                return refused(10071, held)
        elif pattern:
            return refused(10193)
        last_id = asked.get(headers.EXPECTED_LAST_MSG_ID)
        if last_id and last_id != self._last_id:
            return refused(10070)
        return None

    def _last_matching(self, pattern: bytes) -> int:
        if not _is_pattern(pattern):
            return self._store.last_of(pattern)
        return max(self._store.lasts(self._numbers_of(pattern.decode(errors="replace"))), default=0)

    def _numbers_of(self, pattern: str) -> list[int]:
        """The ids of all subjects that match a pattern."""
        matching = SubjectFilter([pattern])
        return [number for subject, number in self._store.subjects.items() if subject in matching]

    def _check_rollup(self, config: StreamConfig, asked: Mapping[bytes, bytes]) -> int | None:
        rollup = asked.get(headers.ROLLUP)
        if not rollup:
            return None
        if not config.allow_rollup_hdrs or config.deny_purge:
            return refused(10111)
        return None if rollup.lower() in (b"sub", b"all") else refused(10111, ROLLUP_INVALID)

    def _check_room(self, config: StreamConfig, subject: bytes, size: int, rolls_up: bool) -> int | None:
        """With "discard new": the result of a publish for which there is no room, or None."""
        store = self._store
        replaces = 0 < config.max_msgs_per_subject <= store.count_of(subject)
        if replaces and config.discard_new_per_subject and not rolls_up:
            return refused(10077, MAXIMUM_PER_SUBJECT)
        if 0 < config.max_msgs <= store.messages and not replaces:
            return refused(10077, MAXIMUM_MESSAGES)
        freed = store.first_size_of(subject) if replaces else 0
        if 0 < config.max_bytes < store.size - freed + size:
            return refused(10077, MAXIMUM_BYTES)
        return None

    def _store_message(
        self,
        config: StreamConfig,
        subject: bytes,
        header_block: bytes,
        payload: bytes,
        asked: Mapping[bytes, bytes],
    ) -> int:
        store = self._store
        before = store.last_of(subject) if config.republish else 0
        sequence = store.append(subject, header_block, payload, self.clock)
        if config.republish:
            self.news.append(News(sequence, subject, header_block, payload, self.clock, before))
        self._last_id = asked.get(headers.MSG_ID, b"")
        if self._last_id:
            self._duplicates.note(self._last_id, sequence, self.clock)
        ttl = parse_ttl(asked.get(headers.TTL, b""))
        if ttl is not None:
            self._expiry.note(sequence, ttl, self.clock)
        rollup = asked.get(headers.ROLLUP, b"").lower()
        number = store.subjects[subject]
        if rollup == b"all":
            store.drop_before(sequence)
        elif rollup == b"sub" and _is_pattern(subject):
            # Stored under this very name, but it rolls up whatever matches it, as in the reference.
            store.drop_wanted(
                store.wanted(self._numbers_of(subject.decode(errors="replace"))), before=sequence
            )
        elif rollup == b"sub":
            store.drop_of_subjects({number: EVERYTHING}, before=sequence)
        if config.max_msgs_per_subject > 0:
            self._enforce_per_subject([number])
        self._enforce_limits()
        if config.retention == "interest":
            self.consumers.release([sequence], config)
        return pack(Status.STORED, sequence)

    def _publish_together(self, entries: Sequence[bytes]) -> int:
        """All of these, or none; the result has the sequence of the last."""
        config = self.config
        if config is None or not config.allow_atomic:
            return refused(10174)
        if config.sealed:
            return _SEALED
        check = Together(config, self._store, self._duplicates, self._last_matching)
        messages: list[tuple[bytes, bytes, bytes, Mapping[bytes, bytes]]] = []
        for entry in entries:
            parts = _split(entry)
            if parts is None:
                return _REFUSALS.entry
            subject, block, payload = parts
            if subject not in self._takes:
                return _REFUSALS.subject
            if self._transform is not None:
                subject = self._transform(subject) or subject
            asked = headers.parse_headers(block)
            refusal = check.refusal(subject, block, payload, asked)
            if refusal is not None:
                return refusal
            messages.append((subject, block, payload, asked))
        result = _REFUSALS.entry
        for message in messages:
            result = self._store_message(config, *message)
        return result

    # --- limits

    def _enforce_per_subject(self, numbers: Sequence[int]) -> None:
        limit = self._configured.max_msgs_per_subject
        excess = self._store.over(numbers, limit)
        if excess:
            self._store.drop_of_subjects(excess)

    def _enforce_limits(self) -> None:
        config, store = self._configured, self._store
        if 0 < config.max_msgs < store.messages:
            store.drop_oldest(messages=store.messages - config.max_msgs)
        if 0 < config.max_bytes < store.size:
            store.drop_oldest(size=store.size - config.max_bytes)

    # --- commands

    def _command(self, entry: bytes) -> int:
        command = read_command(entry)
        config = self.config
        match command:
            case {"op": "configure", "config": dict(fields), "version": int(version)}:
                return self._configure(fields, version)
            case {"op": "purge", "filter": str(pattern), "seq": int(sequence), "keep": int(keep)}:
                return self._removed(self._purge(pattern, sequence, keep), purged=True)
            case {"op": "delete", "seq": int(sequence)}:
                return self._removed(self._delete(sequence))
            case {"op": "publish", "entries": list(entries)}:
                return self._publish_together(entries)
            case _ if config is not None:
                return self._consumer_command(command, config)
            case _:
                return refused(10003)

    def _consumer_command(self, command: Mapping[str, object] | None, stream: StreamConfig) -> int:
        consumers, now = self.consumers, self.clock
        match command:
            case {"op": "deliver", "to": int(number), "seqs": list(sequences)}:
                return consumers.deliver(number, sequences, stream, now)
            case {"op": "give_up", "to": int(number), "seqs": list(sequences)}:
                return consumers.give_up(number, sequences, now)
            case {"op": "ack", "of": list(acknowledged)}:
                return consumers.acknowledge(acknowledged, stream, now)
            case {"op": "consumer", "name": str(name), "config": dict(fields), "action": str(action)}:
                return consumers.create(stream, name, fields, action, now)
            case {"op": "delete_consumer", "name": str(name)}:
                return consumers.delete(name, stream)
            case {"op": "pause_consumer", "name": str(name), "until": str(until)}:
                return consumers.pause(name, until)
            case _:
                return refused(10003)

    def _configure(self, fields: Mapping[str, object], version: int) -> int:
        if version <= self.version:
            return pack(Status.DONE, self.version)
        if version > HIGHEST_SEQUENCE:
            return refused(10003)
        try:
            config = StreamConfig.from_json(fields)
        except ApiError:
            return refused(10052)
        first_time = self.config is None
        released = config.retention == "interest" and (
            self.config is None or self.config.retention == "limits"
        )
        self._adopt(config)
        self.version = version
        if released:
            self.consumers.sweep(config)
        store = self._store
        if first_time and config.first_seq and store.last == 0:
            store.skip_to(min(config.first_seq, MAX_FIRST))
        self._expire()
        if config.max_msgs_per_subject > 0:
            self._enforce_per_subject(list(store.subjects.values()))
        self._enforce_limits()
        return pack(Status.DONE, version)

    def _adopt(self, config: StreamConfig | None) -> None:
        """Takes a configuration and works out what it means for publishing."""
        self.config = config
        self._takes = SubjectFilter(config.subjects if config else ())
        self._stray = any(subject not in self._takes for subject in self._store.subjects)
        """Some messages' subjects are no longer the stream's."""
        self._transform = subject_transform_of(config) if config is not None else None
        self._plain = config is not None and not config.sealed and not _decides_singly(config)

    @property
    def _configured(self) -> StreamConfig:
        assert self.config is not None
        return self.config

    def _removed(self, result: int, *, purged: bool = False) -> int:
        """Tells the consumers of what a command has removed; a purge also moves on who lags behind it."""
        if result >> 56 == Status.DONE:
            self.consumers.removed(self.clock, self._store.first if purged else 0)
        return result

    def _purge(self, pattern: str, sequence: int, keep: int) -> int:
        config, store = self.config, self._store
        if config is None or (sequence and keep) or not 0 <= sequence <= MAX_FIRST or keep < 0:
            return refused(10003)
        if config.sealed:
            return _SEALED
        if config.deny_purge:
            return refused(10110)
        if pattern in ("", ">"):
            return pack(Status.DONE, self._purge_all(sequence, keep))
        numbers = self._numbers_of(pattern)
        total = sum(store.counts(numbers))
        wanted = store.wanted(numbers)
        if keep:
            return pack(Status.DONE, store.drop_wanted(wanted, max(0, total - keep)))
        return pack(Status.DONE, store.drop_wanted(wanted, before=sequence or EVERYTHING))

    def _purge_all(self, sequence: int, keep: int) -> int:
        store = self._store
        before = store.messages
        if keep:
            store.drop_oldest(messages=max(0, before - keep))
        elif sequence:
            store.drop_before(sequence)
            if sequence > store.last + 1:
                store.skip_to(sequence)
        else:
            store.drop_before(store.last + 1)
            store.first = store.last + 1
        return before - store.messages

    def _delete(self, sequence: int) -> int:
        config, store = self.config, self._store
        if config is None:
            return refused(10003)
        if config.sealed:
            return _SEALED
        if config.deny_delete:
            return refused(10057, DELETE_DENIED)
        if sequence > store.last:
            return refused(10057, BEYOND_LAST)
        if sequence < max(1, store.first):
            return refused(10057)
        return pack(Status.DONE, 1) if store.drop(sequence) else refused(10043, sequence)

    # --- reading

    async def get(self, sequence: int) -> StoredMessage | None:
        """The message with a sequence, or None. Raises DamagedRecord."""
        return await self._store.read(sequence)

    async def last_by_subject(self, pattern: str) -> StoredMessage | None:
        """The newest message of a subject, which may have wildcards. Raises DamagedRecord."""
        return await self._store.read(self._last_matching(pattern.encode()))

    async def next_by_subject(self, sequence: int, pattern: str) -> StoredMessage | None:
        """The first message from a sequence on whose subject matches. Raises DamagedRecord."""
        found = self.next_sequence(sequence, pattern)
        return None if found is None else await self._store.read(found)

    def next_sequence(self, sequence: int, pattern: str = ">") -> int | None:
        """The first sequence from the given one on whose message's subject matches, or None."""
        if pattern == ">":
            return self._store.find(sequence)
        subject = pattern.encode()
        if "*" not in pattern and not pattern.endswith(">"):
            number = self._store.subjects.get(subject)
            return None if number is None else self._store.find(sequence, subject=number)
        matching = SubjectFilter([pattern])
        numbers = (number for subject, number in self._store.subjects.items() if subject in matching)
        return self._store.find(sequence, wanted=self._store.wanted(numbers))

    def sequence_since(self, time: int) -> int:
        """The first sequence whose message is not older than a time (ns); last + 1 if there is none."""
        return self._store.sequence_since(time)

    @property
    def messages(self) -> MessageStore:
        """The messages, for reading only: what a consumer's leader looks for and reads."""
        return self._store

    def info(self) -> StreamState:
        """Numbers of the stream as of the last applied batch."""
        store = self._store
        return StreamState(
            messages=store.messages,
            bytes=store.size,
            first_seq=store.first,
            first_time=store.first_time,
            last_seq=store.last,
            last_time=store.last_time,
            num_subjects=len(store.subjects),
            num_deleted=store.last - store.first + 1 - store.messages if store.messages else 0,
            consumers=len(self.consumers),
        )

    def subjects(self, pattern: str = ">") -> dict[str, int]:
        """How many messages each matching subject has."""
        matching = SubjectFilter([pattern])
        return {
            subject.decode(errors="replace"): self._store.count_of(subject)
            for subject in self._store.subjects
            if subject in matching
        }

    def deleted(self, limit: int) -> list[int]:
        """Up to so many of the sequences between the first and the last that have no message."""
        return [sequence for sequence, _ in zip(self._store.gone(), range(limit), strict=False)]

    # --- snapshots

    def capture(self) -> Capture:
        """The state as of the last applied batch, over the files as they are now."""
        store, files, obsolete = self._store.capture()
        state = {
            "v": STATE_VERSION,
            "config": None if self.config is None else self.config.to_json(),
            "version": self.version,
            "clock": self.clock,
            "last_id": self._last_id,
            "duplicates": self._duplicates.pack(),
            "consumers": self.consumers.pack(),
            "expiry": self._expiry.pack(),
            "store": store,
        }
        # What is lost can not be said in the first version; and a node that has just started does not know
        # yet what all others speak.
        self._newest = self._newest or bool(self._store.damage.lost) or self._level() >= STATE_LEVEL
        packed = msgpack.packb(state if self._newest else _as_before(state))
        assert isinstance(packed, bytes)
        return Capture(packed, tuple(FileEntry(*file) for file in files), obsolete)

    def captured(self, capture: Capture) -> None:
        """The manifest made of `capture` is durable: files that it needs no more may go."""
        self._store.forget(capture.obsolete)

    @property
    def damage(self) -> Damage:
        """What of the blocks can't be read."""
        return self._store.damage

    def on_damage(self, tell: Callable[[], None]) -> None:
        """`tell` is called when a record was found that can't be read: readers then wait for its repair."""
        self._tell_repair = tell

    def _tell_damage(self) -> bool:
        if self._tell_repair is not None:
            self._tell_repair()
        return self._tell_repair is not None

    async def restore(self, state: bytes, files: Sequence[FileEntry], *, accept_loss: bool = False) -> None:
        """Takes a captured state (rule S12: its files are cut to it). Raises DamagedRecord, StateDamaged.

        With `accept_loss` messages that can't be read are lost: they are gone, but asked for they are an
        error.
        """
        fields = _unpack_state(state)
        self._newest = self._newest or fields["v"] == STATE_VERSION
        self.empty()
        try:
            store = cast("Mapping[str, object]", fields["store"])
            await self._store.restore(store, files, accept_loss=accept_loss)
            self.version = cast("int", fields["version"])
            self.clock = cast("int", fields["clock"])
            self._last_id = cast("bytes", fields["last_id"])
            ids = cast("bytes | list[list[object]]", fields["duplicates"])
            await self._duplicates.restore(ids, self._files.pause)
            self.consumers.restore(cast("dict[str, object]", fields["consumers"]))
            self._expiry.restore(cast("dict[str, object]", fields.get("expiry", {})))
            config = fields["config"]
            self._adopt(None if config is None else StreamConfig.from_json(cast("dict[str, object]", config)))
            if accept_loss:
                self.consumers.removed(self.clock, 0)
        except (KeyError, TypeError, ValueError, ApiError) as error:
            raise StateDamaged(f"stream {self.name}: the captured state is wrong: {error}") from error

    @property
    def settled(self) -> bool:
        """Whether the block writes in flight are few enough."""
        return self._files.pending_bytes <= PENDING_BYTES

    async def settle(self) -> None:
        """Waits until they are."""
        if not self.settled:
            await self._files.settle(PENDING_BYTES)

    def close(self) -> None:
        """Lets go of the index. The files stay as they are."""
        self.empty()


def _nobody() -> None:
    """Nobody is to be told."""


_PUBLISH_TYPE: Final = bytes([EntryType.PUBLISH])
_NOT_SUPPORTED: Final = {
    headers.COUNTER: 10168,
    headers.BATCH: 10174,
    headers.SCHEDULE: 10188,
}


def _decides_singly(config: StreamConfig) -> bool:
    """Whether what becomes of one message can depend on the one just before it in the same batch.

    Dropping the oldest is the same after each message as after all of them; but a limit on bytes together
    with one per subject is not, since a small message may replace a large one.
    """
    limited = config.max_msgs > 0 or config.max_bytes > 0 or config.discard_new_per_subject
    if config.subject_transform or config.republish:
        return True
    if config.retention == "interest" or (config.discard == "new" and limited):
        return True
    return config.max_bytes > 0 and config.max_msgs_per_subject > 0


def _split(entry: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Subject, headers and payload of a PUBLISH entry, or None if it contradicts itself."""
    if len(entry) < _PUBLISH.size:
        return None
    subject, zero, header_size = _PUBLISH.unpack_from(entry)
    body = _PUBLISH.size + subject
    if subject == 0 or zero != 0 or len(entry) < body or len(entry) - body < header_size:
        return None
    return entry[_PUBLISH.size : body], entry[body : body + header_size], entry[body + header_size :]


def _as_before(state: Mapping[str, object]) -> dict[str, object]:
    """A captured state as version 1 has it, for clusters with nodes that know no other."""
    store = cast("dict[str, Any]", state["store"])
    expiry = cast("dict[str, Any]", state["expiry"])
    return {
        **state,
        "v": 1,
        "store": {**store, "blocks": [block[:3] for block in store["blocks"]]},
        "duplicates": list(unpack_ids(cast("bytes", state["duplicates"]))),
        "expiry": {**expiry, "due": read_due(expiry["due"])},
    }


def _unpack_state(state: bytes) -> dict[str, object]:
    try:
        fields = msgpack.unpackb(state)
    except (ValueError, msgpack.UnpackException) as error:
        raise StateDamaged("a captured stream can't be read") from error
    if not isinstance(fields, dict) or fields.get("v") not in (1, STATE_VERSION):
        raise StateDamaged(f"a captured stream of a version beyond {STATE_VERSION}")
    return fields


def _is_pattern(subject: bytes) -> bool:
    """Whether it may have wildcards."""
    return b"*" in subject or b">" in subject
