"""The commands of the meta log: what each must have, and how it lies in an entry."""

from collections.abc import Mapping
from typing import Final, cast

import msgpack

from ...codec import Chunk, EntryType, make_chunk
from ..peers.wire import MAX_U64

Command = Mapping[str, object]
"""`op` says which one it is."""


def command_chunk(command: Command) -> Chunk:
    """One meta command as a proposal."""
    return make_chunk([(EntryType.OPAQUE, cast(bytes, msgpack.packb(dict(command))))])


def unpack_command(entry: memoryview) -> Command:
    """A command, whose fields have their types; empty if it is none. Any node may propose any bytes."""
    try:
        fields = msgpack.unpackb(entry, strict_map_key=False)
    except (msgpack.UnpackException, ValueError):
        return {}
    if not isinstance(fields, dict) or not _is(fields.get("commit", 0), int):
        return {}
    types = _FIELDS.get(str(fields.get("op")))
    if types is not None and all(_is(fields.get(name), kind) for name, kind in types.items()):
        return cast(Command, fields)
    return {}


def _is(value: object, kind: type) -> bool:
    if kind is list:  # of node ids
        return isinstance(value, list) and all(_is(each, int) for each in value)
    return type(value) is kind and (kind is not int or 0 <= cast(int, value) <= MAX_U64)


_FIELDS: Final[dict[str, dict[str, type]]] = {
    "invite": {"name": str, "address": str},
    "join": {"node": int, "name": str, "address": str},
    "leave": {"name": str},
    "settled": {"group": int, "incarnation": int, "members": list},
    "speaks": {"node": int, "version": int},
    "recover": {"node": int},
    "rebalance": {},
    "create_stream": {"config": dict},
    "update_stream": {"config": dict},
    "delete_stream": {"name": str},
    "restore": {"kind": str, "name": str, "node": int, "config": dict, "version": int},
    "restored": {"group": int, "replicas": int},
    "create_group": {"name": str, "machine": str, "replicas": int},
    "delete_group": {"name": str},
}
"""The fields that each command must have, and their types. An exception at apply would stop the group."""
