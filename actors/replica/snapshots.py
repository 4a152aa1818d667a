"""Snapshots of one group: taken from the own machine, sent to a follower, installed from a leader (DESIGN 6).

A snapshot is a manifest: the machine's small state and the list of its files. Taking one never holds up the
applier: the machine is captured between two batches, the rest happens beside it, in this order (rule S11):
sync the named files, write the manifest, and only then let the log go.

Sent, it is the manifest followed by its files in checksummed parts, a few in flight at a time. What the
follower reports back is progress, never a vote for commit. A transfer that is cut goes on where it stopped,
also after a restart of either side: the follower says what it has.

While one is under way, new snapshots are taken all the same. But the files of the one that is sent stay, and
so does the log behind it, up to a bound: else the follower would have to begin again when it is done.

Taking and installing exclude each other: the manifest never goes back, and neither removes the other's files.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import trio

from ...codec import crc32c
from ...storage.errors import DiskFull, FileDamaged, ManifestTooLarge, StorageError
from ...storage.files import GroupFiles
from ...storage.incoming import Incoming
from ...storage.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    decode_manifest,
    encode_manifest,
    manifest_crc,
)
from ..peers.requests import Frames, describe
from ..peers.wire import FrameKind
from ..raft import messages
from ..raft.membership import BadMembership, Membership

if TYPE_CHECKING:
    from .group import Group

logger = logging.getLogger(__name__)

Reports = trio.MemoryReceiveChannel[tuple[str, object]]
"""(verdict, detail) of each part, as the follower reports them."""

PART_BYTES: Final = 512 * 1024
PARTS_IN_FLIGHT: Final = 4
PROGRESS_SECONDS: Final = 10.0
INBOX_BOUND: Final = 4 * PARTS_IN_FLIGHT
RETRY_SECONDS: Final = 1.0
"""How often a snapshot is tried again for which there was no space, or a file damaged."""
MANIFEST_PART: Final = (1 << 32) - 1
"""No snapshot has so many files."""


def resume_offsets(report: object, manifest: Manifest) -> list[int]:
    """Where the follower wants each file to begin. Raises SendRefused if that can't be."""
    offsets = report if isinstance(report, list) else []
    lengths = [file.length for file in manifest.files]
    if len(offsets) != len(lengths) or not all(
        isinstance(offset, int) and 0 <= offset <= length
        for offset, length in zip(offsets, lengths, strict=True)
    ):
        raise SendRefused("the follower's offsets are none")
    return offsets


class SendRefused(Exception):
    """The follower did not take the snapshot, or the link is gone; the leader's next probe starts over."""


class Snapshots:
    """Owns the group's manifest. `attach` ties it to its group; `run` takes snapshots when enough log has
    grown."""

    def __init__(
        self,
        files: GroupFiles,
        peers: Frames,
        log_bytes: int,
        kept_bytes: int,
        manifest: Manifest | None,
        first_transfer: int,
    ) -> None:
        """`log_bytes` of log make the next snapshot due; `kept_bytes` is the most that is kept for followers
        that are getting one."""
        self.manifest = manifest
        """The newest durable one; what the machine starts from after a crash, and what a follower gets."""
        self.manifest_crc = manifest_crc(encode_manifest(manifest)) if manifest is not None else 0
        self.taken = self.sent = self.installed = 0
        self.received_parts = self.sent_parts = 0
        self.supersede = 0
        """The leader whose state counts for more than what is applied here; 0 for none."""
        self.began = self.ended = 0
        """When the last one was taken: from the capture until the manifest was durable, ns since 1970."""
        self._files = files
        self._peers = peers
        self._log_bytes = log_bytes
        self._grown = 0
        self._retained = Retained(kept_bytes)
        self._due = trio.Event()
        self.changing = trio.Lock()
        """Held by whoever makes another manifest the group's own."""
        self._transfers = itertools.count(first_transfer)  # drawn, so that no earlier process's report fits
        self.outdated = False
        """Records were given up that the manifest counts on: what it names, nobody could restore. The first
        batch that is applied makes another one due."""
        self._waits = False
        """The last attempt found no space, or files that are to be mended first."""
        self._progress: dict[int, tuple[int, trio.MemorySendChannel[tuple[str, object]]]] = {}
        """By transfer: to whom it goes, and where its reports go."""
        self._inbox, self._parts = trio.open_memory_channel[Part](INBOX_BOUND)
        self._group: Group

    def attach(self, group: Group) -> None:
        self._group = group

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._install_forever)
            while True:
                await self._due.wait()
                self._due = trio.Event()
                await self.take()
                if self._waits:
                    await trio.sleep(RETRY_SECONDS)

    # --- taking one ----------------------------------------------------------------------------------

    def on_applied(self, size: int) -> None:
        """A batch of this many bytes was applied."""
        self._retained.grew(size)
        self._grown += size
        if self._grown >= self._log_bytes or self.outdated:
            self._grown = 0
            self._due.set()

    def outdate(self) -> None:
        """The machine started without some of what the manifest names."""
        self.outdated = True
        self._due.set()

    async def take(self) -> None:
        """Make a manifest of the machine's present state durable, then let the log go up to the one before.

        The log between the last two manifests stays, so that a follower that was away for a moment catches up
        from the log. Without space for it nothing changes, and it is tried again. So it is where a file is
        shorter than what was written to it: repair is told, and the log stays until that is mended.
        """
        async with self.changing:
            try:
                await self._take()
            except (DiskFull, FileDamaged) as error:
                if not self._waits:
                    logger.warning("group %s: no snapshot for now: %s", self._group.name, error)
                self._waits = True
                self._due.set()
                damage = self._group.machine.damage
                if damage is not None and isinstance(error, FileDamaged):
                    await damage.examine(error.file)
            else:
                self._waits = False

    async def _take(self) -> None:
        group, applier, previous = self._group, self._group.applier, self.manifest
        if group.state.unrestored or (previous is not None and previous.index >= applier.applied):
            return
        self.began = group.wall()
        group.announce_hash()
        capture = applier.capture()
        manifest = Manifest(
            group=group.number,
            incarnation=group.incarnation,
            index=applier.applied,
            term=applier.applied_term,
            members=group.state.memberships.at(applier.applied).encode(),
            time=applier.applied_time,
            kind=group.machine.kind,
            rolling_hash=applier.rolling_hash,
            files=capture.files,
            state=capture.state,
        )
        await group.wait_synced(manifest.index)
        await self._files.sync_for(manifest)
        try:
            self.manifest_crc = await self._files.write_manifest(manifest)
        except ManifestTooLarge as error:
            logger.error("group %s: no snapshot, so the log grows: %s", group.name, error)
            return
        self.manifest = manifest
        self.outdated = False
        self.taken += 1
        self.ended = group.wall()
        group.machine.captured(capture)
        if previous is not None:
            self._retained.may_go(previous.index, previous.term)
        self._let_go()

    def _let_go(self) -> None:
        """Let the log go, as far as no follower needs it that is getting, or has just got, a snapshot."""
        group = self._group
        leading = group.state.leading
        for peer, size in self._retained.needed_by():
            progress = leading.progress.get(peer) if leading is not None else None
            caught_up = progress is None or progress.match >= self._retained.wanted
            if caught_up and not self._is_sending(peer):
                self._retained.release(peer)
            elif self._retained.is_too_much(size):
                logger.warning(
                    "group %s: %016x is too slow, the log behind its snapshot goes", group.name, peer
                )
                self._retained.release(peer)
        place = self._retained.take()
        if place is not None:
            group.tell("compacted", messages.Compacted(*place))

    def _is_sending(self, peer: int) -> bool:
        return any(to == peer for to, _ in self._progress.values())

    # --- sending one -----------------------------------------------------------------------------------

    async def send(self, peer: int) -> None:
        """Send the newest manifest and its files to a follower; the role learns how it ended."""
        ok = False
        index = 0
        try:
            with self._files.hold() as manifest:
                if manifest is not None and self.manifest is not None and not self.outdated:
                    index = manifest.index
                    self._retained.keep(peer, index)
                    await self._send(peer, manifest)
                    ok = True
                    self.sent += 1
        except (SendRefused, StorageError, trio.TooSlowError) as error:
            logger.info("group %s: snapshot to %016x ended: %s", self._group.name, peer, describe(error))
        finally:
            self._group.tell(f"snapshot sent {peer}", messages.SnapshotSent(peer, ok, index))

    async def _send(self, peer: int, manifest: Manifest) -> None:
        transfer = next(self._transfers)
        report, reports = trio.open_memory_channel[tuple[str, object]](PARTS_IN_FLIGHT + 1)
        self._progress[transfer] = (peer, report)
        try:
            resume = await self._send_manifest(peer, transfer, manifest, reports)
            in_flight = 0
            for number, file in enumerate(manifest.files):
                crc = 0
                for offset in range(resume[number], file.length, PART_BYTES):
                    size = min(PART_BYTES, file.length - offset)
                    part = await self._files.read(file.name, offset, size)
                    crc = crc32c(part, crc)
                    self._send_part(peer, transfer, number, offset, file.length, part)
                    self.sent_parts += 1
                    in_flight += 1
                    if in_flight == PARTS_IN_FLIGHT:
                        await self._reported(reports)
                        in_flight -= 1
                if not resume[number] and crc != file.crc32c:
                    await self._look_for_damage(file.name)
                    raise SendRefused(f"the own file {file.name} does not have its checksum any more")
            for _ in range(in_flight):
                await self._reported(reports)
            self._send_part(peer, transfer, len(manifest.files), 0, 0, b"")
            await self._reported(reports)
        finally:
            self._progress.pop(transfer, None)

    async def _look_for_damage(self, name: str) -> None:
        """A file turned out to be damaged as it was sent: repair is told which of its records are.

        It may have grown since the manifest was made.
        """
        damage = self._group.machine.damage
        if damage is not None:
            await damage.examine(name)

    def on_peer_down(self, peer: int) -> None:
        """What is being sent there can't be reported any more."""
        for to, channel in self._progress.values():
            if to == peer:
                with suppress(trio.WouldBlock):
                    channel.send_nowait(("lost", "the link to the follower went down"))

    async def _send_manifest(
        self, peer: int, transfer: int, manifest: Manifest, reports: Reports
    ) -> list[int]:
        """Where to go on in each file: the follower may have parts of an earlier transfer."""
        encoded = encode_manifest(manifest)
        report: object = None
        for offset in range(0, len(encoded), PART_BYTES):
            part = encoded[offset : offset + PART_BYTES]
            self._send_part(peer, transfer, MANIFEST_PART, offset, len(encoded), part)
            report = await self._reported(reports)
        return resume_offsets(report, manifest)

    def _send_part(self, peer: int, transfer: int, part: int, offset: int, total: int, data: bytes) -> None:
        group = self._group
        envelope = (
            group.number,
            group.incarnation,
            group.state.term,
            transfer,
            part,
            offset,
            total,
            crc32c(data),
        )
        if not self._peers.send(peer, FrameKind.SNAPSHOT_PART, envelope, data):
            raise SendRefused("the link to the follower is down or full")

    async def _reported(self, reports: Reports) -> object:
        with trio.fail_after(PROGRESS_SECONDS):
            verdict, detail = await reports.receive()
        if verdict != "ok":
            raise SendRefused(str(detail))
        return detail

    def on_progress(self, envelope: list[object]) -> None:
        """The follower's answer to one part. A late one, for a transfer that ended, is dropped."""
        _, _, transfer, verdict, detail = cast(tuple[int, int, int, str, object], tuple(envelope))
        if transfer in self._progress:
            with suppress(trio.WouldBlock):
                # More answers than parts: the peer is confused, and the transfer will time out.
                self._progress[transfer][1].send_nowait((verdict, detail))

    # --- installing one --------------------------------------------------------------------------------

    def on_part(self, sender: int, envelope: list[object], attachment: memoryview) -> None:
        """A part from the leader. One that finds the inbox full is dropped: the leader's transfer times
        out."""
        _, _, _, transfer, number, offset, total, crc = cast(list[int], envelope)
        try:
            self._inbox.send_nowait(Part(sender, transfer, number, offset, total, crc, attachment))
        except trio.WouldBlock:
            logger.info("group %s: snapshot part dropped, the disk is behind", self._group.name)

    async def _install_forever(self) -> None:
        receiving: Receiving | None = None
        async for part in self._parts:
            self.received_parts += 1
            verdict, detail = "ok", cast(object, True)
            try:
                receiving, detail = await self._receive(receiving, part)
            except (SendRefused, StorageError) as error:
                receiving, verdict, detail = None, "refused", str(error)
            answer = (self._group.number, self._group.incarnation, part.transfer, verdict, detail)
            self._peers.send(part.sender, FrameKind.SNAPSHOT_PROGRESS, answer)

    async def _receive(self, receiving: Receiving | None, part: Part) -> tuple[Receiving | None, object]:
        """Take one part: what is being received after it, and what the sender is told. Raises SendRefused
        or StorageError, with which the transfer ends."""
        if crc32c(part.data) != part.crc:
            raise SendRefused("a part failed its checksum")
        if part.number == MANIFEST_PART and part.offset == 0:
            receiving = Receiving(part.sender, part.transfer)
        if receiving is None or (receiving.sender, receiving.transfer) != (part.sender, part.transfer):
            raise SendRefused("no such transfer")
        if part.number == MANIFEST_PART:
            return receiving, await self._collect_manifest(receiving, part)
        if receiving.incoming is None:
            raise SendRefused("the manifest comes first")
        if part.number < len(receiving.incoming.manifest.files):
            await receiving.incoming.write_chunk(part.number, part.offset, part.data, part.crc)
            return receiving, True
        await self._finish(part.sender, receiving.incoming)
        return None, True

    async def _collect_manifest(self, receiving: Receiving, part: Part) -> object:
        """Once the manifest is whole: per file, how much of it is here already."""
        packed = receiving.packed
        if part.offset != len(packed) or len(packed) + len(part.data) > part.total:
            raise SendRefused("a part of the manifest is missing")
        if part.total > MAX_MANIFEST_BYTES:
            raise SendRefused(f"a manifest of {part.total} bytes")
        packed += part.data
        if len(packed) < part.total:
            return True
        receiving.incoming = self._begin(part.sender, bytes(packed))
        packed.clear()
        return list(await receiving.incoming.begin())

    def _begin(self, sender: int, packed: bytes) -> Incoming:
        group = self._group
        manifest = decode_manifest(packed)
        if (manifest.group, manifest.incarnation) != (group.number, group.incarnation):
            raise SendRefused("the snapshot is of another group")
        if manifest.kind != group.machine.kind:
            raise SendRefused(f"the snapshot is of a {manifest.kind!r} machine")
        oldest = max(group.state.log.compacted.index, group.repair.divergence.rebuilt_from)
        if manifest.index < oldest or not self._is_wanted(sender, manifest.index):
            raise SendRefused("the snapshot is older than what is applied here")
        try:
            Membership.decode(manifest.members)
        except BadMembership as error:
            raise SendRefused(str(error)) from error
        return self._files.incoming(manifest)

    def _is_wanted(self, sender: int, index: int) -> bool:
        """Whether a snapshot as of an index is of use: it has more than is applied here, or more truth."""
        group = self._group
        if sender == self.supersede and index > group.state.log.compacted.index:
            return True  # what follows is still in the log
        return index > group.applier.applied

    async def _finish(self, sender: int, incoming: Incoming) -> None:
        """Everything has arrived: make it durable, hand it to the machine, and reset the log behind it."""
        group = self._group
        async with self.changing, group.applier.exclusive:
            if not self._is_wanted(sender, incoming.manifest.index):
                raise SendRefused("the log caught up first")
            local, self.manifest_crc = await incoming.finish()
            self.manifest = local
            self.outdated = False
            await group.applier.restore(local)
            group.skip_to(local.index)
        self.installed += 1
        group.repair.wreck = None
        group.repair.divergence.rebuilt_from = 0
        membership = Membership.decode(local.members)
        group.tell(
            "snapshot installed", messages.SnapshotInstalled(local.index, local.term, membership, local.time)
        )


class Retained:
    """How far the log may go while followers get snapshots: not beyond those, unless that is too much."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._grown = 0
        self._kept: dict[int, tuple[int, int]] = {}
        """By follower: the index of its snapshot, and how much was applied by then."""
        self._places: list[tuple[int, int]] = []
        """(index, term) of the manifests up to which the log may go otherwise, oldest first."""
        self._gone = 0

    def grew(self, size: int) -> None:
        """A batch of this many bytes was applied."""
        self._grown += size

    def may_go(self, index: int, term: int) -> None:
        """This node needs nothing up to there any more."""
        self._places.append((index, term))

    def keep(self, peer: int, index: int) -> None:
        """A follower begins to get the snapshot as of an index. The same one again is no new beginning."""
        if self._kept.get(peer, (0, 0))[0] != index:
            self._kept[peer] = (index, self._grown)

    def release(self, peer: int) -> None:
        self._kept.pop(peer, None)

    def needed_by(self) -> list[tuple[int, int]]:
        """(follower, how much of the log lies behind its snapshot)."""
        return [(peer, self._grown - since) for peer, (_, since) in self._kept.items()]

    def is_too_much(self, size: int) -> bool:
        return size > self._most

    @property
    def wanted(self) -> int:
        """Up to here the log may go but for the followers."""
        return self._places[-1][0] if self._places else 0

    def take(self) -> tuple[int, int] | None:
        """(index, term) up to which the log may go now, if that is further than before."""
        floor = min((index for index, _ in self._kept.values()), default=self.wanted)
        free = [place for place in self._places if place[0] <= floor]
        self._places = [place for place in self._places if place[0] > floor]
        if not free or free[-1][0] <= self._gone:
            return None
        self._gone = free[-1][0]
        return free[-1]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a snapshot: of the manifest, of the file with this number, or, after the last file, the
    end."""

    sender: int
    transfer: int
    number: int
    offset: int
    total: int
    """Bytes of all pieces of the same number."""
    crc: int
    data: memoryview


@dataclass(slots=True)
class Receiving:
    """One transfer under way on the follower."""

    sender: int
    transfer: int
    packed: bytearray = field(default_factory=bytearray)
    """The manifest, as far as it has come."""
    incoming: Incoming | None = None
    """Where the files go, once the manifest is here."""
