"""`trimaran recover`: what to do, offline and on purpose, when a majority is lost for good."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
import trio

from ..actors.cluster.lost_quorum import CannotRecover, Remains, Survey, survey
from ..actors.cluster.lost_quorum import recover as make_alone
from ..storage.actor import Storage
from ..storage.disk import FileDisk
from ..storage.errors import DirectoryLocked, StorageError
from ..storage.node import NODE_FILE
from ..storage.runner import InlineRunner
from . import Failure

EXIT_NOT_DONE: Final = 1


@click.command(short_help="The way back when a majority is lost for good.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Directory of a stopped node.",
)
@click.option(
    "--accept-loss",
    "accepted",
    metavar="CLUSTER",
    help="Do it. CLUSTER is the id that the report shows: what only others had is lost then.",
)
def recover(data: Path, accepted: str | None) -> int:
    """Make the node of one surviving directory a cluster of its own, after a majority was lost for good.

    Without --accept-loss only reports what this directory has and what would be given up.
    """
    if not (data / NODE_FILE).is_file():
        raise Failure(f"{data} is no node's directory", EXIT_NOT_DONE)
    try:
        found = trio.run(_recover, data, accepted)
    except (CannotRecover, OSError) as error:
        raise Failure(f"{data}: {error}", EXIT_NOT_DONE) from None
    except DirectoryLocked as error:  # it names the directory
        raise Failure(str(error), error.exit_code) from None
    except StorageError as error:
        raise Failure(f"{data}: {error}", error.exit_code) from None
    for line in report(found):
        click.echo(line)
    if accepted is None:
        click.echo(f"Nothing was changed. To do it: --accept-loss {found.cluster:016x}")
        return EXIT_NOT_DONE
    click.echo(f"Done. Start {found.name}; others join with empty directories (trimaran cluster add).")
    return 0


def _draw() -> int:
    """Segments are salted; the node itself is there already."""
    return secrets.randbits(64) or 1


async def _recover(data: Path, accepted: str | None) -> Survey:
    storage = await Storage.open(FileDisk(data), InlineRunner(), name="", draw=_draw)
    try:
        found = await survey(storage)
        if accepted not in (None, f"{found.cluster:016x}"):
            raise CannotRecover(f"it belongs to cluster {found.cluster:016x}, not to {accepted}")
        if accepted is not None:
            async with trio.open_nursery() as nursery:
                await nursery.start(storage.run)
                await make_alone(storage, found)
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await storage.close()
    return found


def report(found: Survey) -> Iterator[str]:
    """What is here and what is not, line by line."""
    yield f"node {found.name} ({found.node:016x}) of cluster {found.cluster:016x}"
    yield f"to be removed for good: {', '.join(found.lost_nodes) or 'nobody'}"
    for each in found.remains:
        yield f"{each.kind} {each.name}: {_verdict(each)}"
    for name in found.given_up:
        yield f"{name}: GIVEN UP, no replica of it is here"


def _verdict(remains: Remains) -> str:
    if not remains.intact:
        return "DAMAGED here; it stays as it is and nobody will lead it"
    if not remains.wanted:
        return f"an older copy, up to index {remains.last_index}; left aside"
    ends = f"kept up to index {remains.last_index}, term {remains.last_term}"
    if remains.last_time:
        ends += f", written {datetime.fromtimestamp(remains.last_time / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    others = len(remains.membership.voters) - 1
    return f"{ends}; what {others} others acknowledged after that is LOST" if others else f"{ends}; whole"
