"""The actor tier has teeth of its own. docs/testing.md has the table, `node_table.py` makes it anew."""

from itertools import chain, count

import pytest

from .hunting import hunt
from .node_bugs import NODE_BUGS
from .node_unforeseen import NODE_UNFORESEEN
from .plant import Bug

QUICK = {
    "what expires expires by the replica's clock, not by the entry's stamp": 70_000,
    "what a socket took in part is sent again from its beginning": 70_000,
    "a message is read without asking whether this is still the leader": 70_002,
}
"""Seeds that caught a bug within seconds."""


@pytest.mark.parametrize("bug", (*NODE_BUGS, *NODE_UNFORESEEN), ids=lambda bug: bug.slug)
def test_a_bug_still_fits_the_product(bug: Bug) -> None:
    with bug.planted():
        pass


@pytest.mark.parametrize("bug", [bug for bug in NODE_BUGS if bug.name in QUICK], ids=lambda bug: bug.slug)
def test_a_bug_of_whole_nodes_is_caught(bug: Bug) -> None:
    """By the seed that caught it last time; if the simulator has changed, by the first that does now."""
    assert hunt(bug, chain([QUICK[bug.name]], count())), f"not caught within {bug.within} seeds"
