"""`trimaran log`: what it shows, what it finds, and what it gives up when it is told to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.damage import hurt_batches, lose_write
from trimaran import NotDone, StreamHandle, open_stream
from trimaran.__main__ import main
from trimaran.actors.raft.checker import Checker
from trimaran.commands.log import EXIT_DAMAGED, EXIT_NOT_DONE
from trimaran.storage.memory_disk import MemoryDisk

MESSAGES = 30


def dump(disk: MemoryDisk, directory: Path) -> None:
    """The disk as a directory of the file system."""
    for path, entries in disk._directories.items():
        if path and not disk.exists(path):
            continue
        (directory / path).mkdir(parents=True, exist_ok=True)
        for name, file in entries.entries.items():
            if file is not None:
                (directory / path / name).write_bytes(file.content)


def load(directory: Path) -> MemoryDisk:
    """A directory of the file system as a disk."""
    disk = MemoryDisk()
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_dir():
            disk.mkdir(name)
            continue
        descriptor = disk.open(name, create=True)
        disk.pwritev(descriptor, [path.read_bytes()], 0)
        disk.fdatasync(descriptor)
        disk.close(descriptor)
    for name in disk._directories:
        disk.sync_directory(name)
    return disk


async def start_from(cluster: Cluster, directory: Path) -> None:
    """The cluster's only node on that directory's files."""
    await cluster.crash("a")
    cluster.members["a"].disk = load(directory)
    cluster.checker = Checker(cluster.violations.append)  # another history begins
    await cluster.start("a")


async def filled(cluster: Cluster, name: str, replicas: int) -> int:
    """A stream with a batch for each of its messages; its group."""
    stream = await open_stream(cluster[name], "ORDERS", ["orders.>"], replicas=replicas)
    for number in range(MESSAGES):
        await stream.publish("orders.x", b"%d" % number)
    await trio.sleep(1)
    return stream.group


async def messages(cluster: Cluster, name: str, group: int) -> list[bytes]:
    """The stream's messages in order, once it is led."""
    await until(lambda: bool(cluster.leaders(group)))
    handle, found = StreamHandle(cluster[name], "ORDERS", group), list[bytes]()
    while (message := await handle.get(len(found) + 1)) is not None:
        found.append(message.payload)
    return found


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = main(["log", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out + said.err


async def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """As `run`, where an event loop runs already."""
    return await trio.to_thread.run_sync(run, capsys, *arguments)


async def stopped(directory: Path, replicas: int = 1, hurt: Sequence[int] = ()) -> int:
    """A directory of a node `a` that was stopped, alone or one of three, with damage; the stream's group."""
    names = ("a",) if replicas == 1 else ("a", "b", "c")
    async with open_memory_cluster(*names) as cluster:
        group = await filled(cluster, "a", replicas)
        await cluster.crash("a")
        disk = cluster.members["a"].disk
        if hurt:
            hurt_batches(disk, group, *hurt)
        dump(disk, directory)
        return group


async def test_inspect_shows_segments_and_groups(
    autojump_clock: MockClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = await stopped(tmp_path / "a")
    code, said = run(capsys, "inspect", tmp_path / "a", "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(said)
    assert found["node"]["name"] == "a" and found["damages"] == [] and found["torn"] is None
    mine = next(each for each in found["groups"] if each["group"] == group)
    assert (mine["kind"], mine["name"], mine["compacted"]) == ("stream", "ORDERS", 0)
    assert mine["last_index"] >= MESSAGES and mine["terms"][0]["first"] == 1 and mine["live_bytes"] > 0
    assert sum(each["entries"] for each in found["segments"]) >= MESSAGES
    written = [each for each in found["segments"] if each["writes"]]
    assert all(each["entries_per_sync"] == round(each["entries"] / each["writes"], 2) for each in written)
    code, said = run(capsys, "inspect", tmp_path / "a")
    assert code == 0 and "stream ORDERS" in " ".join(said.split())


async def test_verify_names_file_offset_group_and_indexes(
    autojump_clock: MockClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = await stopped(tmp_path / "whole")
    code, said = run(capsys, "verify", tmp_path / "whole")
    assert code == 0 and "0 damages found" in said
    await stopped(tmp_path / "hurt", hurt=(7, 8, 20))
    code, said = run(capsys, "verify", tmp_path / "hurt")
    assert code == EXIT_DAMAGED
    lines = [line for line in said.splitlines() if line.startswith("DAMAGED")]
    place = rf"DAMAGED: wal/\d+\.wal, offset \d+: a batch can't be read \(group {group}, "
    assert len(lines) == 2
    assert re.fullmatch(place + r"index 7 to 8\)", lines[0]) and re.fullmatch(place + r"index 20\)", lines[1])
    code, said = run(capsys, "verify", tmp_path / "hurt", "--json")
    assert code == EXIT_DAMAGED
    assert [(each["first"], each["last"]) for each in json.loads(said)["damages"]] == [(7, 8), (20, 20)]


async def test_a_lone_replica_behind_damage_refuses_and_says_the_ways_out(
    autojump_clock: MockClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = await stopped(tmp_path / "a", hurt=(7, 8, 20))
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    async with open_memory_cluster("a") as cluster:
        await start_from(cluster, tmp_path / "a")
        await until(lambda: any("can't be read" in reason for reason in cluster["a"].vitals.health()))
        reasons = " ".join(cluster["a"].vitals.health())
        assert re.search(r"3 of index 7 to 20 can't be read \(wal/\d+\.wal, offset \d+\)", reasons)
        assert "restore a backup" in reasons and "trimaran log repair" in reasons
        with pytest.raises(NotDone):
            await StreamHandle(cluster["a"], "ORDERS", group).publish("orders.x", b"x")
    code, said = run(capsys, "repair", tmp_path / "a")
    assert code == EXIT_NOT_DONE and "Nothing was changed" in said
    assert re.search(r"cut behind index 6; index 7 to \d+ are LOST, all that was written after 20\d\d-", said)
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before


async def test_an_accepted_loss_lets_a_lone_replica_go_on(
    autojump_clock: MockClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = await stopped(tmp_path / "a", hurt=(7, 8, 20))
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    code, said = await command(
        capsys, "repair", tmp_path / "a", "--accept-loss", "--copy-to", tmp_path / "copy"
    )
    assert code == 0, said
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()
    } == before
    async with open_memory_cluster("a") as cluster:
        await start_from(cluster, tmp_path / "a")
        await cluster.ready()
        left = await messages(cluster, "a", group)
        assert left == [b"%d" % number for number in range(len(left))] and 0 < len(left) < 7
        published = await StreamHandle(cluster["a"], "ORDERS", group).publish("orders.x", b"next")
        assert published.sequence == len(left) + 1
        await cluster.crash("a")
        dump(cluster.members["a"].disk, tmp_path / "after")
    code, said = run(capsys, "repair", tmp_path / "after")
    assert code == 0 and "nothing here to be repaired" in said


async def test_a_lone_replica_that_lost_what_has_no_name_goes_on(
    autojump_clock: MockClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_memory_cluster("a") as cluster:
        group = await filled(cluster, "a", 1)
        await cluster.crash("a")
        lose_write(cluster.members["a"].disk, group)
        dump(cluster.members["a"].disk, tmp_path / "a")
    code, said = run(capsys, "verify", tmp_path / "a")
    assert code == EXIT_DAMAGED and f"CLOSED: group {group}" in said
    async with open_memory_cluster("a") as cluster:
        await start_from(cluster, tmp_path / "a")
        await until(lambda: any("before offset" in reason for reason in cluster["a"].vitals.health()))
        assert "trimaran log repair" in " ".join(cluster["a"].vitals.health())
    code, said = await command(capsys, "repair", tmp_path / "a", "--accept-loss")
    assert code == 0, said
    [copy] = [tmp_path / name for name in os.listdir(tmp_path) if name.startswith("a.before-repair-")]
    assert (copy / "node").read_bytes() == (tmp_path / "a" / "node").read_bytes()
    async with open_memory_cluster("a") as cluster:
        await start_from(cluster, tmp_path / "a")
        await cluster.ready()
        left = await messages(cluster, "a", group)
        assert left == [b"%d" % number for number in range(len(left))] and len(left) > 5


async def test_an_unreadable_snapshot_that_covers_nothing_is_kept_beside_earlier_ones(
    autojump_clock: MockClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = await stopped(tmp_path / "a")
    [directory] = (tmp_path / "a" / "groups").glob(f"{group}-*")
    aside = directory / "quarantine"
    aside.mkdir()
    for round_ in ("first", "second"):
        (directory / "manifest").write_text(round_)
        code, said = await command(
            capsys, "repair", tmp_path / "a", "--accept-loss", "--copy-to", tmp_path / round_
        )
        assert code == 0 and "nothing is lost" in said
    assert sorted(path.read_text() for path in aside.glob("*-manifest")) == ["first", "second"]
    async with open_memory_cluster("a") as cluster:
        await start_from(cluster, tmp_path / "a")
        await cluster.ready()
        assert len(await messages(cluster, "a", group)) == MESSAGES


async def test_what_other_replicas_have_is_never_given_up(
    autojump_clock: MockClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = await stopped(tmp_path / "a", replicas=3, hurt=(7, 8, 20))
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    code, said = run(capsys, "repair", tmp_path / "a", "--accept-loss")
    assert code == 0 and f"left alone: group {group}" in said and "other replicas have" in said
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
    assert os.listdir(tmp_path) == ["a"], "and nothing is copied for nothing"


async def test_a_copy_that_can_not_be_made_stops_it(
    autojump_clock: MockClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await stopped(tmp_path / "a", hurt=(7,))
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    (tmp_path / "taken").mkdir()
    code, said = await command(
        capsys, "repair", tmp_path / "a", "--accept-loss", "--copy-to", tmp_path / "taken"
    )
    assert code == EXIT_NOT_DONE and "exists" in said
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("subcommand", ["inspect", "verify", "repair"])
def test_what_is_no_node_s_directory_is_said_so(
    subcommand: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, subcommand, tmp_path)
    assert code == EXIT_NOT_DONE and "is no node's directory" in said
    assert list(tmp_path.iterdir()) == []
