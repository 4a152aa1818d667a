"""STREAM_COMMAND entries: what changes a stream besides publishing, as msgpack maps with a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def consumer(name: str, config: Mapping[str, object], action: str = "") -> bytes:
    """Makes a consumer with a `config` (of `ConsumerConfig.to_json`), or changes the one of that name."""
    return _command(op="consumer", name=name, config=dict(config), action=action)


def delete_consumer(name: str) -> bytes:
    """Takes a consumer away."""
    return _command(op="delete_consumer", name=name)


def pause_consumer(name: str, until: str) -> bytes:
    """Stops a consumer's deliveries until a time (RFC 3339); empty: they go on."""
    return _command(op="pause_consumer", name=name, until=until)


def deliver(number: int, sequences: Sequence[int]) -> bytes:
    """Messages go out to a consumer's clients once this is applied."""
    return _command(op="deliver", to=number, seqs=list(sequences))


def acknowledge(acknowledged: Sequence[tuple[int, Sequence[int]]]) -> bytes:
    """Acknowledgements, as (consumer's number, sequences)."""
    return _command(op="ack", of=[[number, list(sequences)] for number, sequences in acknowledged])


def give_up(number: int, sequences: Sequence[int]) -> bytes:
    """A consumer delivers these no more; the stream keeps them."""
    return _command(op="give_up", to=number, seqs=list(sequences))


def publish_together(entries: Sequence[bytes]) -> bytes:
    """Messages, each as the entry of a publish: all of them are stored, or none."""
    return _command(op="publish", entries=list(entries))


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
