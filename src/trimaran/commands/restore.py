"""`trimaran restore`: the streams and groups of a backup into a cluster that has none of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import click

from ..backup_file import BackedUpGroup, NotWhole, check_backup, read_backup
from ..codec import crc32c
from . import Failure
from .asking import Cluster, ask, servers_option
from .backup import EXIT_NOT_WHOLE, part_bytes


@click.command(short_help="Restore all that is in a backup.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--check", is_flag=True, help="Only read FILE and say whether it is whole.")
@servers_option
def restore(file: Path, check: bool, servers: tuple[str, ...]) -> int:
    """Restore everything in FILE: same sequences, times and message ids. Existing streams are never touched.

    FILE is read and checked as a whole before anything is changed. A stream appears when all of it is there.
    """
    try:
        with file.open("rb") as source:
            groups = check_backup(source)
            for group in groups:
                click.echo(f"{group.kind} {group.name}: index {group.index}, {sum(group.parts)} bytes, whole")
            if not check:
                source.seek(0)
                ask(servers, lambda client: put_back(client, source, click.echo))
    except NotWhole as error:
        raise Failure(f"{file} is not whole: {error}", EXIT_NOT_WHOLE) from None
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}", 1) from None
    return 0


async def put_back(client: Cluster, source: BinaryIO, say: Callable[[str], object]) -> None:
    """Restore every group of a file that was checked. Raises NotWhole, or what the client raises."""
    current: BackedUpGroup | None = None
    where = ""
    for group, part, offset, data in read_backup(source):
        if group is not current:
            await _end(client, current, where, say)
            current, where = group, await _begin(client, group)
        size = part_bytes(client)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            request = f"RESTORE.WRITE.{where}.{part}.{offset + start}.{crc32c(piece)}"
            await client.administer_raw(request, piece)
    await _end(client, current, where, say)


async def _begin(client: Cluster, group: BackedUpGroup) -> str:
    begun = await client.administer(
        "RESTORE.BEGIN",
        {
            "kind": group.kind,
            "name": group.name,
            "config": dict(group.config),
            "version": group.version,
            "replicas": group.replicas,
            "manifest_length": group.parts[0],
        },
    )
    return f"{begun['node']}.{begun['session']}"


async def _end(
    client: Cluster, group: BackedUpGroup | None, where: str, say: Callable[[str], object]
) -> None:
    if group is not None:
        await client.administer(f"RESTORE.END.{where}")
        say(f"{group.kind} {group.name} is back")
