"""Single entries of many tasks share chunks, and each has its own end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from trimaran.actors.gathering import CHUNK_BYTES, CHUNK_ENTRIES, Gathering
from trimaran.actors.proposals import Done
from trimaran.actors.raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown
from trimaran.codec import Chunk, Kind, seal_batch, walk_batch
from trimaran.storage.turns import Turns


def entries_of(chunk: Chunk) -> list[bytes]:
    header = {"group": 1, "incarnation": 1, "index": 1, "term": 1, "previous_term": 0, "time": 0}
    return walk_batch(seal_batch([chunk], kind=Kind.NORMAL, **header)).datas()


class Leader:
    """Takes chunks; the test ends them."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, list[bytes], Done]] = []

    def propose(self, group: int, chunk: Chunk, done: Done) -> None:
        self.taken.append((group, entries_of(chunk), done))

    @property
    def chunks(self) -> list[tuple[int, list[bytes]]]:
        return [(group, entries) for group, entries, _ in self.taken]

    def end_all(self, end: Callable[[list[bytes]], Outcome]) -> None:
        taken, self.taken = self.taken, []
        for _, entries, done in taken:
            done(end(entries))


@asynccontextmanager
async def gathering() -> AsyncIterator[tuple[Gathering, Leader, trio.Nursery, dict[bytes, Outcome]]]:
    """A gathering that runs, where its chunks go, and a nursery for tasks that note their ends."""
    leader = Leader()
    gathered = Gathering(leader, Turns())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gathered.run)
        async with trio.open_nursery() as tasks:
            yield gathered, leader, tasks, {}
        nursery.cancel_scope.cancel()


async def propose(gathered: Gathering, group: int, entry: bytes, ends: dict[bytes, Outcome]) -> None:
    ends[entry] = await gathered.propose(group, entry)


def lengths(entries: list[bytes]) -> Outcome:
    return Applied(7, [len(entry) for entry in entries])


async def test_what_many_tasks_propose_at_once_is_one_chunk_for_each_group() -> None:
    async with gathering() as (gathered, leader, tasks, ends):
        for number in range(1, 101):
            tasks.start_soon(propose, gathered, 2 + number % 2, b"x" * number, ends)
        await wait_all_tasks_blocked()
        assert sorted((group, len(entries)) for group, entries in leader.chunks) == [(2, 50), (3, 50)]
        leader.end_all(lengths)
    assert ends == {b"x" * number: Applied(7, number) for number in range(1, 101)}


async def test_whoever_gives_up_leaves_the_others_their_ends() -> None:
    async with gathering() as (gathered, leader, tasks, ends):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as impatient:
                impatient.start_soon(propose, gathered, 2, b"abandoned", ends)
                tasks.start_soon(propose, gathered, 2, b"kept", ends)
                await wait_all_tasks_blocked()
                scope.cancel()
        [(_, entries)] = leader.chunks
        assert sorted(entries) == [b"abandoned", b"kept"]  # the entry stays what it is
        leader.end_all(lengths)
    assert ends == {b"kept": Applied(7, 4)}


async def test_a_large_entry_has_a_chunk_of_its_own_and_no_chunk_grows_without_end() -> None:
    async with gathering() as (gathered, leader, tasks, ends):
        large = bytes(CHUNK_BYTES // 4 + 1)
        for entry in (b"a", large, b"b"):
            tasks.start_soon(propose, gathered, 2, entry, ends)
        await wait_all_tasks_blocked()
        assert [large] in [entries for _, entries in leader.chunks]
        leader.end_all(lengths)
        for number in range(CHUNK_ENTRIES + 1):
            tasks.start_soon(propose, gathered, 2, b"%d" % number, ends)
        await wait_all_tasks_blocked()
        assert sorted(len(entries) for _, entries in leader.chunks) == [1, CHUNK_ENTRIES]
        leader.end_all(lengths)
        for number in range(5):
            tasks.start_soon(propose, gathered, 2, bytes(CHUNK_BYTES // 4 - 1) + b"%d" % number, ends)
        await wait_all_tasks_blocked()
        assert sorted(len(entries) for _, entries in leader.chunks) == [1, 4]
        leader.end_all(lengths)


async def test_a_chunk_that_fits_no_batch_is_tried_entry_by_entry() -> None:
    async with gathering() as (gathered, leader, tasks, ends):
        for entry in (b"small", b"too large"):
            tasks.start_soon(propose, gathered, 2, entry, ends)
        await wait_all_tasks_blocked()
        leader.end_all(lambda entries: NotApplied(Reason.TOO_LARGE))
        assert sorted(leader.chunks) == [(2, [b"small"]), (2, [b"too large"])]
        leader.end_all(
            lambda entries: lengths(entries) if entries == [b"small"] else NotApplied(Reason.TOO_LARGE)
        )
    assert ends == {b"small": Applied(7, 5), b"too large": NotApplied(Reason.TOO_LARGE)}


async def test_everyone_has_the_end_that_all_share() -> None:
    for end in (Unknown(Reason.LINK_LOST), NotApplied(Reason.BUSY)):
        async with gathering() as (gathered, leader, tasks, ends):
            for entry in (b"a", b"b"):
                tasks.start_soon(propose, gathered, 2, entry, ends)
            await wait_all_tasks_blocked()
            leader.end_all(lambda entries: end)
        assert ends == {b"a": end, b"b": end}


async def test_an_answer_that_has_not_one_result_for_each_is_unknown() -> None:
    for result in ([1], b"12345678" * 2, None):
        async with gathering() as (gathered, leader, tasks, ends):
            for entry in (b"a", b"b"):
                tasks.start_soon(propose, gathered, 2, entry, ends)
            await wait_all_tasks_blocked()
            leader.end_all(lambda entries: Applied(7, result))
        assert set(ends.values()) == {Unknown(Reason.UNREADABLE_ANSWER)}


async def test_the_end_of_the_node_is_an_end_for_all() -> None:
    gathered = Gathering(Leader(), Turns())
    ends: dict[bytes, Outcome] = {}
    async with trio.open_nursery() as tasks:
        tasks.start_soon(propose, gathered, 2, b"early", ends)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await gathered.run()
        await propose(gathered, 2, b"late", ends)
    assert ends == {b"early": NotApplied(Reason.CLOSED), b"late": NotApplied(Reason.CLOSED)}
