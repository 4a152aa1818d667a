"""Hypothesis strategies for what the codec carries, shared by the tests of every part that handles it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from trimaran.codec import Chunk, Kind, make_chunk, seal_batch

u16 = st.integers(0, (1 << 16) - 1)
u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)

entry_lists = st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=40)), min_size=1, max_size=12)
"""Entries of one proposal, as (type, data)."""

chunks: st.SearchStrategy[Chunk] = entry_lists.map(make_chunk)

full_kinds = st.sampled_from([Kind.NORMAL, Kind.MEMBERSHIP, Kind.SNAPSHOT])
empty_kinds = st.sampled_from([Kind.NOOP, Kind.TICK])

identities: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"group": u32, "incarnation": u64, "index": u64, "term": u64, "previous_term": u64, "time": i64}
)
"""The keyword arguments of `seal_batch` but for the kind."""

batches: st.SearchStrategy[bytes] = st.one_of(
    st.builds(
        lambda parts, kind, identity: seal_batch(parts, kind=kind, **identity),
        st.lists(chunks, min_size=1, max_size=4),
        full_kinds,
        identities,
    ),
    st.builds(lambda kind, identity: seal_batch([], kind=kind, **identity), empty_kinds, identities),
)
