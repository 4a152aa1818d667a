"""The index: the short way for a batch that follows is the long way."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from trimaran.storage.index import GroupLog, LogIndex
from trimaran.storage.recovery import apply_item
from trimaran.storage.segment import BATCH, LOST, REPAIR, TRUNCATE, Item

few = st.integers(1, 3)
batches = st.builds(
    lambda flags, group, incarnation, index, term, kind: Item(
        BATCH, flags, group, incarnation, index, term, bytes([0, 0, 0, kind]) + bytes(4 * index), 7 * index
    ),
    st.sampled_from([0, 0, 0, 0, REPAIR, LOST, LOST]),
    st.integers(1, 2),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(1, 4),
    few,
    few,
)
others = st.builds(
    lambda group, first: Item(TRUNCATE, 0, group, 1, first, 0, b"", 0), st.integers(1, 2), st.integers(1, 4)
)


def apply_fully(index: LogIndex, item: Item, segment: int, offset: int) -> None:
    index.apply(
        item.kind,
        item.flags,
        item.group,
        item.incarnation,
        item.index,
        item.term,
        segment=segment,
        offset=offset,
        length=len(item.body),
        body=item.body,
        batch_kind=item.body[3] if item.body else 0,
        crc=item.crc,
    )


def state(log: GroupLog) -> list[object]:
    return [getattr(log, name) for name in GroupLog.__slots__]


def entry(index: int, flags: int = 0) -> Item:
    return Item(BATCH, flags, 1, 1, index, 1, b"" if flags & LOST else bytes(8), 7)


@example([entry(1), entry(2, LOST), entry(1), entry(2)])
@given(st.lists(st.one_of(batches, batches, batches, others), max_size=40))
def test_both_ways_lead_to_the_same(items: list[Item]) -> None:
    short, long = LogIndex(), LogIndex()
    for number, item in enumerate(items):
        apply_item(short, item, 1 + number // 4, 100 * number)
        apply_fully(long, item, 1 + number // 4, 100 * number)
    assert {group: state(log) for group, log in short.groups.items()} == {
        group: state(log) for group, log in long.groups.items()
    }
    assert {number: use.groups for number, use in short.uses.items()} == {
        number: use.groups for number, use in long.uses.items()
    }
