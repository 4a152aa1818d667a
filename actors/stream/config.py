"""A stream's configuration: JetStream's JSON in, checked and completed, and the same JSON out.

Texts, defaults and the order of the echoed fields are those of nats-server 2.15, probed on the wire, because
clients compare them. What Trimaran does not do yet is refused, never silently ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from ..strict_json import BadJson, read_json
from .errors import ApiError, api_error, configuration_error, json_error
from .subjects import SubjectIndex, is_subject, subject_matches, subjects_overlap
from .transforms import BadTransform, SubjectTransform

MAX_NAME: Final = 255
MAX_DESCRIPTION: Final = 4096
MAX_METADATA: Final = 128 << 10
"""Bytes of all names and values."""
MAX_REPLICAS: Final = 5
MAX_FIRST: Final = 1 << 55
"""Where a stream may begin, or be purged to. Results have 56 bits for a sequence; half of them stay free."""
MAX_SUBJECTS: Final = 1000
"""Each is compared with all others, on the event loop, and wildcards can make that slow."""
SHORTEST: Final = 100_000_000
"""100 ms: no age or window is shorter."""
DUPLICATE_WINDOW: Final = 120_000_000_000
"""Two minutes, JetStream's default."""

COMPATIBLE_VERSION: Final = "2.15.0"
"""The version of nats-server whose behaviour is followed."""
API_LEVEL: Final = 5

SYSTEM_SUBJECTS: Final = (
    ("$JS.>", "$JS.EVENT.>", "subjects that overlap with jetstream api require no-ack to be true"),
    ("$JSC.>", None, "subjects that overlap with jetstream api require no-ack to be true"),
    ("$NRG.>", None, "subjects that overlap with jetstream api require no-ack to be true"),
    ("$SYS.>", "$SYS.ACCOUNT.>", "subjects that overlap with system api require no-ack to be true"),
)
"""(pattern, exception, text): an acknowledgement to such a publish would be taken for a request's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """A valid configuration; -1 is "no limit". Times are ns. The fields' order is that of the JSON."""

    name: str
    description: str = ""
    subjects: tuple[str, ...] = ()
    retention: str = "limits"
    max_consumers: int = -1
    max_msgs: int = -1
    max_bytes: int = -1
    max_age: int = 0
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    discard: str = "old"
    storage: str = "file"
    num_replicas: int = 1
    no_ack: bool = False
    duplicate_window: int = DUPLICATE_WINDOW
    placement: Mapping[str, object] | None = None
    compression: str = "none"
    first_seq: int = 0
    subject_transform: Mapping[str, object] | None = None
    """`src` and `dest`: what becomes of a subject before its message is stored."""
    republish: Mapping[str, object] | None = None
    """`src`, `dest` and `headers_only`: what is published again once it is stored."""
    allow_direct: bool = False
    mirror_direct: bool = False
    discard_new_per_subject: bool = False
    sealed: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    allow_rollup_hdrs: bool = False
    consumer_limits: Mapping[str, object] = field(default_factory=dict)
    allow_msg_ttl: bool = False
    subject_delete_marker_ttl: int = 0
    allow_atomic: bool = False
    """Whether several messages may be published as one."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the user gave; the echo adds `_nats.*` keys."""

    def to_json(self) -> dict[str, object]:
        """The configuration as JetStream echoes it."""
        echo = {name: getattr(self, name) for name in _ORDER}
        for name in _OMITTED_WHEN_EMPTY:
            if not echo[name]:
                del echo[name]
        echo["subjects"] = list(self.subjects)
        echo["consumer_limits"] = dict(self.consumer_limits)
        for name in ("placement", "subject_transform", "republish"):
            if echo.get(name):
                echo[name] = dict(getattr(self, name))
        versions = {
            "_nats.level": str(API_LEVEL),
            "_nats.req.level": "2" if self.allow_atomic else "1" if self.allow_msg_ttl else "0",
            "_nats.ver": COMPATIBLE_VERSION,
        }
        echo["metadata"] = dict(sorted({**self.metadata, **versions}.items()))
        return echo

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> StreamConfig:
        """A configuration that `to_json` gave, as it is found in the stream's log."""
        return _complete(_parse(fields))


_OMITTED_WHEN_EMPTY: Final = (
    "subject_delete_marker_ttl",
    "description",
    "no_ack",
    "placement",
    "first_seq",
    "subject_transform",
    "republish",
    "discard_new_per_subject",
    "allow_atomic",
)
_ORDER: Final = tuple(StreamConfig.__dataclass_fields__)

_INTEGERS: Final = {
    "max_consumers": "int",
    "max_msgs": "int64",
    "max_bytes": "int64",
    "max_age": "time.Duration",
    "max_msgs_per_subject": "int64",
    "max_msg_size": "int32",
    "num_replicas": "int",
    "duplicate_window": "time.Duration",
    "first_seq": "uint64",
    "subject_delete_marker_ttl": "time.Duration",
}
_BOOLEANS: Final = (
    "no_ack",
    "allow_direct",
    "mirror_direct",
    "discard_new_per_subject",
    "sealed",
    "deny_delete",
    "deny_purge",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_msg_counter",
    "allow_atomic",
    "allow_msg_schedules",
    "allow_batched",
    "pedantic",
)
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "retention": ("limits", "interest", "workqueue"),
    "discard": ("old", "new"),
    "storage": ("file", "memory"),
    "compression": ("none", "s2"),
    "persist_mode": ("", "default", "async"),
}
_OBJECTS: Final = {
    "placement": "Placement",
    "mirror": "StreamSource",
    "republish": "RePublish",
    "subject_transform": "SubjectTransformConfig",
    "consumer_limits": "StreamConsumerLimits",
}
_INSIDE: Final[dict[str, dict[str, str]]] = {
    "placement": {"cluster": "string", "preferred": "string", "tags": "[]string"},
    "republish": {"src": "string", "dest": "string", "headers_only": "bool"},
    "subject_transform": {"src": "string", "dest": "string"},
    "consumer_limits": {"inactive_threshold": "time.Duration", "max_ack_pending": "int"},
}
"""Fields of the objects that are kept, and their Go types: what is kept must fit the log's records."""
_TEXTS: Final = ("name", "description")
_RANGES: Final = {
    "int": (-(1 << 63), (1 << 63) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "time.Duration": (-(1 << 63), (1 << 63) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "uint64": (0, (1 << 64) - 1),
}

NAMELESS: Final = configuration_error("stream name is required and can not contain '.', '*', '>', '\\', '/'")

UNSUPPORTED: Final = {
    "mirror": "stream mirrors are not supported yet",
    "sources": "stream sources are not supported yet",
    "allow_msg_counter": "message counters are not supported yet",
    "allow_msg_schedules": "message schedules are not supported yet",
    "allow_batched": "batched publishing is not supported yet",
}
"""Fields whose absence (or zero value) alone is accepted."""


def decode_json(payload: bytes) -> object:
    """The value of a request's JSON. Raises ApiError 10025."""
    try:
        return read_json(payload)
    except BadJson as error:
        raise json_error("unexpected EOF" if error.ended else str(error)) from error


def from_request(
    name: str, request: object, *, nodes: int | None = None, creates: bool = True
) -> StreamConfig:
    """The configuration that a create or update request for stream `name` asks for, checked and completed.

    `request` is the decoded JSON; `nodes`, if given, is how many nodes could hold a replica; `creates`: the
    stream is a new one. Raises ApiError.
    """
    if not isinstance(request, dict):
        raise json_error(
            f"json: cannot unmarshal {_go_kind(request)} into Go value of type server.StreamConfigRequest"
        )
    fields = _parse(cast("dict[str, object]", request))
    if not creates:
        _check_name(str(fields.get("name", "")))
    if creates and fields.get("name", "") != name:
        raise api_error(10056)
    if creates and fields.get("sealed"):
        raise configuration_error("stream configuration for create can not be sealed")
    if fields.get("mirror_direct"):
        raise configuration_error("stream has no mirror but does have mirror direct")
    if len(cast("str", fields.get("description", ""))) > MAX_DESCRIPTION:
        raise configuration_error(f"stream description is too long, maximum allowed is {MAX_DESCRIPTION}")
    if metadata_bytes(_own_or_user(cast("dict[str, str]", fields.get("metadata", {})))) > MAX_METADATA:
        raise configuration_error(f"stream metadata exceeds maximum size of {MAX_METADATA} bytes")
    if cast("int", fields.get("num_replicas", 0)) > MAX_REPLICAS:
        raise configuration_error(f"maximum replicas is {MAX_REPLICAS}")
    if fields.get("deny_purge") and fields.get("allow_rollup_hdrs"):
        raise configuration_error("roll-ups require the purge permission")
    config = _complete(fields)
    _check_name(config.name)
    _check_numbers(config)
    _check_subjects(config)
    _check_transforms(config)
    if nodes is not None:
        check_nodes(config, nodes)
    if config.name != name:
        raise api_error(10056)
    return config


def check_nodes(config: StreamConfig, nodes: int) -> None:
    """Raises ApiError if there are too few nodes for the replicas."""
    if config.num_replicas > nodes:
        raise api_error(10074 if nodes == 1 else 10005)


def same_config(one: StreamConfig, other: StreamConfig) -> bool:
    """Whether creating again with `other` changes nothing of a stream that has `one`."""
    return replace(one, metadata=_own(one.metadata)) == replace(other, metadata=_own(other.metadata))


def check_overlap(config: StreamConfig, others: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Raises ApiError 10065 if another stream, (name, subjects), takes one of the subjects too."""
    mine: SubjectIndex[bool] = SubjectIndex()
    for subject in config.subjects:
        mine.add(subject.encode(), True)
    for name, subjects in others:
        if name != config.name and any(mine.overlapping(theirs.encode()) for theirs in subjects):
            raise api_error(10065)


def check_update(old: StreamConfig, new: StreamConfig) -> StreamConfig:
    """The configuration that takes the place of `old`, or ApiError if this can't be changed any more."""
    if old.name != new.name:
        raise api_error(10056)
    if old.storage != new.storage:
        raise _fixed("can not change storage type")
    if old.retention != new.retention and "workqueue" in (old.retention, new.retention):
        raise _fixed("can not change retention policy to/from workqueue")
    if old.sealed and not new.sealed:
        raise _fixed("can not unseal a sealed stream")
    if old.deny_delete and not new.deny_delete:
        raise _fixed("can not cancel deny message deletes")
    if old.deny_purge and not new.deny_purge:
        raise _fixed("can not cancel deny purge")
    if old.allow_msg_ttl and not new.allow_msg_ttl:
        raise configuration_error("message TTL status can not be disabled")
    if new.sealed:
        kept = replace(new, max_age=0, discard="new", allow_rollup_hdrs=False)
        return replace(kept, deny_delete=True, deny_purge=True)
    return new


def _fixed(what: str) -> ApiError:
    return configuration_error(f"stream configuration update {what}")


def _own(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.startswith("_nats.")}


def _parse(request: Mapping[str, object]) -> dict[str, object]:
    """Known fields with values of their types; null and absent are the same. Raises ApiError 10025, 10052."""
    fields: dict[str, object] = {}
    for name, value in request.items():
        known = (*_INTEGERS, *_BOOLEANS, *_WORDS, *_OBJECTS, *_TEXTS, "subjects", "sources", "metadata")
        if name not in known:
            raise json_error(f'json: unknown field "{name}"')
        if value is not None:
            fields[name] = _typed(name, value)
    for name, text in UNSUPPORTED.items():
        if fields.get(name):
            raise configuration_error(text)
    if fields.get("persist_mode") == "async":
        raise configuration_error("persist mode async is not supported yet")
    return fields


def _typed(name: str, value: object) -> object:
    if name in _INTEGERS:
        if not _fits(value, _INTEGERS[name]):
            raise _mistyped(name, value, _INTEGERS[name])
    elif name in _BOOLEANS:
        if not isinstance(value, bool):
            raise _mistyped(name, value, "bool")
    elif name in _WORDS:
        if value not in _WORDS[name]:
            unknown = json.dumps(json.dumps(value))
            raise json_error(
                "unknown compression algorithm" if name == "compression" else f"can not unmarshal {unknown}"
            )
    elif name in _TEXTS:
        if not isinstance(value, str):
            raise _mistyped(name, value, "string")
    elif name in _OBJECTS:
        if not isinstance(value, dict):
            raise _mistyped(name, value, f"server.{_OBJECTS[name]}")
        if name in _INSIDE:
            return _inside(name, value)
    elif name == "metadata":
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise _mistyped(name, value, "map[string]string")
    elif not isinstance(value, list) or (name == "subjects" and not all(isinstance(s, str) for s in value)):
        raise _mistyped(name, value, "[]string" if name == "subjects" else "[]*server.StreamSource")
    return value


def _inside(name: str, fields: Mapping[str, object]) -> dict[str, object]:
    """An object's known fields with values of their types; null and absent are the same."""
    kept: dict[str, object] = {}
    for inner, value in fields.items():
        go_type = _INSIDE[name].get(inner)
        if go_type is None:
            raise json_error(f'json: unknown field "{inner}"')
        if value is None:
            continue
        if not _fits(value, go_type):
            raise _mistyped(f"{name}.{inner}", value, go_type)
        kept[inner] = value
    return kept


def _fits(value: object, go_type: str) -> bool:
    if go_type == "string":
        return isinstance(value, str)
    if go_type == "bool":
        return isinstance(value, bool)
    if go_type == "[]string":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    low, high = _RANGES[go_type]
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _mistyped(name: str, value: object, go_type: str) -> ApiError:
    shown = (
        f"number {value}"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else _go_kind(value)
    )
    field_name = f"StreamConfigRequest.{name}"
    return json_error(f"json: cannot unmarshal {shown} into Go struct field {field_name} of type {go_type}")


def _go_kind(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case None:
            return "null"
        case _:
            return "number"


def _complete(fields: Mapping[str, object]) -> StreamConfig:
    """Defaults where nothing (or JetStream's zero) was given."""
    # `_parse` has checked the type of each.
    chosen: dict[str, Any] = {name: value for name, value in fields.items() if name in _ORDER}
    for limit in ("max_consumers", "max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size"):
        if chosen.get(limit, 0) <= 0:
            chosen[limit] = -1
    chosen["num_replicas"] = chosen.get("num_replicas") or 1
    max_age = chosen.get("max_age", 0)
    default = min(max_age, DUPLICATE_WINDOW) if max_age > 0 else DUPLICATE_WINDOW
    chosen["duplicate_window"] = chosen.get("duplicate_window") or default
    chosen["subjects"] = tuple(chosen.get("subjects") or [chosen.get("name", "")])
    if chosen.get("subject_transform") is not None:
        chosen["subject_transform"] = {"src": "", "dest": "", **chosen["subject_transform"]}
    if chosen.get("republish"):
        given = chosen["republish"]
        filled = {**given, "src": given.get("src") or ">", "dest": given.get("dest") or ">"}
        chosen["republish"] = {name: value for name, value in filled.items() if value}
    chosen["metadata"] = _own_or_user(chosen.get("metadata", {}))
    if chosen.get("subject_delete_marker_ttl", 0) > 0:
        # A marker is a roll-up with a time to live, put where a purge must be possible.
        chosen |= {"allow_msg_ttl": True, "allow_rollup_hdrs": True, "deny_purge": False}
    config = StreamConfig(**{"name": "", **chosen})
    return replace(config, discard_new_per_subject=bool(config.discard_new_per_subject))


_ECHOED: Final = frozenset({"_nats.level", "_nats.req.level", "_nats.ver"})


def _own_or_user(metadata: Mapping[str, str]) -> dict[str, str]:
    """The user's part: a client may send back what an echo showed it."""
    return {key: value for key, value in metadata.items() if key not in _ECHOED}


def metadata_bytes(metadata: Mapping[str, str]) -> int:
    """What counts against `MAX_METADATA`: the user's part, and the level that each configuration requires."""
    sizes = (len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    return sum(sizes, len("_nats.req.level") + len("0"))


def _check_name(name: str) -> None:
    if "/" in name or "\\" in name:
        raise api_error(10128)
    if not name or any(
        character in ".*>" or character.isspace() or not character.isprintable() for character in name
    ):
        raise NAMELESS.fresh()
    if len(name) > MAX_NAME:
        raise configuration_error(f"stream name is too long, maximum allowed is {MAX_NAME}")


def _check_numbers(config: StreamConfig) -> None:
    if config.first_seq > MAX_FIRST:
        raise configuration_error(f"first sequence is too high, maximum allowed is {MAX_FIRST}")
    if config.num_replicas < 0:
        raise api_error(10133)
    if config.max_age < 0:
        raise configuration_error("max age can not be negative")
    if 0 < config.max_age < SHORTEST:
        raise configuration_error("max age needs to be >= 100ms")
    if config.duplicate_window < 0:
        raise configuration_error("duplicates window can not be negative")
    if 0 < config.max_age < config.duplicate_window:
        raise configuration_error("duplicates window can not be larger then max age")
    if config.duplicate_window < SHORTEST:
        raise configuration_error("duplicates window needs to be >= 100ms")
    if config.discard_new_per_subject and config.discard != "new":
        raise configuration_error("discard new per subject requires discard new policy to be set")
    if config.discard_new_per_subject and config.max_msgs_per_subject <= 0:
        raise configuration_error("discard new per subject requires max msgs per subject > 0")
    if config.subject_delete_marker_ttl < 0:
        raise configuration_error("subject delete marker TTL must not be negative")
    if 0 < config.subject_delete_marker_ttl < 10 * SHORTEST:
        raise configuration_error("subject delete marker TTL must be at least 1 second")


def _check_subjects(config: StreamConfig) -> None:
    if len(config.subjects) > MAX_SUBJECTS:
        raise configuration_error(f"stream has too many subjects, maximum allowed is {MAX_SUBJECTS}")
    before: SubjectIndex[str] = SubjectIndex()
    for subject in config.subjects:
        if not is_subject(subject):
            raise configuration_error("invalid subject")
        earlier = before.overlapping(subject.encode())
        if earlier is not None:
            raise configuration_error(f'subject "{earlier}" overlaps with "{subject}"')
        before.add(subject.encode(), subject)
        if not config.no_ack:
            _check_reserved(subject)


def transform_of(fields: Mapping[str, object]) -> SubjectTransform:
    """The transform of a `subject_transform` or `republish`. Raises BadTransform."""
    return SubjectTransform(str(fields.get("src", "")), str(fields.get("dest", "")))


def subject_transform_of(config: StreamConfig) -> SubjectTransform | None:
    """What a stream makes of the subjects it takes, if anything. Raises BadTransform."""
    fields = config.subject_transform
    return transform_of(fields) if fields and fields.get("dest") else None


def _check_transforms(config: StreamConfig) -> None:
    if config.subject_transform:
        pattern = str(config.subject_transform.get("src") or ">")
        if not is_subject(pattern):
            raise ApiError(400, 10155, f"stream transform source: invalid subject {pattern}")
        try:
            subject_transform_of(config)
        except BadTransform as error:
            raise ApiError(400, 10156, f"stream transform: {error}") from None
    if config.republish:
        source, destination = config.republish.get("src") or ">", config.republish.get("dest") or ">"
        shown = f"transform from '{source}' to '{destination}'"
        try:
            transform = transform_of(config.republish)
        except BadTransform:
            text = f"stream configuration for republish with {shown} not valid"
            raise configuration_error(text) from None
        if any(subjects_overlap(subject, transform.widest) for subject in config.subjects):
            raise configuration_error("stream configuration for republish destination forms a cycle")


def _check_reserved(subject: str) -> None:
    if subject == ">":
        raise configuration_error("capturing all subjects requires no-ack to be true")
    for pattern, exception, text in SYSTEM_SUBJECTS:
        if subjects_overlap(subject, pattern) and not (exception and subject_matches(exception, subject)):
            raise configuration_error(text)
