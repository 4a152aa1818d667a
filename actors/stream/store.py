"""A stream's messages: block files written behind, and the index over them that is kept in memory.

The store knows sequences, subjects, sizes and times; it decides nothing. Nothing here syncs a file per
message: the write-ahead log did (rule S11), and a snapshot syncs the blocks that it names.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from ...codec import Entries, crc32c
from ...codec.block import (
    EVERYTHING,
    NO_SUBJECT,
    BlockScan,
    IndexChange,
    Record,
    Refusals,
    SubjectCounters,
    accounted_size,
    encode_record,
    group_publishes,
    index_records,
    record_size,
    scan_block,
)
from ...storage.errors import FileDamaged
from .blocks import Block
from .damage import Damage
from .errors import DamagedRecord, StateDamaged
from .salvage import (
    BlockNote,
    Wreck,
    block_notes,
    filled,
    find_records,
    spans,
    what_is_wrong,
    without,
)

if TYPE_CHECKING:
    from ...storage.files import GroupFiles
    from ...storage.manifest import FileEntry

SubjectIds = Callable[[list[bytes]], "array[int]"]
"""Gives the ids of a run's subjects, NO_SUBJECT for one that is refused."""

BLOCK_STEM: Final = "block"
PUBLISH_HEADER: Final = 8
READ_AHEAD: Final = 64 << 10
"""Messages that begin this close behind each other are read together, with what lies between them."""
NAMED_SLACK: Final = 65_536
"""Outdated subject ids that are kept before the list of them is begun anew."""


class MessageStore:
    """The messages of one stream."""

    def __init__(
        self,
        files: GroupFiles,
        stream: str,
        block_bytes: int,
        tell_damage: Callable[[], bool] = lambda: False,
    ) -> None:
        """`tell_damage` wakes whoever repairs; False if nobody does."""
        self._files = files
        self._stream = stream
        self._block_bytes = block_bytes
        self._blocks: list[Block] = []
        self.damage = Damage(files, stream, self._blocks, self._block_having, tell_damage)
        """What of the blocks can't be read."""
        self._firsts: list[int] = []
        """`first` of each block, for searching."""
        self._open: Block | None = None
        """The block that is appended to: the last one, if it may grow."""
        self._pending: list[bytes] = []
        """What the open block got and the file has not yet."""
        self._pending_size = 0
        self._obsolete: list[str] = []
        """Files without a message that the last manifest may name."""
        self._ids: dict[bytes, int] = {}
        """Subjects that have messages."""
        self._names: list[bytes] = []
        """Subjects by id."""
        self._free_ids: list[int] = []
        self.named = array("I")
        """Every id, in the order in which they were given to subjects: an id given again is there again."""
        self.named_epoch = 0
        """Grows when `named` was begun anew because most of it was outdated."""
        self._counters = SubjectCounters()
        self.messages = 0
        self.size = 0
        """Accounted bytes of all messages."""
        self.first = 0
        """Sequence of the oldest message; last + 1 if there is none; 0 before the first message ever."""
        self.last = 0
        """Sequence of the newest message ever stored."""
        self.last_time = 0
        """Its time in ns; 0 before there was one."""

    # --- subjects

    @property
    def subjects(self) -> Mapping[bytes, int]:
        """The id of every subject that has messages."""
        return self._ids

    def subject_id(self, subject: bytes) -> int:
        """The id of a subject, a new one if it has none; ids without messages are given back by `release`."""
        known = self._ids.get(subject)
        if known is not None:
            return known
        if self._free_ids:
            number = self._free_ids.pop()
            self._names[number] = subject
        else:
            number = self._counters.grow()
            self._names.append(subject)
        self._ids[subject] = number
        if len(self.named) > 2 * len(self._names) + NAMED_SLACK:
            self.named = array("I", range(len(self._names)))
            self.named_epoch += 1
        self.named.append(number)
        return number

    def name_of(self, number: int) -> bytes:
        """The subject of an id; empty if none has it now."""
        return self._names[number]

    def release(self, number: int) -> None:
        """Forgets a subject that has no message."""
        if self._counters.counts[number] == 0 and self._names[number]:
            del self._ids[self._names[number]]
            self._names[number] = b""
            self._free_ids.append(number)

    def count_of(self, subject: bytes) -> int:
        """Messages with a subject."""
        number = self._ids.get(subject)
        return 0 if number is None else self._counters.counts[number]

    def last_of(self, subject: bytes) -> int:
        """Sequence of a subject's newest message, or 0."""
        number = self._ids.get(subject)
        return 0 if number is None else self._counters.lasts[number]

    def wanted(self, numbers: Iterable[int]) -> bytearray:
        """The ids given, as the table that searching and dropping take."""
        table = bytearray(len(self._names))
        for number in numbers:
            table[number] = 1
        return table

    def _widen(self, wanted: bytearray) -> None:
        """A table made before the newest subjects came does not want them."""
        wanted.extend(bytes(max(0, len(self._names) - len(wanted))))

    def counts(self, numbers: Iterable[int]) -> list[int]:
        """Messages of each of these subjects, by id."""
        return [self._counters.counts[number] for number in numbers]

    def lasts(self, numbers: Iterable[int], up_to: int = EVERYTHING) -> list[int]:
        """Sequences of the newest messages, none above `up_to`, of those of these subjects that have one."""
        lasts, firsts = self._counters.lasts, self._counters.firsts
        found = [
            lasts[number] if lasts[number] <= up_to else self._found_before(up_to + 1, number)
            for number in numbers
            if firsts[number] <= up_to
        ]
        return [sequence for sequence in found if sequence is not None]

    def over(self, numbers: Iterable[int], limit: int) -> dict[int, int]:
        """Those ids that have more messages than the limit, each with how many more."""
        counts = self._counters.counts
        return {number: counts[number] - limit for number in numbers if counts[number] > limit}

    # --- appending

    def append_run(
        self,
        entries: Entries,
        first: int,
        count: int,
        ids_of: SubjectIds,
        *,
        max_message_size: int,
        refusals: Refusals,
    ) -> tuple[bytes, array[int]]:
        """Stores a run of PUBLISH entries; their packed results and the ids of the run's subjects."""
        run = group_publishes(entries, first, count)
        ids = ids_of(run.subjects)
        results = []
        taken = too_large = 0
        time = entries.header.time
        while taken < count:
            block = self._writable()
            appended = run.append(
                taken,
                ids,
                self._counters,
                sequence=self.last + 1,
                time=time,
                block_offset=block.length,
                room=too_large or max(0, self._block_bytes - block.length),
                max_message_size=max_message_size,
                refusals=refusals,
            )
            taken += appended.entries
            results.append(appended.results)
            block.extend(appended, time)
            self._note_stored(block, appended.data, appended.records, appended.size, time)
            too_large = 0
            if taken < count and block.length:
                self.close_block()
            elif taken < count:
                # Not even an empty block has room for this one: it gets a block of its own.
                too_large = record_size(0, 0, entries.lengths[first + taken] - PUBLISH_HEADER)
        return b"".join(results) if len(results) > 1 else results[0], ids

    def append(self, subject: bytes, headers: bytes, payload: bytes, time: int) -> int:
        """Stores one message and gives its sequence."""
        number = self.subject_id(subject)
        record = encode_record(self.last + 1, time, subject, headers, payload)
        block = self._writable()
        if block.length and len(record) > self._block_bytes - block.length:
            self.close_block()
            block = self._writable()
        size = accounted_size(len(subject), len(headers), len(payload))
        self._counters.count_message(number, self.last + 1)
        block.append(record, time, size, number)
        self._note_stored(block, record, 1, size, time)
        return self.last

    def _writable(self) -> Block:
        """The open block, or a new one, which joins the list with its first record."""
        if self._open is None:
            self._open = Block(self._files.new_name(BLOCK_STEM), self.last + 1)
        return self._open

    def _note_stored(self, block: Block, data: bytes, messages: int, size: int, time: int) -> None:
        if not messages:
            return
        if not self._blocks or self._blocks[-1] is not block:
            self._blocks.append(block)
            self._firsts.append(block.first)
        if not self.messages:
            self.first = self.last + 1
        self._pending.append(data)
        self._pending_size += len(data)
        self.messages += messages
        self.size += size
        self.last += messages
        self.last_time = time

    def flush(self) -> None:
        """Hands what was appended to the file, without waiting."""
        if self._pending and self._open is not None:
            data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._files.write(self._open.name, self._open.length - self._pending_size, data)
        self._pending.clear()
        self._pending_size = 0

    def close_block(self) -> None:
        """The open block takes no more records: the next message begins a new one."""
        block = self._open
        if block is None:
            return
        self.flush()
        self._open = None
        if len(block):
            block.settle()
            self._files.sync_in_background(block.name)
            if not block.live:
                self._retire(block)

    def skip_to(self, sequence: int) -> None:
        """The next message will have this sequence, which is higher than it would be; none may be there."""
        self.close_block()
        self.last = sequence - 1
        self.first = sequence

    # --- dropping

    def drop_oldest(self, messages: int = 0, size: int = 0) -> None:
        """Drops at least so many messages and so many accounted bytes, as far as there are any."""
        while (messages > 0 or size > 0) and self.messages:
            block = self._blocks[0]
            change = block.drop(self._counters, 0, len(block), messages=max(0, messages), size=max(0, size))
            block.start = change.position
            messages -= change.messages
            size -= change.size
            self._note_dropped(block, change)
            self._find_first()

    def drop_before(self, sequence: int) -> int:
        """Drops everything older than a sequence; gives how many messages that were."""
        before = self.messages
        while self.messages and self.first < sequence:
            block = self._blocks[0]
            end = min(len(block), sequence - block.first)
            change = block.drop(self._counters, 0, end, messages=EVERYTHING)
            block.start = end
            self._note_dropped(block, change)
            self._find_first()
        return before - self.messages

    def drop_older(self, time: int) -> None:
        """Drops messages that are not newer than a time (ns)."""
        while self.messages:
            block = self._blocks[0]
            position = block.older_than(time)
            self.drop_before(block.first + position)
            if position < len(block):
                return

    def drop_of_subjects(self, excess: Mapping[int, int], before: int = EVERYTHING) -> None:
        """Drops so many of the oldest messages of each subject (by id), only those below a sequence."""
        counters, left = self._counters, dict(excess)
        while left:
            by_block: dict[int, list[int]] = {}
            for number in left:
                by_block.setdefault(self._block_at(counters.firsts[number]), []).append(number)
            work = [(self._blocks[at], numbers) for at, numbers in by_block.items()]
            for block, numbers in work:
                wanted = array("Q", [left[number] for number in numbers])
                change = block.trim(counters, array("I", numbers), wanted, before)
                for number, missing in zip(numbers, wanted, strict=True):
                    left[number] = missing
                    if not counters.counts[number]:
                        self.release(number)
                self._note_dropped(block, change)
            left = {
                number: missing
                for number, missing in left.items()
                if missing and counters.counts[number] and counters.firsts[number] < before
            }
        self._find_first()

    def drop_wanted(self, wanted: bytearray, messages: int = EVERYTHING, before: int = EVERYTHING) -> int:
        """Drops up to so many of the oldest messages of wanted subjects, only those below a sequence."""
        left = messages
        self._widen(wanted)
        for block in list(self._blocks):
            if not left or block.first >= before:
                break
            end = min(len(block), before - block.first)
            change = block.drop(self._counters, 0, end, wanted=wanted, messages=left)
            left -= change.messages
            self._note_dropped(block, change)
        self._find_first()
        return messages - left

    def drop(self, sequence: int) -> bool:
        """Drops one message; False if there is none with that sequence."""
        found = self._locate(sequence)
        if found is None:
            return False
        block, position = found
        number = block.ids[position]
        change = block.drop(self._counters, position, position + 1, messages=1)
        if self._counters.counts[number] and self._counters.lasts[number] == sequence:
            self._counters.lasts[number] = self._last_before(sequence, number)
        self._note_dropped(block, change)
        self._find_first()
        return True

    def _note_dropped(self, block: Block, change: IndexChange) -> None:
        self.messages -= change.messages
        self.size -= change.size
        for number in change.emptied:
            self.release(number)
        if not block.live and block is not self._open:
            self._retire(block)

    def _retire(self, block: Block) -> None:
        """A block without messages leaves the list; its file must stay while a manifest may name it."""
        if block in self._blocks:
            at = self._blocks.index(block)
            del self._blocks[at], self._firsts[at]
            self._obsolete.append(block.name)

    def _find_first(self) -> None:
        """Moves `first` to the oldest message that is left."""
        if not self.messages:
            if self.first:
                self.first = self.last + 1
            return
        for block in self._blocks:
            position = block.find(0)
            if position is not None:
                block.start = position
                self.first = block.first + position
                return

    # --- finding and reading

    def _block_at(self, sequence: int) -> int:
        """Number of the block that has a sequence, or of the next one."""
        at = max(0, bisect_right(self._firsts, sequence) - 1)
        if at < len(self._blocks) and self._blocks[at].last < sequence:
            at += 1
        return at

    def _locate(self, sequence: int) -> tuple[Block, int] | None:
        at = self._block_at(sequence)
        if at >= len(self._blocks) or sequence < self._blocks[at].first:
            return None
        block = self._blocks[at]
        position = sequence - block.first
        return (block, position) if block.ids[position] != NO_SUBJECT else None

    def _last_before(self, sequence: int, number: int) -> int:
        found = self._found_before(sequence, number)
        assert found is not None, "a counted message is in no block"
        return found

    def _found_before(self, sequence: int, number: int) -> int | None:
        """The newest message of a subject (by id) below a sequence."""
        for block in reversed(self._blocks[: self._block_at(sequence) + 1]):
            position = block.find_last(min(len(block), max(0, sequence - block.first)), number)
            if position is not None:
                return block.first + position
        return None

    def find(
        self, sequence: int, *, subject: int = NO_SUBJECT, wanted: bytearray | None = None
    ) -> int | None:
        """The first sequence from the given one on that has a message (of a subject, or of wanted ones)."""
        if subject != NO_SUBJECT:
            sequence = max(sequence, self._counters.firsts[subject])
            if sequence > self._counters.lasts[subject]:
                return None
        if wanted is not None:
            self._widen(wanted)
        for block in self._blocks[self._block_at(sequence) :]:
            position = block.find(max(0, sequence - block.first), subject=subject, wanted=wanted)
            if position is not None:
                return block.first + position
        return None

    def count_from(self, sequence: int, wanted: bytearray | None = None) -> int:
        """Messages from a sequence on (of wanted subjects)."""
        if wanted is not None:
            self._widen(wanted)
        return sum(
            block.count(sequence - block.first, wanted) for block in self._blocks[self._block_at(sequence) :]
        )

    def count_from_of(self, sequence: int, numbers: Sequence[int]) -> int:
        """Messages of these subjects (by id) from a sequence on; only blocks that must be are looked at."""
        counters = self._counters
        after = [number for number in numbers if counters.lasts[number] >= sequence]
        whole = sum(counters.counts[number] for number in after if counters.firsts[number] >= sequence)
        partly = [number for number in after if counters.firsts[number] < sequence]
        return whole + (self.count_from(sequence, self.wanted(partly)) if partly else 0)

    def subjects_from(self, sequence: int) -> set[int]:
        """The ids of all subjects that have a message from a sequence on."""
        found: set[int] = set()
        for block in self._blocks[self._block_at(sequence) :]:
            found.update(block.ids[max(0, sequence - block.first) :])
        found.discard(NO_SUBJECT)
        return found

    def subject_at(self, sequence: int) -> bytes | None:
        """The subject of a message, without reading it; None if there is none with that sequence."""
        found = self._locate(sequence)
        return None if found is None else self._names[found[0].ids[found[1]]]

    def size_at(self, sequence: int) -> int:
        """The accounted size of a message; 0 if there is none with that sequence."""
        found = self._locate(sequence)
        return 0 if found is None else found[0].sizes[found[1]]

    def first_size_of(self, subject: bytes) -> int:
        """The accounted size of a subject's oldest message, or 0."""
        number = self._ids.get(subject)
        sequence = None if number is None else self.find(0, subject=number)
        return 0 if sequence is None else self.size_at(sequence)

    @property
    def first_time(self) -> int:
        """Time (ns) of the oldest message; 0 if there is none."""
        found = self._locate(self.first) if self.messages else None
        return 0 if found is None else found[0].time_of(found[1])

    def sequence_since(self, time: int) -> int:
        """The first sequence whose message is not older than a time (ns); last + 1 if there is none."""
        for block in self._blocks:
            position = block.find(block.older_than(time - 1))
            if position is not None:
                return block.first + position
        return self.last + 1

    def gone(self) -> Iterator[int]:
        """Sequences between the first and the last that have no message."""
        if not self.messages:
            return
        expected = self.first
        for block in self._blocks:
            yield from range(expected, block.first)
            for position in range(max(0, expected - block.first), len(block)):
                if block.ids[position] == NO_SUBJECT:
                    yield block.first + position
            expected = block.last + 1
        yield from range(expected, self.last + 1)

    def has(self, sequence: int) -> bool:
        """Whether there is a message with a sequence."""
        return self._locate(sequence) is not None

    def time_at(self, sequence: int) -> int:
        """The time (ns) of a message; 0 if there is none with that sequence."""
        found = self._locate(sequence)
        return 0 if found is None else found[0].time_of(found[1])

    def _block_having(self, sequence: int) -> Block | None:
        """The block in which a sequence lies, whether its message is there or not."""
        at = self._block_at(sequence)
        block = self._blocks[at] if at < len(self._blocks) else None
        return block if block is not None and block.first <= sequence <= block.last else None

    async def read(self, sequence: int) -> Record | None:
        """A message, verified; None if there is none with that sequence.

        A damaged one is waited for a moment, as a replica may have it. Raises DamagedRecord.
        """
        return (await self.read_many([sequence]))[0]

    async def read_many(self, sequences: Sequence[int]) -> list[Record | None]:
        """Messages, verified, neighbours with one read; None for one that is gone.

        Damaged ones are waited for a moment, as a replica may have them. Raises DamagedRecord.
        """
        while True:
            try:
                return await self._read_many(sequences)
            except DamagedRecord as damage:
                if self.damage.is_lost(damage.sequence) or not await self.damage.is_mended(damage.sequence):
                    raise

    async def _read_many(self, sequences: Sequence[int]) -> list[Record | None]:
        for sequence in sequences if self.damage.lost else ():
            if self.damage.is_lost(sequence):
                raise DamagedRecord(self._stream, "none", 0, sequence, "it is lost: no replica could read it")
        found: dict[int, Record] = {}
        for block, first, last in self._spans(sequences):
            begin = block.span(first)[0]
            offset, length = block.span(last)
            name = block.name
            spans = [(block.first + at, *block.span(at)) for at in range(first, last + 1)]
            try:
                data = memoryview(await self._files.read(name, begin, offset + length - begin))
            except FileDamaged as damage:
                unread = DamagedRecord(self._stream, name, begin, block.first + first, str(damage))
                raise self.damage.note(unread) from damage
            wanted = set(sequences)
            for sequence, offset, length in spans:
                if sequence in wanted:
                    piece = data[offset - begin : offset - begin + length]
                    found[sequence] = self.damage.check(piece, block, sequence - block.first)
        return [found.get(sequence) for sequence in sequences]

    def _spans(self, sequences: Iterable[int]) -> list[tuple[Block, int, int]]:
        """The messages' places, (block, first position, last position), where one read gets close ones."""
        spans: list[tuple[Block, int, int]] = []
        for sequence in sorted(set(sequences)):
            located = self._locate(sequence)
            if located is None:
                continue
            block, position = located
            if spans and spans[-1][0] is block:
                gap = block.offsets[position] - block.offsets[spans[-1][2]]
                if gap <= READ_AHEAD:
                    spans[-1] = (block, spans[-1][1], position)
                    continue
            spans.append((block, position, position))
        return spans

    # --- snapshots

    def capture(self) -> tuple[dict[str, object], list[tuple[str, int, int]], tuple[str, ...]]:
        """State, files (name, length, crc32c) in the state's order, and names that are needed no more."""
        blocks = [[len(block), block.start, block.live_bits(), block.first] for block in self._blocks]
        state: dict[str, object] = {
            "first": self.first,
            "last": self.last,
            "last_time": self.last_time,
            "messages": self.messages,
            "size": self.size,
            "blocks": blocks,
            "lost": [list(span) for span in self.damage.lost if span[1] >= self.first],
        }
        files = [(block.name, block.length, block.crc) for block in self._blocks]
        return state, files, tuple(self._obsolete)

    def forget(self, names: Sequence[str]) -> None:
        """Removes obsolete files, which no durable manifest names any more."""
        gone = set(names)
        self._obsolete = [name for name in self._obsolete if name not in gone]
        self._files.forget(names)

    async def restore(
        self, state: Mapping[str, object], files: Sequence[FileEntry], *, accept_loss: bool = False
    ) -> None:
        """Takes a captured state over files that are cut to their lengths; verifies every record.

        Only for a store that is empty. With `accept_loss` what can't be read is lost, and known to be.
        Raises DamagedRecord, once everything was looked at, or StateDamaged.
        """
        notes = block_notes(state, files)
        if notes is None:
            raise StateDamaged(f"stream {self._stream}: {len(files)} files, the state has others")
        self.damage.lost = [(first, last) for first, last in cast("list[list[int]]", state.get("lost", []))]
        wreck = Wreck(self._files, self._stream, notes)
        for note in notes:
            await self._restore_block(note, wreck, accept_loss=accept_loss)
        if not wreck.whole:
            raise wreck.damage()
        self.first, self.last = _number(state, "first"), _number(state, "last")
        self.last_time = _number(state, "last_time")
        if accept_loss:
            self._find_first()
        elif (self.messages, self.size) != (state["messages"], state["size"]):
            raise StateDamaged(
                f"stream {self._stream}: {self.messages} messages of {self.size} bytes in the files, "
                f"{state['messages']} of {state['size']} in the state"
            )
        if self._blocks and self._blocks[-1].last == self.last and not self.damage.is_lost(self.last):
            self._open = self._blocks[-1]

    async def _restore_block(self, note: BlockNote, wreck: Wreck, *, accept_loss: bool) -> None:
        try:
            data = await self._files.read(note.file.name, 0, note.file.length)
        except FileDamaged as damage:
            data, reason = b"", str(damage)
        else:
            scan = scan_block(data)
            reason = what_is_wrong(data, scan, note)
            if not reason:
                self._index_block(note, data, scan, note.live)
                return
        places = find_records(data, note.first, note.count) if note.first else {}
        gone = [each for each in range(note.first, note.last + 1) if each not in places]
        same = len(data) == note.file.length and crc32c(data) == note.file.crc32c
        if not accept_loss and not (same and gone and all(map(self.damage.is_lost, gone))):
            wreck.add(note, data, reason)
            return
        self._note_lost(gone)
        if places:
            whole, offsets = filled(data, places, note)
            scan = scan_block(whole)
            scan.offsets = array("I", offsets)
            lost = [sequence - note.first for sequence in gone]
            self._index_block(note, data, scan, without(note.live, note.start, note.count, lost))

    def _note_lost(self, sequences: Iterable[int]) -> None:
        """These are lost, and stay so: what a backup or another disk has of them is for people to judge."""
        for first, last in spans(each for each in sequences if not self.damage.is_lost(each)):
            insort(self.damage.lost, (first, last))

    def _index_block(self, note: BlockNote, data: bytes, scan: BlockScan, live: bytes | None) -> None:
        """Takes a block; `live` says which of its messages are there (None: all from its start on)."""
        numbers = [self.subject_id(subject) for subject in scan.subjects]
        ids, change = index_records(scan, numbers, self._counters, note.start, live)
        for number in numbers:
            self.release(number)
        block = Block.scanned(note.file.name, data, scan, ids, change.messages, note.start)
        if self._blocks:
            self._blocks[-1].settle()
        self._blocks.append(block)
        self._firsts.append(block.first)
        self.messages += change.messages
        self.size += change.size


def _number(state: Mapping[str, object], name: str) -> int:
    value = state[name]
    if not isinstance(value, int):
        raise StateDamaged(f"{name} of a captured stream is no number")
    return value
