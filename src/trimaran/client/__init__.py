"""A small NATS client for Trio: what the demo, the benchmark and the examples talk to a cluster with.

    async with connect("127.0.0.1:4222", "127.0.0.1:4223") as client:
        await client.create_stream("ORDERS", ["orders.>"], replicas=3)
        ack = await client.jetstream_publish("orders.new", b"42")
        async with client.publisher(window=1000) as publisher:
            for number in range(10_000):
                await publisher.publish("orders.new", str(number).encode())

It knows several servers. When a connection breaks, everything that waits for an answer ends with a typed
error at once; the next operation (or, while there are subscriptions, the client by itself) connects to the
next server and subscribes again. Nothing is sent a second time by the client: a message whose fate is not
known is reported as `Unknown`, and whether to repeat it is the caller's decision (with a `Nats-Msg-Id`, that
is safe).

Answers are awaited for the client's `request_timeout`; for a shorter wait use `trio.fail_after`.
"""

from .client import Client, connect
from .connection import ServerAddress
from .errors import (
    OUTCOME_UNKNOWN,
    Closed,
    ConnectFailed,
    Disconnected,
    JetStreamError,
    NatsError,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
    ServerError,
)
from .messages import Message, Outcome, PubAck, Refused, Stored, Unknown
from .publisher import PendingAck, Publisher
from .subscription import Subscription

__all__ = [
    "Client",
    "Closed",
    "ConnectFailed",
    "Disconnected",
    "JetStreamError",
    "Message",
    "NatsError",
    "NoResponders",
    "OUTCOME_UNKNOWN",
    "Outcome",
    "PayloadTooLarge",
    "PendingAck",
    "PubAck",
    "Publisher",
    "Refused",
    "RequestTimeout",
    "ServerAddress",
    "ServerError",
    "Stored",
    "Subscription",
    "Unknown",
    "connect",
]
