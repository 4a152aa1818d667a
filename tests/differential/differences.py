"""The differences to the reference that stay, each with a script whose last answer shows it.

The names are those of the table in docs/jetstream.md, which has the reasons.
"""

from __future__ import annotations

from typing import Final

from tests.differential.script import Command


def stream(**fields: object) -> Command:
    return ("api", "STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], **fields})


def update(**fields: object) -> Command:
    return ("api", "STREAM.UPDATE.S", {"name": "S", "subjects": ["s.>"], **fields})


def publish(subject: str = "s.1", payload: str = "m", **headers: str) -> Command:
    return ("publish", subject, {name.replace("_", "-"): value for name, value in headers.items()}, payload)


def consumer(**fields: object) -> Command:
    return ("api", "CONSUMER.CREATE.S.c", {"stream_name": "S", "config": {"durable_name": "c", **fields}})


INFO: Final[Command] = ("api", "STREAM.INFO.S", None)
CONSUMER_INFO: Final[Command] = ("api", "CONSUMER.INFO.S.c", None)

DIFFERENCES: Final[dict[str, list[Command]]] = {
    "`cluster` in information": [stream(), INFO],
    "texts of error 10025": [("raw", "$JS.API.STREAM.CREATE.S", '{"name":}')],
    "error 10070": [stream(), publish(Nats_Expected_Last_Msg_Id="a")],
    "error 10111": [stream(allow_rollup_hdrs=True), publish(Nats_Rollup="x")],
    "a duplicate with an expectation": [
        stream(),
        publish(Nats_Msg_Id="a"),
        publish(Nats_Msg_Id="a", Nats_Expected_Last_Sequence="0"),
    ],
    "several expectations that fail": [
        stream(),
        *[publish()] * 2,
        publish("s.2", Nats_Expected_Last_Sequence="1", Nats_Expected_Last_Subject_Sequence="3"),
    ],
    "too large, and not as expected": [
        stream(max_msg_size=2),
        publish(payload="long", Nats_Expected_Stream="T"),
    ],
    "a lower limit, discarding new": [
        stream(discard="new"),
        *[publish()] * 3,
        update(discard="new", max_msgs=1),
        INFO,
    ],
    "interest of nobody": [stream(retention="interest"), publish(Nats_TTL="x")],
    "`bytes` of memory streams": [stream(storage="memory"), publish(), INFO],
    "`deleted` of an empty stream": [stream(), ("api", "STREAM.INFO.S", {"deleted_details": True})],
    "a roll-up and consumers": [
        stream(allow_rollup_hdrs=True),
        consumer(),
        publish(),
        publish(Nats_Rollup="sub"),
        CONSUMER_INFO,
    ],
    "`max_bytes` of a pull request": [
        stream(),
        publish(Key="value"),
        consumer(),
        ("pull", "S.c", 1, {"max_bytes": 70}),
    ],
    "`mirror_direct` of an update": [stream(), update(mirror_direct=True)],
    "a purge that is no JSON": [stream(), publish(), ("raw", "$JS.API.STREAM.PURGE.S", "bad")],
    "`min_last_seq` of a direct get": [
        stream(allow_direct=True),
        publish(),
        ("direct", "S", {"seq": 1, "min_last_seq": 2}),
    ],
}
