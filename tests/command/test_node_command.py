"""`trimaran node` around a stand-in for the node: signals, ready lines, exit codes."""

import io
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import trio
import trio.testing

from trimaran import logs
from trimaran.__main__ import main
from trimaran.actors.options import Options
from trimaran.commands.node import (
    EXIT_CANNOT_LISTEN,
    EXIT_FAILED,
    STOP_SECONDS,
    Runnable,
    allow_files,
    failure_of,
    leaves,
    serve,
)


class StandIn:
    """A node that does nothing until it is stopped."""

    def __init__(self, stop_after: float = 0.0) -> None:
        self.client_address = "127.0.0.1:1234"
        self.events: list[str] = []
        self._stop_after = stop_after
        self._ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.events.append("run")
        task_status.started()
        await self._ended.wait()
        self.events.append("ended")

    def reload(self) -> None:
        raise AssertionError("nobody asked for it")

    async def stop(self) -> None:
        self.events.append("stop")
        await trio.sleep(self._stop_after)
        self.events.append("stopped")
        self._ended.set()


@pytest.fixture(autouse=True)
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("human", "info", stream=stream)
    yield stream
    root = logging.getLogger(logs.ROOT)
    root.handlers.clear()
    root.propagate = True
    root.setLevel(logging.NOTSET)


async def until_ready(node: StandIn) -> None:
    while "run" not in node.events:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_stops_the_node_in_order(
    number: signal.Signals, nursery: trio.Nursery, logged: io.StringIO
) -> None:
    node = StandIn()
    resorts: list[int] = []
    done = trio.Event()

    async def run() -> None:
        await serve(lambda: node, lambda: resorts.append(1))
        done.set()

    nursery.start_soon(run)
    await until_ready(node)
    signal.raise_signal(number)
    await done.wait()
    assert node.events[:3] == ["run", "stop", "stopped"]
    assert resorts == [1]
    lines = logged.getvalue().splitlines()
    assert lines[0].endswith("Listening for client connections on 127.0.0.1:1234")
    assert lines[1].endswith("Server is ready")
    assert lines[2].endswith(f"Stopping on {number.name}")


async def test_stop_that_takes_too_long_is_cut_short(
    autojump_clock: trio.testing.MockClock, logged: io.StringIO
) -> None:
    node = StandIn(stop_after=1e9)
    start = trio.current_time()
    with trio.CancelScope() as outer:
        async with trio.open_nursery() as inner:
            inner.start_soon(serve, lambda: node)
            await until_ready(node)
            signal.raise_signal(signal.SIGTERM)
    assert not outer.cancelled_caught
    assert trio.current_time() - start == pytest.approx(STOP_SECONDS)
    assert "stopped" not in node.events
    assert "Not everything stopped" in logged.getvalue()


async def test_second_signal_stops_at_once(autojump_clock: trio.testing.MockClock) -> None:
    node = StandIn(stop_after=1e9)
    start = trio.current_time()
    async with trio.open_nursery() as inner:
        inner.start_soon(serve, lambda: node)
        await until_ready(node)
        signal.raise_signal(signal.SIGTERM)
        while "stop" not in node.events:
            await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGTERM)
    assert trio.current_time() == start


async def test_node_that_ends_by_itself_ends_the_command() -> None:
    node = StandIn()
    async with trio.open_nursery() as inner:
        inner.start_soon(serve, lambda: node)
        await until_ready(node)
        await node.stop()
    assert node.events[-1] == "ended"


async def test_failure_of_the_node_reaches_the_command_whole() -> None:
    class Failing(StandIn):
        async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            raise OSError(98, "Address already in use")

    make: Callable[[], Runnable] = Failing
    with pytest.raises(BaseExceptionGroup) as group:
        await serve(make)
    assert [type(leaf) for leaf in leaves(group.value)] == [OSError]


def test_limit_of_open_files_is_raised_as_far_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: granted.append(limits))
    allow_files(100)
    assert granted == []
    allow_files(1000)
    allow_files(100_000)
    assert granted == [(1000, 4096), (4096, 4096)]


def test_busy_port_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        options = Options(listen="127.0.0.1:0", http=address)
        failure = failure_of(OSError(98, os.strerror(98)), options)
    assert failure is not None
    assert failure.code == EXIT_CANNOT_LISTEN
    assert failure.message == f"cannot listen on {address}: Address already in use"


def test_error_with_an_exit_code_keeps_it_and_a_bug_is_none() -> None:
    class Locked(Exception):
        exit_code = 41

    locked = failure_of(Locked("another process holds it"), Options())
    assert locked is not None
    assert (locked.message, locked.code) == ("another process holds it", 41)
    assert failure_of(ValueError("oops"), Options()) is None
    denied = failure_of(PermissionError(13, "Permission denied", "/data"), Options())
    assert denied is not None
    assert denied.code == EXIT_FAILED
    assert "/data" in denied.message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["node", "--listen", "nowhere"], "--listen: 'nowhere' is not HOST:PORT"),
        (["node", "--lisen", "x"], "--lisen"),
        (["node", "--listen"], "--listen"),
        (["node", "--config", "/does/not/exist.toml"], "/does/not/exist.toml"),
        (["node", "stray"], "stray"),
        (["sail"], "sail"),
        (["node", "--name", "a\x1b[2Jb"], "--name"),
    ],
)
def test_bad_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("trimaran: ")
    assert words in line
    assert "\x1b" not in line
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Commands:"),
        (["--help"], "node"),
        (["--version"], "trimaran 0."),
        (["node", "-h"], "--peer-listen"),
    ],
)
def test_help_and_version_go_to_stdout_with_exit_code_0(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert words in captured.out
    assert captured.err == ""
