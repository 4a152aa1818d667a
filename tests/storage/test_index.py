"""The index: the short way for a batch that follows is the long way."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from trimaran.storage.index import GroupLog, LogIndex
from trimaran.storage.records import CompactPrefix, TruncateSuffix, log_reset
from trimaran.storage.recovery import apply_item
from trimaran.storage.segment import BATCH, LOST, REPAIR, TRUNCATE, Item, encode_record

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


def replay(items: list[Item], first: int = 0) -> LogIndex:
    """Each item is in a segment of its own; those before `first` are gone."""
    index = LogIndex()
    for number, item in enumerate(items[first:], first):
        apply_fully(index, item, 1 + number, 100 * number)
    return index


def reset_to(index: int, term: int) -> list[Item]:
    return [encode_record(record) for record in log_reset(1, 1, index, term, 9)]


@st.composite
def histories(draw: st.DrawFn) -> list[Item]:
    """What a replica writes: batches that follow or replace, cuts, snapshots of its own and of its leader."""
    items: list[Item] = []
    terms: dict[int, int] = {}
    compacted, newest = 0, 1
    for choice in draw(
        st.lists(st.sampled_from(["append", "replace", "cut", "compact", "reset"]), max_size=8)
    ):
        last = max(terms, default=compacted)
        newest += draw(st.integers(0, 1))
        if choice in ("append", "replace"):
            first = last + 1 if choice == "append" else draw(st.integers(compacted + 1, last + 1))
            terms = {index: term for index, term in terms.items() if index < first}
            for at in range(first, first + draw(st.integers(1, 5))):
                items.append(Item(BATCH, 0, 1, 1, at, newest, bytes([0, 0, 0, 1]), 7))
                terms[at] = newest
        elif choice == "cut":
            at = draw(st.integers(compacted + 1, last + 1))
            items.append(encode_record(TruncateSuffix(1, 1, at)))
            terms = {index: term for index, term in terms.items() if index < at}
        elif choice == "compact" and last > compacted:
            compacted = draw(st.integers(compacted + 1, last))
            items.append(encode_record(CompactPrefix(1, 1, compacted, terms[compacted], 9)))
            terms = {index: term for index, term in terms.items() if index > compacted}
        elif choice == "reset":
            compacted, newest = draw(st.integers(compacted + 1, last + 3)), newest + 1
            items += reset_to(compacted, newest)
            terms = {}
    return items


@settings(max_examples=500)
@example([entry(1), entry(2), entry(3), *reset_to(2, 5)], 2)
@given(histories(), st.integers(0, 50))
def test_a_restart_finds_the_same_log_when_the_oldest_segments_are_gone(
    items: list[Item], freed: int
) -> None:
    """Freed is what holds no live record, oldest first, down to what another group still needs: what it said
    must not be needed by what stays."""
    whole = replay(items)
    if 1 not in whole.groups:
        return
    oldest = min((number for number, use in whole.uses.items() if use.groups), default=len(items) + 1)
    rest = replay(items, min(freed, oldest - 1))
    left, right = whole.groups[1], rest.groups.get(1, GroupLog(1, 1))
    assert (right.prefix, list(right.terms)) == (left.prefix, list(left.terms))
    assert right.first == left.first or not left.terms


def test_a_prefix_that_is_not_taken_leaves_the_one_that_counts_alive() -> None:
    index = replay([encode_record(CompactPrefix(1, 1, at, 1, 9)) for at in (8, 5)])
    assert index.groups[1].prefix.index == 8
    assert [number for number, use in index.uses.items() if use.groups] == [1]
