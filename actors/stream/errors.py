"""What a stream refuses, in JetStream's words, and what it finds wrong with itself."""

from __future__ import annotations

from typing import Final


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

    def to_json(self) -> dict[str, object]:
        """The `error` object of a response."""
        return {"code": self.code, "err_code": self.err_code, "description": self.description}


class DamagedRecord(Exception):
    """The disk does not give a stored message back: it is never served and never skipped."""

    def __init__(self, stream: str, file: str, offset: int, sequence: int, reason: str) -> None:
        super().__init__(f"stream {stream}, sequence {sequence}: {reason} (file {file}, offset {offset})")
        self.stream = stream
        self.file = file
        self.offset = offset
        self.sequence = sequence


class StateDamaged(Exception):
    """A captured state contradicts itself or its files: this replica can't start from it."""


# err_code -> (code, description); the texts with braces take the number that comes with a refusal.
ERRORS: Final[dict[int, tuple[int, str]]] = {
    10003: (400, "bad request"),
    10005: (400, "no suitable peers for placement"),
    10025: (400, "invalid JSON"),
    10037: (404, "no message found"),
    10043: (400, "sequence {} not found"),
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
    10097: (400, "header size exceeds maximum allowed of 64k"),
    10109: (400, "invalid operation on sealed stream"),
    10110: (500, "stream purge not permitted"),
    10111: (500, "rollup not permitted"),
    10128: (400, "Stream name can not contain path separators"),
    10133: (400, "replicas count cannot be negative"),
    10165: (400, "invalid per-message TTL"),
    10166: (400, "per-message TTL is disabled"),
    10168: (400, "message counters is disabled"),
    10174: (400, "atomic publish is disabled"),
    10188: (400, "message schedules is disabled"),
    10193: (400, "missing sequence for expected last sequence per subject"),
}

# Refusals of which one code has several texts: (err_code, detail) -> description.
MAXIMUM_MESSAGES: Final = 0
MAXIMUM_BYTES: Final = 1
MAXIMUM_PER_SUBJECT: Final = 2
BEYOND_LAST: Final = 1
DELETE_DENIED: Final = 2
ROLLUP_INVALID: Final = 1
VARIANTS: Final[dict[tuple[int, int], str]] = {
    (10077, MAXIMUM_BYTES): "maximum bytes exceeded",
    (10077, MAXIMUM_PER_SUBJECT): "maximum messages per subject exceeded",
    (10057, BEYOND_LAST): "stream store EOF",
    (10057, DELETE_DENIED): "message delete not permitted",
    (10111, ROLLUP_INVALID): "rollup value invalid",
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
