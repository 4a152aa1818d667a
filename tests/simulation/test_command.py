"""Seeds, reports and the command line of the simulator, with a toy for a tier."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from trimaran.testing import FaultCount, Options, Report, Streams, Trace, Violation
from trimaran.testing import __main__ as command


def toy(seed: int, options: Options) -> Report:
    trace = Trace(options.story)
    trace.note(0.5, "seed", seed)
    violations = [Violation("election safety", 0.5, "two leaders")] if seed % 2 else []
    return Report(seed, "core", trace.hexdigest(), violations=violations, seconds=options.seconds)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setattr(command, "tier_named", lambda name: SimpleNamespace(play=toy))
    return CliRunner()


def test_streams_are_independent_and_the_same_in_every_process() -> None:
    ask = "from trimaran.testing import Streams; print(Streams(5).split(('n', 2)).stream('disk').random())"
    said = {
        subprocess.run(
            [sys.executable, "-c", ask],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert said == {f"{Streams(5).split(('n', 2)).stream('disk').random()}\n"}
    others = {Streams(5).stream("disk").random(), Streams(6).split(("n", 2)).stream("disk").random()}
    assert len(others | {float(each) for each in said}) == 3


def test_a_report_survives_its_json() -> None:
    faults = FaultCount(crash=2, loss=0).sorted()
    report = Report(7, "actor", "ab", 3, 1.5, faults, 2, 1, [Violation("reads", 0.25, "stale")], {}, 4.0)
    assert Report.from_json(report.to_json()) == report
    assert report.faults == {"crash": 2}
    assert report.replay == "python -m trimaran.testing run --tier actor --seed 7 --seconds 4"


def test_run_says_how_to_play_a_failed_seed_again_and_fails(runner: CliRunner) -> None:
    good = runner.invoke(command.cli, ["run", "--seed", "2"])
    assert good.exit_code == 0 and "VIOLATION" not in good.output
    bad = runner.invoke(command.cli, ["run", "--seed", "3", "--story"])
    assert bad.exit_code == 1
    assert "0.500000000 seed 3" in bad.output
    assert bad.output.endswith("again: python -m trimaran.testing run --tier core --seed 3\n")
    as_json = runner.invoke(command.cli, ["run", "--seed", "3", "--json"])
    assert as_json.exit_code == 1
    assert json.loads(as_json.output)["violations"][0]["property"] == "election safety"


def test_a_worker_answers_each_seed_with_a_report(runner: CliRunner) -> None:
    answers = runner.invoke(command.cli, ["work"], input="2\n3\n").output.splitlines()
    assert [Report.from_json(line).seed for line in answers] == [2, 3]
