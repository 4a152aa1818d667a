"""STREAM_COMMAND entries: what changes a stream besides publishing, as msgpack maps with a version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgpack

from ...codec import Chunk, EntryType, make_chunk

COMMAND_VERSION: Final = 1


def configure(config: Mapping[str, object], version: int) -> bytes:
    """Gives the stream a `config` (of `StreamConfig.to_json`); a lower or equal version is ignored."""
    return _command(op="configure", config=dict(config), version=version)


def purge(filter: str = "", seq: int = 0, keep: int = 0) -> bytes:
    """Removes messages: of matching subjects or all; below `seq`; or all but the newest `keep`."""
    return _command(op="purge", filter=filter, seq=seq, keep=keep)


def delete(seq: int) -> bytes:
    """Removes one message."""
    return _command(op="delete", seq=seq)


def command_chunk(command: bytes) -> Chunk:
    """A command alone, ready to be proposed."""
    return make_chunk([(EntryType.STREAM_COMMAND, command)])


def read_command(entry: bytes) -> dict[str, object] | None:
    """The map of a command entry, or None if it is none that this version knows."""
    try:
        command = msgpack.unpackb(entry)
    except (ValueError, msgpack.UnpackException):
        return None
    if not isinstance(command, dict) or command.get("v") != COMMAND_VERSION:
        return None
    return command


def _command(**fields: object) -> bytes:
    packed = msgpack.packb({"v": COMMAND_VERSION, **fields})
    assert isinstance(packed, bytes)
    return packed
