"""The actor tier: whole nodes from a seed. More with `python -m trimaran.testing soak --tier actor`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trimaran.testing import Options
from trimaran.testing.nodes import play

KEPT = [
    (int(line.split()[1]), None if line.split()[2] == "-" else float(line.split()[2]))
    for line in (Path(__file__).parent / "kept_seeds.txt").read_text().splitlines()
    if line.startswith("actor ")
]


@pytest.mark.parametrize(("seed", "seconds"), KEPT)
def test_a_seed_that_failed_once_is_clean(seed: int, seconds: float | None) -> None:
    report = play(seed, Options(seconds))
    assert report.violations == []
    assert report.appends >= 10, "else it tells nothing; with other code a seed is another run"


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
