"""The simulator has teeth: classic bugs, planted, are caught. docs/testing.md has the table of all."""

import json
from itertools import chain, count

import pytest

from trimaran.testing import Options
from trimaran.testing.core import play

from .bugs import BUGS
from .hunting import hunt
from .plant import Bug
from .table import ALL, KEPT

CAUGHT: dict[str, list[int]] = json.loads(KEPT.read_text())
CPU_SECONDS = 30.0
"""For one bug, if a change has given all of its seeds another story."""
QUICK = [bug for bug in ALL if bug.name in CAUGHT]


@pytest.mark.parametrize("bug", QUICK, ids=[bug.slug for bug in QUICK])
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    """By a seed that caught it last time; if the simulator has changed, by the first that does now."""
    assert hunt(bug, chain(CAUGHT[bug.name], count()), CPU_SECONDS), "table.py --write finds new seeds"


def test_the_bugs_are_many_and_each_is_one_of_its_own() -> None:
    names = [bug.name for bug in ALL]
    assert len(set(names)) == len(names) and CAUGHT.keys() <= set(names)
    assert sum(bug.name in CAUGHT for bug in BUGS) >= 0.95 * len(BUGS)


def test_what_was_planted_is_gone_again() -> None:
    before = play(3, Options(1.0)).trace_hash
    with BUGS[0].planted():
        assert play(3, Options(1.0)).violations
    assert play(3, Options(1.0)).trace_hash == before
