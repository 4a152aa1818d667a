"""Backup of a live cluster and restore into another one: everything is there, or nothing is."""

import io
import json
from collections.abc import Mapping

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.load import STREAM, assignment, check, load, machines, settled
from trimaran import StreamHandle, open_group, open_stream
from trimaran.actors.cluster.backup import SESSION_SECONDS
from trimaran.actors.raft.outcomes import Applied
from trimaran.backup_file import BackedUpGroup, BackupWriter, NotWhole, check_backup
from trimaran.client import JetStreamError
from trimaran.codec import crc32c
from trimaran.commands.backup import back_up
from trimaran.commands.restore import put_back
from trimaran.storage.manifest import FileEntry, Manifest, encode_manifest


class Asked:
    """`Cluster` of the commands, without a socket between."""

    server_info: Mapping[str, object] = {"max_payload": 8 * 1024}

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name

    async def administer(self, subject: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        found: dict[str, object] = json.loads(await self._ask(subject, json.dumps(body or {}).encode()))
        return found

    async def administer_raw(self, subject: str, data: bytes = b"") -> bytes:
        return await self._ask(subject, data)

    async def _ask(self, subject: str, data: bytes) -> bytes:
        answer = await self._cluster[self._name].api_router.ask(f"$TRIMARAN.API.{subject}", data)
        assert answer is not None
        if answer.startswith(b"{") and "error" in (body := json.loads(answer)):
            raise JetStreamError(
                body["error"]["code"], body["error"]["err_code"], body["error"]["description"]
            )
        return answer


def quiet(_: str) -> None:
    return


async def test_a_live_cluster_comes_back_elsewhere_with_sequences_times_and_ids(
    autojump_clock: MockClock,
) -> None:
    file = io.BytesIO()
    async with open_memory_cluster() as old:
        counter = await open_group(old["a"], "hits", machine="counter", replicas=3)
        await counter.propose_many([b"1", b"2"])
        async with load(old, "a", 3) as running:
            await until(lambda: len(running.acknowledged) > 300)
            before = dict(running.acknowledged)
            await back_up(Asked(old, "b"), file, (), quiet)
        [source, *_] = machines(old, assignment(old, "a").group).values()
        first = await source.get(1)
    file.seek(0)
    assert {group.name for group in check_backup(file)} == {STREAM, "hits"}
    file.seek(0)
    async with open_memory_cluster("x", "y", "z", seed=7) as new:
        await put_back(Asked(new, "y"), file, quiet)
        await settled(new, "x")
        replicas = machines(new, assignment(new, "x").group)
        assert set(replicas) == {"x", "y", "z"}
        for machine in replicas.values():
            await until(lambda: machine.info().messages >= len(before))
            for name, sequence in before.items():
                message = await machine.get(sequence)
                assert message is not None and message.payload.rstrip(b".") == name.encode()
            assert await machine.get(1) == first
        handle = StreamHandle(new["z"], STREAM, assignment(new, "z").group)
        name, sequence = next(iter(before.items()))
        again = await handle.publish("orders.x", b"", msg_id=name)
        assert (again.sequence, again.duplicate) == (sequence, True)
        last = (await handle.publish("orders.x", b"new")).sequence
        assert last > max(before.values())
        hits = await open_group(new["x"], "hits", machine="counter", replicas=3)
        assert await hits.propose(b"3") == 3


async def test_what_is_restored_survives_a_crash_of_all_nodes(autojump_clock: MockClock) -> None:
    file = io.BytesIO()
    async with open_memory_cluster("a") as old:
        async with load(old, "a", 1) as running:
            await until(lambda: len(running.acknowledged) > 100)
        await back_up(Asked(old, "a"), file, [STREAM], quiet)
        acknowledged = running.acknowledged
    file.seek(0)
    async with open_memory_cluster("x", seed=7) as new:
        await put_back(Asked(new, "x"), file, quiet)
        handle = StreamHandle(new["x"], STREAM, assignment(new, "x").group)
        number = (await handle.publish("orders.x", b"later", msg_id="later")).sequence
        await new.crash("x", power=True)
        await new.start("x")
        await new.ready()
        await check(new, "x", acknowledged | {"later": number})


async def test_existing_streams_are_never_touched(autojump_clock: MockClock) -> None:
    file = io.BytesIO()
    async with open_memory_cluster("a") as cluster:
        stream = await open_stream(cluster["a"], STREAM, ["orders.>"])
        await stream.publish("orders.x", b"1")
        await back_up(Asked(cluster, "a"), file, (), quiet)
        await stream.publish("orders.x", b"2")
        file.seek(0)
        with pytest.raises(JetStreamError, match="exists already"):
            await put_back(Asked(cluster, "a"), file, quiet)
        message = await stream.get(2)
        assert message is not None and message.payload == b"2"


async def test_a_restore_that_stops_half_way_serves_nobody_and_can_begin_again(
    autojump_clock: MockClock,
) -> None:
    file = io.BytesIO()
    async with open_memory_cluster("a") as old:
        stream = await open_stream(old["a"], STREAM, ["orders.>"])
        await stream.publish("orders.x", b"1" * 10_000)
        await back_up(Asked(old, "a"), file, (), quiet)
    file.seek(0)
    [group] = check_backup(file)
    async with open_memory_cluster("x", seed=7) as new:
        asked = Asked(new, "x")
        begun = await asked.administer(
            "RESTORE.BEGIN",
            {
                "kind": "stream",
                "name": STREAM,
                "config": dict(group.config),
                "version": group.version,
                "replicas": 1,
                "manifest_length": group.parts[0],
            },
        )
        with pytest.raises(JetStreamError, match="not whole"):
            await asked.administer(f"RESTORE.END.{begun['node']}.{begun['session']}")
        await trio.sleep(2 * SESSION_SECONDS)
        assert not new.leaders(assignment(new, "x").group)
        with pytest.raises(JetStreamError, match="no such session"):
            await asked.administer(f"RESTORE.END.{begun['node']}.{begun['session']}")
        await new.crash("x")
        await new.start("x")
        await until(lambda: new["x"].state.named("stream", STREAM) is not None)
        assert not new.leaders(assignment(new, "x").group)
        deleted = await new["x"].propose_meta({"op": "delete_stream", "name": STREAM})
        assert isinstance(deleted, Applied) and deleted.result == {}
        file.seek(0)
        await put_back(asked, file, quiet)
        message = await StreamHandle(new["x"], STREAM, assignment(new, "x").group).get(1)
        assert message is not None


class Impatient(Asked):
    """Asks for the end of a restore again before it has an answer."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster, name)
        self.ends: list[bytes] = []

    async def _ask(self, subject: str, data: bytes) -> bytes:
        if not subject.startswith("RESTORE.END."):
            return await super()._ask(subject, data)

        async def end() -> None:
            self.ends.append(await super(Impatient, self)._ask(subject, data))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            nursery.start_soon(end)
        return self.ends[0]


async def test_the_end_of_a_restore_asked_for_twice_happens_once(autojump_clock: MockClock) -> None:
    file = io.BytesIO()
    async with open_memory_cluster("a") as old:
        stream = await open_stream(old["a"], STREAM, ["orders.>"])
        await stream.publish("orders.x", b"1" * 10_000)
        await back_up(Asked(old, "a"), file, (), quiet)
    file.seek(0)
    async with open_memory_cluster("x", seed=7) as new:
        impatient = Impatient(new, "x")
        await put_back(impatient, file, quiet)
        first, second = impatient.ends
        assert first == second
        handle = StreamHandle(new["x"], STREAM, assignment(new, "x").group)
        await handle.publish("orders.x", b"2")
        await new.crash("x", power=True)
        await new.start("x")
        await new.ready()
        for sequence, payload in ((1, b"1" * 10_000), (2, b"2")):
            message = await StreamHandle(new["x"], STREAM, handle.group).get(sequence)
            assert message is not None and message.payload == payload


async def test_a_backup_holds_its_files_until_it_ends_or_is_forgotten(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a") as cluster:
        stream = await open_stream(cluster["a"], STREAM, ["orders.>"])
        await stream.publish("orders.x", b"1" * 10_000)
        asked = Asked(cluster, "a")
        begun = await asked.administer(f"BACKUP.BEGIN.{stream.group}")
        read = f"BACKUP.READ.{begun['node']}.{begun['session']}.1.0.100"
        assert await asked.administer_raw(read)
        await trio.sleep(2 * SESSION_SECONDS)
        with pytest.raises(JetStreamError, match="no such session"):
            await asked.administer_raw(read)


def small_backup() -> bytes:
    """A backup of one group whose manifest names one file."""
    data = b"block" * 20
    manifest = Manifest(
        group=2,
        incarnation=3,
        index=9,
        term=1,
        members=b"",
        time=1,
        kind="stream",
        rolling_hash=5,
        files=(FileEntry("block-1", len(data), crc32c(data)),),
    )
    encoded = encode_manifest(manifest)
    file = io.BytesIO()
    writer = BackupWriter(file)
    writer.group(BackedUpGroup("stream", "S", {}, 1, 3, 9, (len(encoded), len(data))))
    writer.data(encoded)
    writer.data(data[:50])
    writer.data(data[50:])
    writer.end()
    return file.getvalue()


def test_a_whole_file_is_taken() -> None:
    [group] = check_backup(io.BytesIO(small_backup()))
    assert (group.name, group.index) == ("S", 9)


@given(st.data())
def test_a_file_with_a_changed_byte_is_refused(data: st.DataObject) -> None:
    whole = small_backup()
    at = data.draw(st.integers(0, len(whole) - 1), label="at")
    changed = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    with pytest.raises(NotWhole):
        check_backup(io.BytesIO(changed))


@given(st.integers(0, len(small_backup()) - 1))
def test_a_file_that_was_cut_is_refused(length: int) -> None:
    with pytest.raises(NotWhole):
        check_backup(io.BytesIO(small_backup()[:length]))


def test_a_file_with_something_behind_its_end_is_refused() -> None:
    with pytest.raises(NotWhole):
        check_backup(io.BytesIO(small_backup() + b"\0"))
