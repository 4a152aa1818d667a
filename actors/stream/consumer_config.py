"""A consumer's configuration: JetStream's JSON in, checked and completed, and the same JSON out.

Texts, codes and defaults are those of nats-server 2.15, probed on the wire. What Trimaran does not do yet is
refused, never silently ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, cast

from .config import API_LEVEL, COMPATIBLE_VERSION, MAX_METADATA, StreamConfig, metadata_bytes
from .durations import show_duration
from .errors import FIXED_IN_CONSUMERS, ApiError, api_error, configuration_error, json_error
from .subjects import is_subject, subject_matches, subjects_overlap

ACK_WAIT: Final = 30_000_000_000
MAX_ACK_PENDING: Final = 1000
MAX_WAITING: Final = 512
INACTIVE_THRESHOLD: Final = 5_000_000_000
"""An ephemeral consumer that nobody uses goes after this long, unless it says otherwise (ns)."""
SHORTEST_HEARTBEAT: Final = 100_000_000
PRIORITY_TIMEOUT: Final = 120_000_000_000
PRIORITY_SINCE: Final = 4
"""The protocol of nodes that know priority groups."""
SHORTEST_EXPIRES: Final = 1_000_000
MAX_DESCRIPTION: Final = 4096
MAX_NAME: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerConfig:
    """A valid configuration. Times are ns; 0, "" and empty are "not set", -1 is "no limit".

    The fields' order is that of the JSON.
    """

    durable_name: str = ""
    name: str = ""
    description: str = ""
    deliver_policy: str = "all"
    opt_start_seq: int = 0
    opt_start_time: str = ""
    ack_policy: str = "none"
    ack_wait: int = 0
    max_deliver: int = -1
    backoff: tuple[int, ...] = ()
    filter_subject: str = ""
    filter_subjects: tuple[str, ...] = ()
    replay_policy: str = "instant"
    rate_limit_bps: int = 0
    sample_freq: str = ""
    max_waiting: int = 0
    max_ack_pending: int = 0
    flow_control: bool = False
    headers_only: bool = False
    max_batch: int = 0
    max_expires: int = 0
    max_bytes: int = 0
    deliver_subject: str = ""
    deliver_group: str = ""
    idle_heartbeat: int = 0
    inactive_threshold: int = 0
    num_replicas: int = 0
    mem_storage: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    pause_until: str = ""
    priority_groups: tuple[str, ...] = ()
    priority_policy: str = ""
    """How a group shares: `overflow`, `pinned_client` or `prioritized`; empty: there is none."""
    priority_timeout: int = 0
    """How long a pinned client may be silent."""

    @property
    def filters(self) -> tuple[str, ...]:
        """The subjects it wants; empty for all."""
        return (self.filter_subject,) if self.filter_subject else self.filter_subjects

    @property
    def is_pull(self) -> bool:
        return not self.deliver_subject

    @property
    def acknowledges(self) -> bool:
        """Whether deliveries stay pending until they are acknowledged."""
        return self.ack_policy != "none"

    @property
    def start_time(self) -> int:
        """Of `by_start_time`, ns since 1970."""
        return parse_time(self.opt_start_time)

    @property
    def paused_until(self) -> int:
        """Ns since 1970; 0: not paused."""
        return parse_time(self.pause_until) if self.pause_until else 0

    def is_volatile(self, retention: str) -> bool:
        """Whether the consumer lives on the stream's leader alone, outside of the log.

        Where a stream keeps messages for its consumers, every replica must know every consumer.
        """
        return not self.durable_name and retention == "limits" and (not self.acknowledges or self.mem_storage)

    @property
    def has_priority(self) -> bool:
        """Whether it says anything of priority groups: nodes of `PRIORITY_SINCE` know them."""
        return bool(self.priority_groups or self.priority_policy or self.priority_timeout)

    def wait_before(self, count: int) -> int:
        """How long (ns) delivery number `count` of a message may stay unacknowledged."""
        if not self.backoff:
            return self.ack_wait
        return self.backoff[min(count, len(self.backoff)) - 1]

    def to_json(self) -> dict[str, object]:
        """The configuration as JetStream echoes it."""
        echo: dict[str, object] = {}
        for name in _ORDER:
            value = getattr(self, name)
            if value or name in _ALWAYS:
                echo[name] = list(value) if isinstance(value, tuple) else value
        level = "1" if self.pause_until or self.has_priority else "0"
        versions = {
            "_nats.level": str(API_LEVEL),
            "_nats.req.level": level,
            "_nats.ver": COMPATIBLE_VERSION,
        }
        echo["metadata"] = dict(sorted({**self.metadata, **versions}.items()))
        return echo

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> ConsumerConfig:
        """A configuration that `to_json` gave, as it is found in the stream's log."""
        return _complete(_parse(fields))


_ORDER: Final = tuple(ConsumerConfig.__dataclass_fields__)
_ALWAYS: Final = frozenset({"deliver_policy", "ack_policy", "max_deliver", "replay_policy", "num_replicas"})

_INTEGERS: Final = {
    "opt_start_seq": "uint64",
    "ack_wait": "time.Duration",
    "max_deliver": "int",
    "rate_limit_bps": "uint64",
    "max_waiting": "int",
    "max_ack_pending": "int",
    "max_batch": "int",
    "max_expires": "time.Duration",
    "max_bytes": "int",
    "idle_heartbeat": "time.Duration",
    "inactive_threshold": "time.Duration",
    "num_replicas": "int",
    "priority_timeout": "time.Duration",
}
_TIMES: Final = ("opt_start_time", "pause_until")
_BOOLEANS: Final = ("flow_control", "headers_only", "mem_storage", "direct")
_TEXTS: Final = (
    *("durable_name", "name", "description", "opt_start_time", "filter_subject", "sample_freq"),
    *("deliver_subject", "deliver_group", "pause_until"),
)
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "deliver_policy": ("all", "last", "new", "by_start_sequence", "by_start_time", "last_per_subject"),
    "ack_policy": ("none", "all", "explicit"),
    "replay_policy": ("instant", "original"),
    "priority_policy": ("", "none", "overflow", "pinned_client", "prioritized"),
}
_LISTS: Final = ("filter_subjects", "backoff", "priority_groups")
_KNOWN: Final = frozenset({*_INTEGERS, *_BOOLEANS, *_TEXTS, *_WORDS, *_LISTS, "metadata"})


@dataclass(frozen=True, slots=True)
class ConsumerRequest:
    """A create request, taken apart and checked as far as that needs no stream."""

    config: ConsumerConfig
    action: str
    """Empty, `create` or `update`."""
    given: Mapping[str, object]
    """The fields of the configuration as they were asked for."""


def from_request(
    stream: str,
    subject_name: str,
    filtered: str,
    durable: bool,
    request: object,
) -> ConsumerRequest:
    """What a create request asks for. Raises ApiError.

    Args:
        subject_name: the consumer's name in the request's subject, or empty.
        filtered: the filter in the request's subject, or empty.
        durable: it came by the subject for durable consumers.
    """
    if not isinstance(request, dict):
        raise json_error("json: cannot unmarshal array into Go value of type server.CreateConsumerRequest")
    unknown = next(
        (name for name in request if name not in ("stream_name", "config", "action", "pedantic")), None
    )
    if unknown is not None:
        raise json_error(f'json: unknown field "{unknown}"')
    action = request.get("action") or ""
    if action not in ("", "create", "update"):
        raise json_error(f'unknown consumer action: "{action}"')
    fields = _parse(_object(request.get("config")))
    if request.get("stream_name", "") != stream:
        raise api_error(10056)
    config = _named(_complete(fields), subject_name, durable)
    if filtered and config.filter_subjects:
        raise ApiError(400, 10137, "consumer with multiple subject filters cannot use subject based API")
    if filtered and config.filter_subject != filtered:
        raise api_error(10131)
    return ConsumerRequest(config, str(action), fields)


def with_limits(request: ConsumerRequest, limits: Mapping[str, object]) -> ConsumerConfig:
    """The configuration where the stream's `consumer_limits` are the defaults for what was not given."""
    config, (longest, most) = request.config, _limits(limits)
    if longest and cast("int", request.given.get("inactive_threshold", 0)) <= 0:
        config = replace(config, inactive_threshold=longest)
    if most and not request.given.get("max_ack_pending"):
        config = replace(config, max_ack_pending=min(most, MAX_ACK_PENDING) if config.acknowledges else most)
    return config


def with_account_limit(request: ConsumerRequest, config: ConsumerConfig, most: int) -> ConsumerConfig:
    """The configuration within an account's `max_ack_pending`, which bounds the default. Raises ApiError."""
    if most <= 0:
        return config
    if not request.given.get("max_ack_pending") and config.acknowledges:
        return replace(config, max_ack_pending=min(most, config.max_ack_pending))
    _check_pending(config, most)
    return config


def _object(value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise json_error("config is no object")
    return cast("dict[str, object]", value)


def _named(config: ConsumerConfig, subject_name: str, durable: bool) -> ConsumerConfig:
    """The configuration under the name that request and subject agree upon."""
    if durable and not config.durable_name:
        raise api_error(10018)
    if subject_name and config.durable_name and config.durable_name != subject_name:
        raise api_error(10017)
    name = subject_name or config.durable_name or config.name
    if "/" in name or "\\" in name:
        raise api_error(10127)
    if any(character in ".*>" or character.isspace() or not character.isprintable() for character in name):
        raise api_error(10103)
    if len(name) > MAX_NAME:
        raise api_error(10102, MAX_NAME)
    return replace(config, name=name)


def check_config(config: ConsumerConfig, stream: StreamConfig, nodes: int | None = None) -> None:
    """What a consumer of this stream can't be. Raises ApiError."""
    if config.num_replicas < 0:
        raise api_error(10133)
    if nodes is not None and config.num_replicas > max(nodes, 1):
        raise api_error(10074 if nodes == 1 else 10005)
    if any(wait < 0 for wait in config.backoff):
        raise ApiError(400, 10184, "consumer backoff needs to be positive")
    if len(config.description) > MAX_DESCRIPTION:
        raise api_error(10107, MAX_DESCRIPTION)
    if metadata_bytes(config.metadata) > MAX_METADATA:
        raise api_error(10135)
    if config.ack_wait < 0:
        raise api_error(10183)
    if config.backoff and 0 < config.max_deliver < len(config.backoff):
        raise api_error(10116)
    if stream.retention == "workqueue" and config.is_pull and not config.acknowledges:
        raise api_error(10084)
    if config.is_pull:
        _check_pull(config)
    else:
        _check_push(config, stream)
    _check_sampling(config.sample_freq)
    _check_limits(config, stream.consumer_limits)
    _check_filters(config)
    _check_start(config)
    _check_priority(config)
    if stream.retention == "workqueue":
        _check_workqueue(config)


_GROUP: Final = re.compile(r"[A-Za-z0-9\-_/=]{1,16}", re.ASCII)


def _check_priority(config: ConsumerConfig) -> None:
    if not config.priority_policy:
        if config.priority_groups:
            raise api_error(10196)
        if config.priority_timeout:
            raise api_error(10197)
        return
    if not config.is_pull:
        raise api_error(10178)
    if not config.priority_groups:
        raise api_error(10159)
    for group in config.priority_groups:
        if not group:
            raise api_error(10161)
        if not _GROUP.fullmatch(group):
            raise api_error(10162)


_START_TEXTS: Final = {"all": "all", "last": "last", "new": "new", "last_per_subject": "last per subject"}


def _check_start(config: ConsumerConfig) -> None:
    policy = config.deliver_policy
    begin = "consumer delivery policy is deliver "
    if policy == "by_start_sequence":
        if not config.opt_start_seq:
            raise ApiError(400, 10094, f"{begin}by start sequence, but optional start sequence is not set")
        if config.opt_start_time:
            raise ApiError(400, 10094, f"{begin}by start sequence, but optional start time is also set")
    elif policy == "by_start_time":
        if not config.opt_start_time:
            raise ApiError(400, 10094, f"{begin}by start time, but optional start time is not set")
        if config.opt_start_seq:
            raise ApiError(400, 10094, f"{begin}by start time, but optional start sequence is also set")
        parse_time(config.opt_start_time)
    elif config.opt_start_seq or config.opt_start_time:
        what = "sequence" if config.opt_start_seq else "time"
        raise ApiError(400, 10094, f"{begin}{_START_TEXTS[policy]}, but optional start {what} is also set")
    elif policy == "last_per_subject" and not config.filters:
        raise ApiError(400, 10094, f"{begin}last per subject, but optional filter subject is not set")


def _limits(fields: Mapping[str, object]) -> tuple[int, int]:
    """Longest inactive threshold (ns) and most pending acknowledgements; 0 for what is not limited."""
    longest, most = fields.get("inactive_threshold") or 0, fields.get("max_ack_pending") or 0
    assert isinstance(longest, int) and isinstance(most, int), "a stream's configuration was checked"
    return max(0, longest), max(0, most)


def _check_sampling(frequency: str) -> None:
    digits = frequency.removesuffix("%")
    if digits and re.fullmatch(r"[+-]?\d{1,18}", digits, re.ASCII) is None:
        text = f'strconv.Atoi: parsing "{digits}": invalid syntax'
        raise ApiError(400, 10095, f"failed to parse consumer sampling configuration: {text}")


def beyond_limits(limits: Mapping[str, object], consumers: Iterable[Mapping[str, object]]) -> list[str]:
    """The names of the consumers, given as their information, that `consumer_limits` of a stream forbid."""
    longest, most = _limits(limits)
    found: list[str] = []
    for each in consumers:
        config = cast("Mapping[str, object]", each["config"])
        threshold, pending = config.get("inactive_threshold", 0), config.get("max_ack_pending", 0)
        if 0 < longest < cast("int", threshold) or 0 < most < cast("int", pending):
            found.append(str(each["name"]))
    return sorted(found)


def _check_limits(config: ConsumerConfig, limits: Mapping[str, object]) -> None:
    longest, most = _limits(limits)
    if 0 < longest < config.inactive_threshold:
        text = f"consumer inactive threshold exceeds system limit of {show_duration(longest)}"
        raise ApiError(400, 10153, text)
    _check_pending(config, most)


def _check_pending(config: ConsumerConfig, most: int) -> None:
    if 0 < most < config.max_ack_pending:
        raise ApiError(400, 10121, f"consumer max ack pending exceeds system limit of {most}")


def _check_filters(config: ConsumerConfig) -> None:
    if config.filter_subject and config.filter_subjects:
        raise api_error(10136)
    if "" in config.filter_subjects:
        raise api_error(10139)
    for position, subject in enumerate(config.filters):
        if not is_subject(subject):
            raise configuration_error("invalid subject")
        if any(subjects_overlap(earlier, subject) for earlier in config.filters[:position]):
            raise api_error(10138)


def _check_pull(config: ConsumerConfig) -> None:
    if config.rate_limit_bps:
        raise api_error(10086)
    if config.idle_heartbeat:
        raise api_error(10088)
    if config.flow_control:
        raise api_error(10089)
    if 0 < config.max_expires < SHORTEST_EXPIRES:
        raise api_error(10115)


def _check_push(config: ConsumerConfig, stream: StreamConfig) -> None:
    subject = config.deliver_subject
    if not is_subject(subject):
        raise api_error(10112)
    if "*" in subject.split(".") or subject.endswith(">"):
        raise api_error(10079)
    if any(subjects_overlap(mine, subject) for mine in stream.subjects):
        raise api_error(10081)
    if config.max_waiting > 0:
        raise api_error(10080)
    if config.flow_control and not config.idle_heartbeat:
        raise api_error(10108)
    if 0 < config.idle_heartbeat < SHORTEST_HEARTBEAT:
        raise api_error(10083)


def _check_workqueue(config: ConsumerConfig) -> None:
    if config.ack_policy != "explicit":
        raise api_error(10098)
    if config.deliver_policy not in ("all", "new"):
        raise api_error(10101)


def check_unique(config: ConsumerConfig, others: Sequence[ConsumerConfig]) -> int | None:
    """The err_code for one more consumer of a work queue, where each message has one consumer; or None."""
    for other in others:
        if not config.filters:
            return 10099
        if not other.filters or any(
            subjects_overlap(mine, theirs) for mine in config.filters for theirs in other.filters
        ):
            return 10100
    return None


def covers(filters: Sequence[str], subjects: Sequence[str]) -> bool:
    """Whether a filter takes every message that a stream of these subjects can have."""
    return all(any(subject_matches(pattern, subject) for pattern in filters) for subject in subjects)


def fixed_change(old: ConsumerConfig, new: ConsumerConfig) -> int | None:
    """Number in FIXED_IN_CONSUMERS of the first thing that `new` would change and must not, or None."""
    for name, text in _FIXED.items():
        if getattr(old, name) != getattr(new, name):
            pulled = name == "is_pull" and old.is_pull
            return FIXED_IN_CONSUMERS.index(_TO_PUSH if pulled else text)
    return None


_TO_PUSH: Final = "can not update pull consumer to push based"
_FIXED: Final = {
    "deliver_policy": "deliver policy can not be updated",
    "mem_storage": "storage type can not be updated",
    "is_pull": "can not update push consumer to pull based",
    "opt_start_seq": "start sequence can not be updated",
    "opt_start_time": "start time can not be updated",
    "ack_policy": "ack policy can not be updated",
    "replay_policy": "replay policy can not be updated",
    "idle_heartbeat": "heart beats can not be updated",
    "flow_control": "flow control can not be updated",
    "max_waiting": "max waiting can not be updated",
}
"""What stays as it is, in the order in which a change of it is reported."""


def same_config(one: ConsumerConfig, other: ConsumerConfig) -> bool:
    """Whether creating again with `other` changes nothing of a consumer that has `one`."""
    return replace(one, name="") == replace(other, name="")


_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time. Raises ApiError 10025."""
    match = _TIME.fullmatch(text)
    try:
        seconds = datetime.fromisoformat(match[1] + match[3]).timestamp() if match else None
    except (ValueError, OverflowError):
        seconds = None
    if match is None or seconds is None:
        raise json_error(f"{text!r} is no time")
    return int(seconds) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))


def _parse(request: Mapping[str, object]) -> dict[str, object]:
    """Known fields with values of their types; null and absent are the same. Raises ApiError 10025."""
    fields: dict[str, object] = {}
    for name, value in request.items():
        if name not in _KNOWN:
            raise json_error(f'json: unknown field "{name}"')
        if value is not None:
            fields[name] = _typed(name, value)
    return fields


def _typed(name: str, value: object) -> object:
    if name in _INTEGERS:
        low = 0 if _INTEGERS[name] == "uint64" else -(1 << 63)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 1 << 63:
            raise _mistyped(name, _INTEGERS[name])
    elif name in _BOOLEANS:
        if not isinstance(value, bool):
            raise _mistyped(name, "bool")
    elif name in _TEXTS:
        if not isinstance(value, str):
            raise _mistyped(name, "string")
        if name in _TIMES and value:
            # One that can not be read would stop whoever leads the stream, again and again.
            parse_time(value)
    elif name in _WORDS:
        if value not in _WORDS[name]:
            quoted = f'\\"{value}\\"' if isinstance(value, str) else str(value)
            raise json_error(f'can not unmarshal "{quoted}"')
    elif name == "metadata":
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise _mistyped(name, "map[string]string")
    elif not isinstance(value, list) or not all(_is_item(name, item) for item in value):
        raise _mistyped(name, "[]time.Duration" if name == "backoff" else "[]string")
    return value


def _is_item(name: str, item: object) -> bool:
    if name == "backoff":
        return isinstance(item, int) and not isinstance(item, bool) and -(1 << 63) <= item < 1 << 63
    return isinstance(item, str)


def _mistyped(name: str, go_type: str) -> ApiError:
    where = f"CreateConsumerRequest.config.{name}"
    return json_error(f"json: cannot unmarshal into Go struct field {where} of type {go_type}")


def _complete(fields: Mapping[str, object]) -> ConsumerConfig:
    """Defaults where nothing (or JetStream's zero) was given."""
    # `_parse` has checked the type of each.
    chosen: dict[str, Any] = {name: value for name, value in fields.items() if name in _ORDER}
    for name in ("backoff", "filter_subjects", "priority_groups"):
        chosen[name] = tuple(chosen.get(name) or [])
    chosen["metadata"] = {
        key: value for key, value in chosen.get("metadata", {}).items() if key not in _ECHOED
    }
    config = ConsumerConfig(**chosen)
    backoff, acknowledges = config.backoff, config.acknowledges
    default_wait = ACK_WAIT if acknowledges else 0
    pending = config.max_ack_pending or (MAX_ACK_PENDING if acknowledges else 0)
    ephemeral = not config.durable_name
    if config.priority_policy == "none":
        config = replace(config, priority_policy="")
    if config.priority_policy == "pinned_client" and config.priority_timeout <= 0:
        config = replace(config, priority_timeout=PRIORITY_TIMEOUT)
    return replace(
        config,
        ack_wait=backoff[0] if backoff else config.ack_wait or default_wait,
        max_deliver=config.max_deliver if config.max_deliver > 0 else -1,
        max_ack_pending=-1 if pending < 0 else pending,
        max_waiting=(config.max_waiting if config.max_waiting > 0 else MAX_WAITING)
        if config.is_pull
        else max(0, config.max_waiting),
        max_batch=max(0, config.max_batch),
        max_expires=max(0, config.max_expires),
        max_bytes=max(0, config.max_bytes),
        inactive_threshold=config.inactive_threshold
        if config.inactive_threshold > 0
        else (INACTIVE_THRESHOLD if ephemeral else 0),
        pause_until="" if config.pause_until.startswith("0001-") else config.pause_until,
    )


_ECHOED: Final = frozenset({"_nats.level", "_nats.req.level", "_nats.ver"})
