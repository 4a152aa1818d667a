"""`trimaran backup`: a live stream, or all of a cluster, into one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, cast

import click

from ..backup_file import BackedUpGroup, BackupWriter
from ..codec import crc32c
from . import Failure
from .asking import Cluster, ask, servers_option

PART_BYTES: Final = 256 * 1024
PART_OVERHEAD: Final = 1024
EXIT_NOT_WHOLE: Final = 3

Json = Mapping[str, object]


@click.command(short_help="Save streams and groups while clients go on.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--stream", "streams", multiple=True, metavar="NAME", help="Only this stream; may repeat. [default: all]"
)
@servers_option
def backup(file: Path, streams: tuple[str, ...], servers: tuple[str, ...]) -> int:
    """Write streams and groups to FILE while clients go on.

    Each is saved as of one index of its own log, with everything acknowledged before it was its turn; one
    and the other may be of slightly different moments, as nothing is atomic across streams.
    """
    if file.exists():
        raise Failure(f"{file} exists already", EXIT_NOT_WHOLE)
    unfinished = file.with_name(f"{file.name}.part")
    try:
        with unfinished.open("wb") as out:
            try:
                ask(servers, lambda client: back_up(client, out, streams, click.echo))
                out.flush()
                os.fsync(out.fileno())
                unfinished.rename(file)
            finally:
                unfinished.unlink(missing_ok=True)  # it has its name, or is good for nothing
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}", 1) from None
    return 0


async def back_up(
    client: Cluster, out: BinaryIO, streams: Sequence[str], say: Callable[[str], object]
) -> None:
    """Write a whole backup to `out`. Raises Failure, or what the client raises."""
    listed = cast(Sequence[Json], (await client.administer("BACKUP.LIST"))["groups"])
    chosen = [
        each for each in listed if not streams or (each["kind"] == "stream" and each["name"] in streams)
    ]
    missing = set(streams) - {str(each["name"]) for each in chosen}
    if missing:
        raise Failure(f"there is no stream {', '.join(sorted(missing))}", 1)
    writer = BackupWriter(out)
    for each in chosen:
        group = await _back_up_group(client, writer, each)
        say(f"{group.kind} {group.name}: index {group.index}, {sum(group.parts)} bytes")
    writer.end()


async def _back_up_group(client: Cluster, writer: BackupWriter, listed: Json) -> BackedUpGroup:
    begun = await client.administer(f"BACKUP.BEGIN.{listed['group']}")
    group = BackedUpGroup(
        kind=str(listed["kind"]),
        name=str(listed["name"]),
        config=cast(Json, listed["config"]),
        version=cast(int, begun["version"]),
        replicas=cast(int, listed["replicas"]),
        index=cast(int, begun["index"]),
        parts=tuple(cast(Sequence[int], begun["parts"])),
    )
    where = f"{begun['node']}.{begun['session']}"
    writer.group(group)
    size = part_bytes(client)
    for part, length in enumerate(group.parts):
        for offset in range(0, length, size):
            writer.data(
                await _read(client, f"BACKUP.READ.{where}.{part}.{offset}.{min(size, length - offset)}")
            )
    await client.administer(f"BACKUP.END.{where}")
    return group


async def _read(client: Cluster, request: str) -> bytes:
    answer = await client.administer_raw(request)
    data = answer[5:]
    if crc32c(data) != int.from_bytes(answer[1:5], "little"):
        raise Failure("a part was damaged on its way", EXIT_NOT_WHOLE)
    return data


def part_bytes(client: Cluster) -> int:
    """How much of a part fits one message of this cluster."""
    limit = client.server_info.get("max_payload")
    return min(PART_BYTES, limit - PART_OVERHEAD) if isinstance(limit, int) else PART_BYTES
