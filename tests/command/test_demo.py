"""The demo's judgement, and its processes when they don't start."""

import json
from pathlib import Path

import pytest
import trio

from trimaran.__main__ import main
from trimaran.commands import Failure, demo, status
from trimaran.commands.demo import Replica, Show, Verdict, directory_for, judge, payload_of
from trimaran.commands.processes import NAMES, plan, running, wait_healthy
from trimaran.commands.status import Json, NodeStatus, fetch, groups_table, nodes_table

SIZE = 64
SEQUENCES = {number: number + 1 for number in range(50)}


def whole_store() -> dict[int, bytes]:
    return {sequence: payload_of(number, SIZE) for number, sequence in SEQUENCES.items()}


def test_payloads_have_their_size_and_differ() -> None:
    payloads = [payload_of(number, SIZE) for number in range(1000)]
    assert {len(payload) for payload in payloads} == {SIZE}
    assert len(set(payloads)) == 1000
    assert len({payload_of(number, 1) for number in range(100)}) == 100


def test_whole_store_is_good() -> None:
    replica = judge("a", whole_store(), SEQUENCES, SIZE)
    assert replica.good
    assert replica.stored == 50


def test_messages_that_were_never_acknowledged_may_be_there() -> None:
    store = whole_store() | {51: payload_of(99, SIZE)}
    assert judge("a", store, SEQUENCES, SIZE).good


def test_missing_message_is_lost() -> None:
    store = whole_store()
    del store[7]
    replica = judge("a", store, SEQUENCES, SIZE)
    assert (replica.lost, replica.duplicated, replica.damaged) == (1, 0, 0)
    assert not replica.good


def test_message_stored_twice_is_duplicated() -> None:
    replica = judge("a", whole_store() | {51: payload_of(3, SIZE)}, SEQUENCES, SIZE)
    assert (replica.lost, replica.duplicated, replica.damaged) == (0, 1, 0)
    assert not replica.good


def test_message_with_other_bytes_is_damaged() -> None:
    replica = judge("a", whole_store() | {7: b"other"}, SEQUENCES, SIZE)
    assert (replica.lost, replica.duplicated, replica.damaged) == (0, 0, 1)
    assert not replica.good


def test_empty_store_is_not_good() -> None:
    assert not judge("a", {}, SEQUENCES, SIZE).good
    assert not judge("a", {}, {}, SIZE).good


@pytest.mark.parametrize(
    ("acknowledged", "replicas", "good"),
    [
        (10, [Replica(name, stored=10) for name in "abc"], True),
        (9, [Replica(name, stored=10) for name in "abc"], False),
        (10, [Replica(name, stored=10) for name in "ab"], False),
        (10, [Replica("a", stored=10), Replica("b", stored=10), Replica("c", stored=9, lost=1)], False),
    ],
)
def test_verdict_is_the_exit_code(
    acknowledged: int,
    replicas: list[Replica],
    good: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def found(directory: Path, messages: int, size: int, show: Show) -> Verdict:
        await trio.lowlevel.checkpoint()
        return Verdict(messages, size, acknowledged=acknowledged, replicas=replicas)

    monkeypatch.setattr(demo, "run", found)
    assert main(["demo", "--messages", "10", "--json"]) == (0 if good else 1)
    assert json.loads(capsys.readouterr().out)["good"] is good
    assert main(["demo", "--messages", "10"]) == (0 if good else 1)
    assert "acknowledged" in capsys.readouterr().out


def test_directory_of_the_demo_goes_unless_it_is_the_users(tmp_path: Path) -> None:
    with directory_for(None) as temporary:
        (temporary / "file").write_text("x")
    assert not temporary.exists()
    with directory_for(tmp_path / "kept") as kept:
        (kept / "file").write_text("x")
    assert (kept / "file").exists()


def test_directory_with_something_in_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["demo", "--keep", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_planned_nodes_know_each_other_and_have_addresses_of_their_own(tmp_path: Path) -> None:
    nodes = plan(tmp_path)
    assert tuple(node.name for node in nodes) == NAMES
    addresses = [address for node in nodes for address in (node.client, node.peer, node.http)]
    assert len(set(addresses)) == 9
    for node in nodes:
        assert sorted(node.peers) == sorted(
            f"{other.name}={other.peer}" for other in nodes if other is not node
        )


async def test_node_that_does_not_start_is_reported_with_what_it_said(tmp_path: Path) -> None:
    (node,) = plan(tmp_path, ["a"], extra=["--heartbeat", "soon"])
    async with running([node]):
        with pytest.raises(Failure) as failure:
            await wait_healthy([node])
    assert "node a ended with exit code 2" in failure.value.message
    assert "--heartbeat: 'soon'" in failure.value.message


def test_monitor_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", "http://127.0.0.1:1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no monitor at http://127.0.0.1:1" in line
    with pytest.raises(Failure):
        fetch("file:///etc", "/passwd")


def test_status_shows_groups_and_cannot_be_made_to_draw() -> None:
    raftz = {"$G": {"meta": {"role": "leader", "leader": "a", "term": 3, "commit": 9, "applied": 7}}}
    hostile = NodeStatus("u", {"status": "ok"}, {"server_name": "[red]a\x1b[2J"}, raftz)
    (name,) = nodes_table([hostile]).columns[0].cells
    assert name == "\\[red]a\\x1b[2J"
    row = [next(iter(column.cells)) for column in groups_table([hostile]).columns]
    assert row == ["meta", "\\[red]a\\x1b[2J", "leader", "a", "3", "9", "7", "2"]


def test_a_node_that_is_away_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(url: str, path: str) -> Json:
        if url == "http://away":
            raise Failure("no monitor at http://away")
        return {"status": "ok", "server_name": "here", "$G": {"ORDERS": {"role": "leader"}}}

    monkeypatch.setattr(status, "fetch", answer)
    assert main(["status", "--url", "http://away", "--url", "http://here"]) == 2
    said = capsys.readouterr()
    assert "ORDERS" in said.out and "here" in said.out and "answer" in said.out
    assert said.err == "trimaran: no monitor at http://away\n"


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:1/a b", "http://", "bad", ""])
def test_a_mistaken_monitor_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", url]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
