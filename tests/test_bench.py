"""The load generator counts what a server did, no more and no less."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from trimaran.__main__ import main
from trimaran.commands import bench as module
from trimaran.commands.bench import BenchFailed, Load, measure, quantile, run_load

from .fake_nats import FakeServer, in_thread


def short(server: FakeServer, **changes: Any) -> Load:
    values: dict[str, Any] = {"seconds": 0.2, "warm_up": 0.0, "window": 40, "connections": 3, "size": 10}
    return Load(urls=(server.url,), **{**values, **changes})


def test_every_message_sent_is_in_the_stream_and_counted_once() -> None:
    with in_thread(FakeServer()) as server:
        result = measure(short(server), keep=True)
        stored = server.stored["BENCH"]
    assert 0 < result.stored <= len(stored) == result.total
    # Behind the time that counts only what was on its way is stored, never more than the window.
    assert len(stored) - result.stored <= 40
    assert (result.errors, result.unanswered, result.duplicates) == (0, 0, 0)
    assert set(stored) == {("bench", b"", b"x" * 10)}
    assert 0 < result.p50 <= result.p99 <= result.maximum * 1.03
    assert result.rate == pytest.approx(result.stored / result.seconds)
    assert result.seconds >= 0.2
    assert result.generator_cpu > 0


def test_a_stream_made_here_is_deleted_and_one_that_was_there_is_not() -> None:
    with in_thread(FakeServer()) as server:
        measure(short(server))
        assert server.streams == {}
        server.streams, server.stored = {"BENCH": ["bench"]}, {"BENCH": []}
        measure(short(server))
        assert server.streams == {"BENCH": ["bench"]}
        server.streams = {"BENCH": ["other"]}
        with pytest.raises(BenchFailed, match="other subjects"):
            measure(short(server))


def test_connections_are_spread_over_streams_that_are_made_and_deleted() -> None:
    with in_thread(FakeServer()) as server:
        load = short(server, streams=3)
        result = measure(load, keep=True)
        assert server.streams == {f"BENCH-{number}": [f"bench.{number}"] for number in range(3)}
        stored = [server.stored[name] for name in server.streams]
        assert all(stored)
        assert sum(map(len, stored)) == result.total
        server.streams, server.stored = {"BENCH-1": ["bench.1"]}, {"BENCH-1": []}
        measure(load)
        assert server.streams == {"BENCH-1": ["bench.1"]}, "the one that was there stays"


def test_refusals_are_errors_and_no_messages_per_second() -> None:
    with in_thread(FakeServer()) as server:
        server.streams, server.stored = {"BENCH": ["bench"]}, {"BENCH": []}
        server.refusal = {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"}
        result = run_load(short(server))
        assert (result.stored, result.rate) == (0, 0)
        assert (result.p50, result.p99, result.maximum) == (0, 0, 0)
        assert result.errors > 0
        assert "maximum messages exceeded" in result.first_error
        server.streams = {}
        nowhere = run_load(short(server))
        assert nowhere.errors > 0
        assert "503" in nowhere.first_error


def test_what_no_one_answered_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.05)
    with in_thread(FakeServer()) as server:
        server.streams, server.silent = {"BENCH": ["bench"]}, True
        assert run_load(short(server)).unanswered == 40


def test_messages_larger_than_the_socket_takes_at_once_arrive_whole() -> None:
    with in_thread(FakeServer()) as server:
        result = measure(short(server, size=500_000, window=9, seconds=0.3), keep=True)
        stored = server.stored["BENCH"]
    assert result.unanswered == result.errors == 0
    assert {payload for _, _, payload in stored} == {b"x" * 500_000}


def test_a_load_that_can_not_be_run_fails_with_a_sentence() -> None:
    with pytest.raises(BenchFailed, match="no server at"):
        run_load(Load(urls=("127.0.0.1:1",)))
    with pytest.raises(BenchFailed, match="a window of at least"):
        run_load(Load(connections=4, window=3))
    with (
        in_thread(FakeServer(max_payload=1 << 20)) as server,
        pytest.raises(BenchFailed, match="maximum payload"),
    ):
        run_load(short(server, size=2 << 20))


def test_quantiles_of_a_latency_count() -> None:
    latencies = [0] * 1920
    assert quantile(latencies, 0.5) == 0
    latencies[10] = 98
    latencies[32 * 5 + 40] = 2  # 40 << 5 to 41 << 5
    assert quantile(latencies, 0.5) == pytest.approx(10.5e-9)
    assert quantile(latencies, 0.99) == pytest.approx(1296e-9)


def test_the_command_prints_figures_or_json() -> None:
    with in_thread(FakeServer()) as server:
        arguments = ["--url", server.url, "--seconds", "0.1", "--window", "10", "--connections", "2"]
        printed = CliRunner().invoke(module.bench, arguments)
        assert printed.exit_code == 0
        assert "messages/s of 128 bytes" in printed.output
        facts = json.loads(CliRunner().invoke(module.bench, [*arguments, "--json"]).output)
    assert facts["load"]["window"] == 10
    assert facts["result"]["stored"] > 0


def test_the_command_ends_with_one_line_where_there_is_no_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STREAM_SECONDS", 0.3)
    assert main(["bench", "--url", "127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.startswith("trimaran: stream BENCH can't be made")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", ""),
        ("--url", "http://127.0.0.1:4222"),
        ("--url", "nats://127.0.0.1:99999"),
        ("--url", "nats://[::1"),
        ("--stream", "a b"),
        ("--stream", "../x"),
        ("--stream", ""),
        ("--subject", "a.>"),
        ("--subject", "a b"),
        ("--subject", ""),
        ("--seconds", "nan"),
    ],
)
def test_a_mistaken_option_is_one_line_that_names_it(
    arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"trimaran: {arguments[0]}: ")
