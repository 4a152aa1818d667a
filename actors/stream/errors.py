"""What a stream refuses, in JetStream's words, and what it finds wrong with itself."""

from __future__ import annotations

from typing import Final

from ..replica.machine import StateUnusable


class ApiError(Exception):
    """A request was refused: the caller's error, with the codes and text that NATS clients know."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        """As in HTTP: 4xx the request is wrong, 5xx it can't be done."""
        self.err_code = err_code
        self.description = description

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiError) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.code, self.err_code, self.description))

    def __repr__(self) -> str:
        return f"ApiError({self.code}, {self.err_code}, {self.description!r})"

    def fresh(self) -> ApiError:
        """An equal one, to be raised. An object that is raised again and again keeps the traceback of each
        time, and with it all that lay in those frames: what a client had sent, for instance."""
        return ApiError(self.code, self.err_code, self.description)

    def to_json(self) -> dict[str, object]:
        """The `error` object of a response."""
        return {"code": self.code, "err_code": self.err_code, "description": self.description}


class DamagedRecord(StateUnusable):
    """The disk does not give a stored message back: it is never served and never skipped."""

    def __init__(self, stream: str, file: str, offset: int, sequence: int, reason: str) -> None:
        super().__init__(f"stream {stream}, sequence {sequence}: {reason} (file {file}, offset {offset})")
        self.stream = stream
        self.file = file
        self.offset = offset
        self.sequence = sequence


class StateDamaged(StateUnusable):
    """A captured state contradicts itself or its files: this replica can't start from it."""


# err_code -> (code, description); the texts with braces take the number that comes with a refusal.
ERRORS: Final[dict[int, tuple[int, str]]] = {
    10002: (400, "resource limits exceeded for account"),
    10003: (400, "bad request"),
    10005: (400, "no suitable peers for placement"),
    10012: (500, "consumer can not be updated"),
    10013: (400, "consumer name already in use"),
    10014: (404, "consumer not found"),
    10017: (400, "consumer name in subject does not match durable name in request"),
    10018: (400, "consumer expected to be durable but a durable name was not set"),
    10025: (400, "invalid JSON"),
    10026: (400, "maximum consumers limit reached"),
    10027: (400, "maximum number of streams reached"),
    10028: (500, "insufficient memory resources available"),
    10037: (404, "no message found"),
    10043: (400, "sequence {} not found"),
    10047: (500, "insufficient storage resources available"),
    10052: (500, "invalid stream configuration"),
    10054: (400, "message size exceeds maximum allowed"),
    10056: (400, "stream name in subject does not match request"),
    10057: (500, "no message found"),
    10058: (400, "stream name already in use with a different configuration"),
    10059: (404, "stream not found"),
    10060: (400, "expected stream does not match"),
    10065: (400, "subjects overlap with an existing stream"),
    10070: (400, "wrong last msg ID"),
    10071: (400, "wrong last sequence: {}"),
    10074: (500, "replicas > 1 not supported in non-clustered mode"),
    10077: (503, "maximum messages exceeded"),
    10079: (400, "consumer deliver subject has wildcards"),
    10080: (400, "consumer in push mode can not set max waiting"),
    10081: (400, "consumer deliver subject forms a cycle"),
    10083: (400, "consumer idle heartbeat needs to be >= 100ms"),
    10084: (400, "consumer in pull mode requires explicit ack policy on workqueue stream"),
    10086: (400, "consumer in pull mode can not have rate limit set"),
    10088: (400, "consumer idle heartbeat requires a push based consumer"),
    10089: (400, "consumer flow control requires a push based consumer"),
    10098: (400, "workqueue stream requires explicit ack"),
    10099: (400, "multiple non-filtered consumers not allowed on workqueue stream"),
    10100: (400, "filtered consumer not unique on workqueue stream"),
    10101: (400, "consumer must be deliver all on workqueue stream"),
    10102: (400, "consumer name is too long, maximum allowed is {}"),
    10103: (400, "durable name can not contain '.', '*', '>'"),
    10105: (400, "consumer name already in use"),
    10107: (400, "consumer description is too long, maximum allowed is {}"),
    10108: (400, "consumer with flow control also needs heartbeats"),
    10097: (400, "header size exceeds maximum allowed of 64k"),
    10109: (400, "invalid operation on sealed stream"),
    10110: (500, "stream purge not permitted"),
    10111: (500, "rollup not permitted"),
    10112: (400, "invalid push consumer deliver subject"),
    10113: (400, "account requires a stream config to have max bytes set"),
    10115: (400, "consumer max request expires needs to be >= 1ms"),
    10116: (400, "max deliver is required to be > length of backoff values"),
    10122: (400, "stream max bytes exceeds account limit max stream bytes"),
    10127: (400, "Consumer name can not contain path separators"),
    10131: (400, "Consumer create request did not match filtered subject from create subject"),
    10136: (400, "consumer cannot have both FilterSubject and FilterSubjects specified"),
    10138: (400, "consumer subject filters cannot overlap"),
    10139: (400, "consumer filter in FilterSubjects cannot be empty"),
    10148: (400, "consumer already exists"),
    10149: (400, "consumer does not exist"),
    10183: (400, "consumer ack wait needs to be positive"),
    10128: (400, "Stream name can not contain path separators"),
    10133: (400, "replicas count cannot be negative"),
    10135: (400, "consumer metadata exceeds maximum size of 128KB"),
    10159: (400, "Setting PriorityPolicy requires at least one PriorityGroup to be set"),
    10160: (400, "Provided priority group does not exist for this consumer"),
    10161: (400, "Group name cannot be an empty string"),
    10162: (
        400,
        "Valid priority group name must match A-Z, a-z, 0-9, -_/=)+ and may not exceed 16 characters",
    ),
    10164: (400, "wrong last sequence"),
    10165: (400, "invalid per-message TTL"),
    10166: (400, "per-message TTL is disabled"),
    10168: (400, "message counters is disabled"),
    10174: (400, "atomic publish is disabled"),
    10175: (400, "atomic publish sequence is missing"),
    10176: (400, "atomic publish batch is incomplete"),
    10177: (400, "atomic publish unsupported header used: Nats-Expected-Last-Msg-Id"),
    10178: (400, "priority groups can not be used with push consumers"),
    10179: (400, "atomic publish batch ID is invalid"),
    10188: (400, "message schedules is disabled"),
    10193: (400, "missing sequence for expected last sequence per subject"),
    10196: (400, "consumer can not have priority groups when policy is none"),
    10197: (400, "PinnedTTL cannot be set when PriorityPolicy is none"),
    10199: (400, "atomic publish batch is too large: {}"),
    10200: (400, "atomic publish batch commit is invalid"),
    10201: (400, "atomic publish batch contains duplicate message id"),
    10210: (429, "atomic publish too many inflight"),
}

# Refusals of which one code has several texts: (err_code, detail) -> description.
MAXIMUM_MESSAGES: Final = 0
MAXIMUM_BYTES: Final = 1
MAXIMUM_PER_SUBJECT: Final = 2
BEYOND_LAST: Final = 1
DELETE_DENIED: Final = 2
ROLLUP_INVALID: Final = 1
FIXED_IN_CONSUMERS: Final = (
    "can not update pull consumer to push based",
    "can not update push consumer to pull based",
    "deliver policy can not be updated",
    "start sequence can not be updated",
    "start time can not be updated",
    "ack policy can not be updated",
    "replay policy can not be updated",
    "heart beats can not be updated",
    "flow control can not be updated",
    "max waiting can not be updated",
    "storage type can not be updated",
)
"""Why a consumer's update is refused (10012): the detail is the position here."""
VARIANTS: Final[dict[tuple[int, int], str]] = {
    (10077, MAXIMUM_BYTES): "maximum bytes exceeded",
    (10077, MAXIMUM_PER_SUBJECT): "maximum messages per subject exceeded",
    (10057, BEYOND_LAST): "stream store EOF",
    (10057, DELETE_DENIED): "message delete not permitted",
    (10111, ROLLUP_INVALID): "rollup value invalid",
    **{(10012, number): text for number, text in enumerate(FIXED_IN_CONSUMERS)},
}


def api_error(err_code: int, detail: int = 0) -> ApiError:
    """The error of a code, with the number that its text names."""
    code, description = ERRORS[err_code]
    return ApiError(code, err_code, VARIANTS.get((err_code, detail), description).format(detail))


def configuration_error(description: str) -> ApiError:
    """What is wrong with a stream's configuration, in one sentence."""
    return ApiError(500, 10052, description)


def json_error(description: str) -> ApiError:
    """What is wrong with a request's JSON."""
    return ApiError(400, 10025, f"invalid JSON: {description}")
