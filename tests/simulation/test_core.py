"""The core tier: a few seeds each time, all that ever failed, and the same story in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trimaran.testing import Options
from trimaran.testing.cluster import Cluster
from trimaran.testing.core import play, require_progress, serve
from trimaran.testing.seeds import Streams

SEEDS_PER_TEST = 10
SEEDS = 40
KEPT = Path(__file__).parent / "kept_seeds.txt"


def kept() -> list[tuple[int, float | None]]:
    lines = [line.split() for line in KEPT.read_text().splitlines() if line.startswith("core ")]
    return [(int(seed), None if seconds == "-" else float(seconds)) for _, seed, seconds, *_ in lines]


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_safe_under_faults_and_live_after_them(first: int) -> None:
    reports = [play(seed, Options()) for seed in range(first, first + SEEDS_PER_TEST)]
    failed = [(report.replay, report.violations[0]) for report in reports if report.violations]
    assert not failed
    assert sum(report.crashes for report in reports) > 20
    assert sum(report.appends for report in reports) > 200


def test_every_seed_that_ever_failed() -> None:
    reports = [play(seed, Options(seconds)) for seed, seconds in kept()]
    assert [report.replay for report in reports if report.violations] == []


def test_the_same_seed_tells_the_same_story_in_any_process() -> None:
    """Under another PYTHONHASHSEED, and beside other seeds played before."""

    def elsewhere(salt: str) -> list[str]:
        ran = subprocess.run(
            [sys.executable, "-m", "trimaran.testing", "work", "--seconds", "1"],
            input="11\n12\n13\n",
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout.splitlines()

    here = [play(seed, Options(1.0)).to_json() for seed in (11, 12, 13)]
    assert elsewhere("1") == elsewhere("77") == here
    assert len({json.loads(line)["trace_hash"] for line in here}) == 3


def test_the_story_changes_nothing_and_says_what_happens() -> None:
    story: list[str] = []
    told, silent = play(5, Options(1.0, story.append)), play(5, Options(1.0))
    assert told == silent
    assert any("leader" in line for line in story)


def test_a_disk_that_still_stands_when_the_faults_end_is_given_its_time() -> None:
    """Of two voters both must sync what is proposed; only the mark that all is synced is under way, so that
    they count as converged before."""
    cluster = Cluster(Streams(1), voters=(1, 2))
    assert cluster.heap.wait_for(cluster.converged, 10.0)
    leader = cluster.leader()
    assert leader is not None
    assert serve(cluster)
    leader.stalled_until = cluster.heap.time + 5.0
    cluster.heap.run(0.3)
    cluster.calm_down()
    assert cluster.converged()
    assert leader.held_until > cluster.heap.time + 4.0
    require_progress(cluster)
