"""`trimaran node`: one node as a process, from its options to its exit code."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import threading
import tomllib
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import click
import trio

from .. import logs, systemd
from ..actors.options import Options, from_mapping, setting, settings
from ..actors.security import BadSecurity, Security
from ..actors.setting import BadOption, Setting, Unit
from ..actors.units import split_address
from ..actors.world import World
from ..codec import IMPLEMENTATION
from ..storage.heap import one_heap
from . import Failure

logger = logging.getLogger("trimaran.node")

COLLECT_AFTER: Final = (5_000, 10, 1_000)
"""Thresholds of Python's garbage collector. Reference counts free nearly all that a node makes; a full pass
over a thousand groups finds next to nothing, takes half a second, and holds up everything meanwhile."""

EXIT_FAILED: Final = 1
"""The operating system refused something that has no code of its own."""
EXIT_BAD_OPTION: Final = 2
EXIT_CANNOT_LISTEN: Final = 3
EXIT_BUG: Final = 80
"""Something nobody foresaw; the only exit with a traceback."""

STOP_SECONDS: Final = 4.0
"""For an orderly stop. Supervisors and test suites kill after five."""


FAILED_SECONDS: Final = 0.9
"""From the failure of the disk to the end of the process."""

SPARE_FILES: Final = 1024
"""Open files beside those of the clients: log, blocks, links."""


class Runnable(Protocol):
    """What this command needs of a node."""

    @property
    def client_address(self) -> str: ...

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None: ...

    async def stop(self) -> None: ...

    def reload(self) -> None: ...


def option_of(each: Setting) -> click.Option:
    """The command line flag of one option."""
    return click.Option(
        [f"--{each.flag}", each.field],
        metavar=each.metavar,
        multiple=each.unit is Unit.PEERS,
        help=f"{each.help} [default: {each.default_text}]",
    )


def load_config(path: Path) -> Mapping[str, object]:
    """What a TOML file says, key by key. Raises Failure."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise Failure(f"--config: {path}: {error.strerror}", EXIT_BAD_OPTION) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"--config: {path}: {error}", EXIT_BAD_OPTION) from None


def options_from(flags: Mapping[str, object], config: Path | None = None) -> Options:
    """Flags over the file over the defaults. Raises Failure, naming the file when the fault is there."""
    path = config
    written: dict[str, object] = {}
    try:
        if path is not None:
            written = {setting(key).flag: value for key, value in load_config(path).items()}
        return from_mapping(written | dict(flags))
    except BadOption as error:
        in_file = path is not None and error.flag not in flags
        origin = f"{path}: {error.flag}" if in_file else f"--{error.flag}"
        raise Failure(f"{origin}: {error.reason}", EXIT_BAD_OPTION) from None


def _run_command(config: Path | None = None, **given: object) -> int:
    by_field = {each.field: each.flag for each in settings()}
    flags = {by_field[field]: value for field, value in given.items() if value not in (None, ())}
    return run(options_from(flags, config))


node = click.Command(
    "node",
    short_help="Run a node, alone or as one of a cluster.",
    callback=_run_command,
    params=[
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="TOML file with the same options, without their dashes; flags win over it.",
        ),
        *map(option_of, settings()),
    ],
    help="""Run a node: alone without arguments, or as one of a cluster.

    A size is written 64MiB, a duration 100ms, an address HOST:PORT.""",
)


def run(
    options: Options,
    security: Callable[[], Security] | None = None,
    notes: Sequence[str] = (),
    make_world: Callable[[], World] | None = None,
) -> int:
    """Run a node until it is told to stop. Returns the exit code, or raises Failure for a known cause.

    Args:
        security: reads users and certificates, if not from the files that the options name.
        notes: warnings for the beginning of the log.
        make_world: what it runs in, if not this machine with its disk.
    """
    from ..actors.node import Node  # here, so that --help and a bad option answer at once
    from ..storage.readiness import always_sleep

    logs.configure(options.log_format, options.log_level, name=options.name)
    if IMPLEMENTATION == "python":
        logger.warning("The C codec is not in use: everything works, many times slower")
    for note in notes:
        logger.warning("%s", note)
    allow_files(options.max_connections + SPARE_FILES)
    gc.set_threshold(*COLLECT_AFTER)
    one_heap()
    gc.freeze()  # what was imported stays: a full pass over it would hold up everything for some 20 ms

    def make_node() -> Node:
        if options.look_on == "off":
            always_sleep()
        node = Node(options, make_world() if make_world is not None else None, security=security)
        node.on_failure = _exit_with
        return node

    try:
        trio.run(serve, make_node, _exit_anyway)
    except BaseExceptionGroup as error:  # a nursery wraps whatever ends it
        return _ended(error, options)
    return 0


async def serve(make_node: Callable[[], Runnable], last_resort: Callable[[], None] = lambda: None) -> None:
    """Run the node until SIGTERM or SIGINT stops it in order; a second signal stops it at once. SIGHUP makes
    it read users and certificates again.

    Args:
        make_node: makes the node, inside the event loop.
        last_resort: called when stopping begins; sees to it that the process ends.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            running = _Running(make_node(), nursery, last_resort)
            nursery.start_soon(running.watch, signals)
            await nursery.start(running.run)
            logs.announce(f"Listening for client connections on {running.node.client_address}")
            logs.announce("Server is ready")
            systemd.notify("READY=1")


class _Running:
    """A node and the way to its end."""

    def __init__(self, node: Runnable, nursery: trio.Nursery, last_resort: Callable[[], None]) -> None:
        self.node = node
        self._nursery = nursery
        self._last_resort = last_resort
        self._started = False
        self._stopping = False

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.node.run)
            self._started = True
            task_status.started()
        self._nursery.cancel_scope.cancel()

    async def watch(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._reload()
                continue
            if self._stopping or not self._started:
                self._nursery.cancel_scope.cancel()
                return
            self._stopping = True
            systemd.notify("STOPPING=1")
            self._last_resort()
            logger.info("Stopping on %s", signal.Signals(number).name)
            self._nursery.start_soon(self._stop)

    def _reload(self) -> None:
        if not self._started:
            return  # it is about to read them anyway
        systemd.notify(systemd.reloading())
        try:
            self.node.reload()
        except BadSecurity as error:
            logger.error("Nothing was changed: %s", error)
        else:
            logger.info("Users and certificates were read again")
        systemd.notify("READY=1")

    async def _stop(self) -> None:
        with trio.move_on_after(STOP_SECONDS) as patience:
            await self.node.stop()
        if patience.cancelled_caught:
            logger.warning("Not everything stopped within %s seconds", STOP_SECONDS)
        self._nursery.cancel_scope.cancel()


def allow_files(count: int) -> None:
    """Raise the limit of open files to `count`, as far as the system lets this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError) as error:
        logger.warning("At most %d open files: %s", soft, error)


def _exit_anyway(seconds: float = 2 * STOP_SECONDS, code: int = EXIT_FAILED) -> None:
    """End the process soon even if a disk call never returns. What was acknowledged is synced already."""
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()


def _exit_with(code: int) -> None:
    """The disk has failed: end with its code in time, whatever is stuck."""
    _exit_anyway(FAILED_SECONDS, code)


def _ended(error: BaseExceptionGroup[BaseException], options: Options) -> int:
    """Raises the first Failure if every part of the error is a known one; else it is a bug, shown in full."""
    failures = [failure_of(cause, options) for cause in leaves(error)]
    known = [failure for failure in failures if failure is not None]
    if len(known) == len(failures):
        raise known[0] from None
    logger.critical("The node failed in an unforeseen way")
    traceback.print_exception(error)
    return EXIT_BUG


def leaves(error: BaseException) -> Iterator[BaseException]:
    """What an exception group is made of."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


def failure_of(error: BaseException, options: Options) -> Failure | None:
    """One line and an exit code for what the user, the disk or the network did; None for a bug."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return Failure(str(error), code)
    if not isinstance(error, OSError):
        return None
    if error.filename is None and (isinstance(error, socket.gaierror) or error.errno in _LISTEN_ERRORS):
        return Failure(f"cannot listen on {_refused_address(options, error)}", EXIT_CANNOT_LISTEN)
    if error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(options.data):
        reason = "it is no directory" if isinstance(error, FileExistsError) else error.strerror
        return Failure(f"cannot use {error.filename}: {reason}", EXIT_FAILED)
    return Failure(str(error), EXIT_FAILED)


_LISTEN_ERRORS: Final = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT}


def _refused_address(options: Options, error: OSError) -> str:
    """Which address it was, found by trying each again now that the node has let go of its own."""
    addresses = [options.listen, *([options.peer_address] if options.clustered else []), options.http]
    for address in filter(None, addresses):
        host, port = split_address(address)
        try:
            for family, kind, protocol, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                with contextlib.closing(socket.socket(family, kind, protocol)) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(where)
        except OSError as refusal:
            return f"{address}: {refusal.strerror}"
    return f"an address: {error.strerror}"
