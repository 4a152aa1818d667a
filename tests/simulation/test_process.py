"""What a simulated process knows about its own disk."""

from random import Random

from trimaran.actors.raft.effects import Persist
from trimaran.actors.raft.log import EntryId
from trimaran.codec import EntryType, Kind, make_chunk, seal_batch
from trimaran.testing.cluster import Cluster
from trimaran.testing.process import GROUP, INCARNATION
from trimaran.testing.seeds import Streams

SEGMENT_BYTES = 16 << 10
BATCHES = 4
"""Of which one segment doesn't hold all."""


def batch(index: int) -> bytes:
    return seal_batch(
        [make_chunk([(EntryType.OPAQUE, bytes(5000))])],
        kind=Kind.NORMAL,
        group=GROUP,
        incarnation=INCARNATION,
        index=index,
        term=1,
        previous_term=int(index > 1),
        time=index,
    )


def test_a_batch_that_goes_bad_before_the_rest_of_its_append_is_synced_stays_bad() -> None:
    cluster = Cluster(Streams(1), segment_bytes=SEGMENT_BYTES)
    process, place = cluster.processes[1], EntryId(1, 1)
    log = process.log.log(GROUP)
    process._persist(Persist(1, batches=tuple(batch(index) for index in range(1, BATCHES + 1))))
    assert cluster.heap.wait_for(lambda: log.last > 0, 1.0, every=0.0001)
    assert log.last < BATCHES, "it went in one write"
    assert process.log.damage(GROUP, place.index, Random(1))
    process.bad.add(place)
    process.scrub()
    assert cluster.heap.wait_for(lambda: log.last == BATCHES, 1.0, every=0.0001)
    assert process.still_bad() == {place}
    assert process.holds(place), "it was synced, and only a flipped bit keeps it from being read"
