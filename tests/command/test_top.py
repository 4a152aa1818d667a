"""`trimaran top`: rates out of two looks at a node."""

from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from trimaran.commands import top as module
from trimaran.commands.status import NodeStatus
from trimaran.commands.top import COLUMNS, Sample, row, top


def status(scale: int, **health: object) -> NodeStatus:
    """A node that has counted so far."""
    group = {"role": "leader", "commit": 9, "applied": 7, "batches": 10 * scale, "entries": 200 * scale}
    return NodeStatus(
        "http://n:1",
        health or {"status": "ok"},
        {
            "server_name": "n[red]\x1b",
            "connections": 3,
            "in_msgs": 1000 * scale,
            "out_msgs": 500 * scale,
            "in_bytes": scale << 20,
            "wal": {"writes": 8 * scale, "sync_p50_seconds": 0.00125},
        },
        {"$G": {"a": group, "b": group | {"role": "follower", "applied": 9}}},
    )


def test_rates_are_of_the_time_between_two_looks() -> None:
    shown = dict(zip(COLUMNS, row(Sample(status(1), 10.0), Sample(status(3), 12.0)), strict=True))
    assert shown["in/s"] == "1,000" and shown["out/s"] == "500" and shown["MiB in/s"] == "1.0"
    assert (shown["batches/s"], shown["entries/batch"], shown["syncs/s"]) == ("20", "20.0", "8")
    assert (shown["leads"], shown["lag"], shown["sync p50"]) == ("1/2", "2", "1.25 ms")
    assert shown["health"] == "ok" and "\x1b" not in shown["node"]


def test_a_node_that_was_started_anew_has_no_negative_rates() -> None:
    shown = row(Sample(status(3), 10.0), Sample(status(1), 11.0))
    assert not any(text.startswith("-") and text != "-" for text in shown)


def test_it_looks_as_often_as_told_and_says_when_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = NodeStatus("u", {"error": "no answer"}, {}, {}, "gone")
    looks: Iterator[NodeStatus] = iter([status(1), status(2), gone])
    pauses: list[float] = []
    monkeypatch.setattr(module, "fetch_status", lambda url: next(looks))
    monkeypatch.setattr("trimaran.commands.top.time.sleep", pauses.append)
    done = CliRunner(env={"COLUMNS": "200"}).invoke(
        top, ["--count=2", "--interval=0.5"], standalone_mode=False
    )
    assert done.return_value == 2 and pauses == [0.5, 0.5]
    assert "no answer" in done.output
