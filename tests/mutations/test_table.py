"""Hunts go on where they were stopped, and the page shows what was found, misses included."""

from pathlib import Path

import pytest

from . import table
from .bugs import BUGS
from .table import Result, missing, read, row, with_table


def result(bug: str, hunt: int, seeds: int, by: str = "reads") -> Result:
    return Result(bug, hunt, 250, 7, seeds, 0.5, by)


def test_no_hunt_is_done_twice_and_all_first_ones_come_first() -> None:
    names = [bug.name for bug in table.ALL]
    left = list(missing([result(names[0], 0, 3)], 2, ""))
    assert left[0] == (1, 0) and (0, 0) not in left
    assert left[len(names) - 1] == (0, 1) and len(left) == 2 * len(names) - 1


def test_a_hunt_that_found_nothing_counts_as_more_seeds_than_any() -> None:
    bug = BUGS[0]
    found = [result(bug.name, 0, 3), result(bug.name, 1, 250, ""), result(bug.name, 2, 9)]
    assert row(bug, found) == f"| {bug.name} | reads | 2 of 3 | 9 | 0.5 |"
    assert "| > 250 |" in row(bug, [*found, result(bug.name, 3, 250, "")])
    assert "**nothing** | 0 of 1" in row(bug, [result(bug.name, 0, 250, "")])


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "ALL", BUGS[:1])
    file = tmp_path / "found"
    arguments = ["--results", str(file), "--seeds", "3", "--only", BUGS[0].name, "--hunts"]
    assert table.main([*arguments, "1", "--minutes", "0"]) == 0
    assert read(file, 3) == []
    table.main([*arguments, "1"])
    (first,) = read(file, 3)
    table.main([*arguments, "1"])
    assert read(file, 3) == [first] and first.property
    assert read(file, 4) == []


def test_a_table_takes_the_place_of_the_one_before() -> None:
    page = "a\n<!-- table: slips -->\nold\n<!-- end of table: slips -->\nb\n"
    new = with_table(page, "slips", "new")
    assert new == "a\n<!-- table: slips -->\nnew\n<!-- end of table: slips -->\nb\n"
    with pytest.raises(AssertionError, match="no marks"):
        with_table(page, "classic bugs", "new")
