"""What a replica starts with: its log against its manifest, whatever of both got to the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.actors.replica.recovered_log import RecoveredLog, recovered_log
from trimaran.storage.group_directory import FoundFiles
from trimaran.storage.index import LogIndex
from trimaran.storage.manifest import Manifest, encode_manifest, manifest_crc
from trimaran.storage.records import CompactPrefix, HardState, Record, TruncateSuffix
from trimaran.storage.recovery import apply_item, describe
from trimaran.storage.segment import BATCH, Item, encode_record

NAMELESS = 0
HARD = HardState(1, 1, 7, 2, 3)


@dataclass
class Found:
    """A log whose first entry is `first`, and the manifest beside it, if there is one."""

    terms: Sequence[int]
    """NAMELESS: an entry that is lost with its name."""
    first: int = 1
    snapshot: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.index = LogIndex()
        self.manifest = manifest_of(*self.snapshot) if self.snapshot else None
        self.write(HARD)
        if self.first > 1:
            self.write(CompactPrefix(1, 1, self.first - 1, 1, 0))
        for at, term in enumerate(self.terms, self.first):
            if term != NAMELESS:  # the index finds out by the one that comes next
                apply_item(self.index, Item(BATCH, 0, 1, 1, at, term, bytes([0, 0, 0, 1]), 7), 1, 100 * at)

    def write(self, *records: Record) -> None:
        for record in records:
            apply_item(self.index, encode_record(record), 1, 0)

    def start(self) -> RecoveredLog:
        """What a start makes of it; what that writes is on the disk from then on."""
        log = recovered_log(describe(self.index.groups[1], FoundFiles(self.manifest)))
        self.write(*log.records)
        return log


def manifest_of(index: int, term: int) -> Manifest:
    return Manifest(
        group=1, incarnation=1, index=index, term=term, members=b"", time=0, kind="test", rolling_hash=0
    )


def compaction(index: int, term: int) -> CompactPrefix:
    return CompactPrefix(1, 1, index, term, manifest_crc(encode_manifest(manifest_of(index, term))))


def names(log: RecoveredLog) -> list[tuple[int, int]]:
    return [(index, term) for index, term, *_ in log.entries]


@pytest.mark.parametrize("snapshot", [None, (2, 1), (4, 2)])
def test_a_log_that_has_its_snapshots_last_entry_stays_as_it_is(snapshot: tuple[int, int] | None) -> None:
    found = Found([1, 1, 2, 2, 2], first=2 if snapshot else 1, snapshot=snapshot)
    log = found.start()
    assert not log.records and not log.forgetful
    assert log.compacted == ((1, 1) if snapshot else (0, 0)) and len(log.entries) == 5


@pytest.mark.parametrize("terms", [[1, 1, 1], [1, 1, 1, 1, 1, 1], []])
def test_a_log_that_ends_before_its_snapshot_or_is_of_another_history_is_replaced(terms: list[int]) -> None:
    """Raft section 7, rule 7. The truncation is for restarts that don't see the disagreement any more."""
    found = Found(terms, snapshot=(5, 3))
    log = found.start()
    assert log.records == (TruncateSuffix(1, 1, 5), compaction(5, 3))
    assert (log.compacted, log.entries, log.last, log.forgetful) == ((5, 3), [], (5, 3), False)


def test_a_snapshot_stands_in_for_what_has_no_name() -> None:
    found = Found([1, NAMELESS, 2, 2, 2], snapshot=(4, 2))
    log = found.start()
    assert log.records == (compaction(4, 2),)
    assert (log.compacted, names(log), log.forgetful) == ((4, 2), [(5, 2)], False)


def test_what_has_no_name_behind_the_snapshot_is_remembered_before_it_can_be_overwritten() -> None:
    """Else a crash between the leader's next batch and the readmission would make this replica one that votes
    with less than it acknowledged."""
    found = Found([1, 1, NAMELESS, 1], snapshot=(2, 1))
    log = found.start()
    assert log.forgetful and names(log) == [(1, 1), (2, 1)]
    assert log.records == (HardState(1, 1, 7, 2, 3, closed=True),)
    apply_item(found.index, Item(BATCH, 0, 1, 1, 3, 8, bytes([0, 0, 0, 1]), 7), 1, 0)
    again = found.start()
    assert again.forgetful and not again.records and names(again) == [(1, 1), (2, 1), (3, 8)]


def test_nothing_is_cut_behind_a_snapshot_whose_own_entry_has_no_name() -> None:
    """What follows may be of its history, and acknowledged: who could tell is lost."""
    found = Found([1, 1, NAMELESS, 2], snapshot=(3, 2))
    log = found.start()
    assert log.forgetful and (log.compacted, log.entries) == ((3, 2), [])
    assert log.records == (HardState(1, 1, 7, 2, 3, closed=True),)


@given(
    st.lists(st.sampled_from([NAMELESS, 1, 1, 2, 2]), max_size=6),
    st.integers(1, 3),
    st.none() | st.tuples(st.integers(3, 8), st.integers(1, 3)),
)
def test_a_second_start_finds_what_the_first_one_left(
    terms: list[int], first: int, snapshot: tuple[int, int] | None
) -> None:
    found = Found(terms, first, snapshot)
    log, again = found.start(), found.start()
    assert not again.records
    assert (again.entries, again.last, again.forgetful) == (log.entries, log.last, log.forgetful)
    indexes = [index for index, _ in names(log)]
    assert indexes == list(range(log.compacted[0] + 1, log.last[0] + 1))
