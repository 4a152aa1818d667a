"""The actor tier: whole nodes from a seed. More with `python -m trimaran.testing soak --tier actor`."""

import json
import os
import subprocess
import sys

import pytest

from trimaran.testing import Options
from trimaran.testing.nodes import play

SEEDS = (2, 6, 11)
"""A few mixes that have little in common."""


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_storm_everything_holds(seed: int) -> None:
    report = play(seed, Options(seconds=4.0))
    assert report.violations == []
    assert report.appends > 20


def test_a_seed_is_the_same_run_in_any_process() -> None:
    command = [sys.executable, "-m", "trimaran.testing", "run", "--tier", "actor", "--seed", "5"]
    runs = [
        subprocess.Popen(
            [*command, "--seconds", "2", "--json"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for seed in ("0", "1", "4242")
    ]
    lines = [run.communicate()[0] for run in runs]
    assert len(set(lines)) == 1
    assert len(json.loads(lines[0])["trace_hash"]) == 32
