"""A group's files in memory, with what a power loss leaves of them, and a log that seals batches."""

from __future__ import annotations

import struct
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trimaran.actors.replica.machine import Capture
from trimaran.actors.stream.commands import configure
from trimaran.actors.stream.config import from_request
from trimaran.actors.stream.machine import StreamMachine
from trimaran.codec import Entries, EntryType, Kind, crc32c, make_chunk, seal_batch, walk_batch
from trimaran.storage import FileDamaged

T = TypeVar("T")
Entry = tuple[int, bytes]


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waited")


class MemoryFiles:
    """GroupFiles: what was written, what of it is synced, and in which order things happened."""

    def __init__(self) -> None:
        self.written: dict[str, bytearray] = {}
        self.synced: dict[str, bytes] = {}
        self.operations: list[tuple[str, object]] = []
        self.pending_bytes = 0
        self._names = 0

    def new_name(self, stem: str) -> str:
        self._names += 1
        return f"{stem}-{self._names}"

    def write(self, name: str, offset: int, data: bytes) -> None:
        file = self.written.setdefault(name, bytearray())
        assert len(file) == offset, "block files are append-only, without gaps"
        file += data
        self.operations.append(("write", name))

    async def read(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self.written[name][offset : offset + length])

    async def mend(self, name: str, patches: Mapping[int, bytes], length: int, crc: int) -> None:
        content = bytearray(self.written.get(name, b"").ljust(length, b"\0"))
        for offset, patch in patches.items():
            content[offset : offset + len(patch)] = patch
        if crc32c(content[:length]) != crc:
            raise FileDamaged(name, "another checksum")
        self.written[name] = content

    async def sync(self, names: Sequence[str]) -> None:
        for name in names:
            self.synced[name] = bytes(self.written[name])
            self.operations.append(("sync", name))

    def sync_in_background(self, name: str) -> None:
        self.operations.append(("background", name))

    def forget(self, names: Sequence[str]) -> None:
        for name in names:
            del self.written[name]
            self.operations.append(("forget", name))

    async def pause(self) -> None:
        """Nobody else is here."""

    async def settle(self, below: int) -> None:
        self.pending_bytes = below

    def recovered(self, capture: Capture, survives: Callable[[str], bool]) -> MemoryFiles:
        """What recovery makes of the files after a power loss.

        Unsynced bytes of a file are there if `survives` says so. Files that the manifest doesn't name are
        moved away, the others are cut to its lengths: missing bytes of those would be damage.
        """
        files = MemoryFiles()
        files._names = self._names
        for entry in capture.files:
            data = bytes(self.written[entry.name]) if survives(entry.name) else self.synced[entry.name]
            files.written[entry.name] = bytearray(data[: entry.length])
            assert crc32c(data[: entry.length]) == entry.crc32c
        return files


def machine_on(files: MemoryFiles, block_bytes: int = 512, kind: type[StreamMachine] = StreamMachine) -> Any:
    return kind(files, "S", block_bytes=block_bytes)  # type: ignore[arg-type]  # a fake of GroupFiles


def restored(capture: Capture, files: MemoryFiles, block_bytes: int = 512) -> Any:
    """A machine that starts from a capture over these files."""
    machine = machine_on(files, block_bytes)
    now(machine.restore(capture.state, capture.files))
    return machine


def snapshot(machine: StreamMachine, files: MemoryFiles) -> Capture:
    """The four steps of a snapshot, as the applier takes them."""
    capture = machine.capture()
    now(files.sync([entry.name for entry in capture.files]))
    files.operations.append(("manifest", None))
    machine.captured(capture)
    return capture


@dataclass
class Log:
    """Seals entries into verified batches with rising indexes and times."""

    batches: list[bytes] = field(default_factory=list)
    time: int = 1_700_000_000_000_000_000
    incarnation: int = 1

    def batch(self, *entries: Entry, after: int = 0) -> Entries:
        """The next batch, `after` ns later; a tick if there are no entries."""
        self.time += after
        index = len(self.batches) + 1
        sealed = seal_batch(
            [make_chunk(entries)] if entries else [],
            kind=Kind.NORMAL if entries else Kind.TICK,
            group=2,
            incarnation=self.incarnation,
            index=index,
            term=1,
            previous_term=min(1, index - 1),
            time=self.time,
        )
        self.batches.append(sealed)
        return walk_batch(sealed)


def publish(subject: str, payload: bytes = b"", **asked: str) -> Entry:
    """A PUBLISH entry; keywords are its `Nats-` headers, with underscores for dashes."""
    headers = {f"Nats-{name.replace('_', '-')}": value for name, value in asked.items()}
    return publish_with(subject, payload, headers)


def publish_with(subject: str, payload: bytes, headers: Mapping[str, str]) -> Entry:
    block = b""
    if headers:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        block = f"NATS/1.0\r\n{lines}\r\n".encode()
    checked = any(name.startswith("Nats-") for name in headers)
    data = struct.pack("<HHI", len(subject), 0, len(block)) + subject.encode() + block + payload
    return (EntryType.PUBLISH_CHECKED if checked else EntryType.PUBLISH, data)


def command(data: bytes) -> Entry:
    return (EntryType.STREAM_COMMAND, data)


def configured(version: int = 1, **settings: Any) -> Entry:
    """A configure entry for stream S, by default with subjects `s.>`."""
    wanted = {"name": "S", "subjects": ["s.>"], **settings}
    config = from_request("S", wanted, creates=not settings.get("sealed"))
    return command(configure(config.to_json(), version))
