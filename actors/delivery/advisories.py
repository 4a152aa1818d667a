"""Advisories: what happened to streams and consumers, told to whoever listens.

While nobody does, one costs a look into the table of subscriptions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ..stream.views import rfc3339

if TYPE_CHECKING:
    import random

    from ..world import Clock
    from .stream import Carrier

__all__ = ["ACCOUNT", "LETTERS", "Advisories"]

ACCOUNT: Final = "$G"
"""What the account with the streams is called."""
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
PREFIX: Final = "$JS.EVENT.ADVISORY."
TYPE_PREFIX: Final = "io.nats.jetstream.advisory.v1."
ID_LETTERS: Final = 22


class Advisories:
    """Tells them.

    Args:
        carrier: takes them to clients, and into the stream that keeps them.
        domain: JetStream's, if it has one.
    """

    def __init__(
        self, carrier: Callable[[], Carrier], clock: Clock, rng: random.Random, domain: str = ""
    ) -> None:
        self._carrier = carrier
        self._clock = clock
        self._random = rng
        self._domain = {"domain": domain} if domain else {}

    def draw_id(self) -> str:
        """As advisories and pinned clients have one."""
        return "".join(self._random.choices(LETTERS, k=ID_LETTERS))

    def tell(self, name: str, kind: str, /, **fields: object) -> None:
        """Tell whoever listens to `$JS.EVENT.ADVISORY.<name>`."""
        to = f"{PREFIX}{name}".encode()
        carrier = self._carrier()
        if not carrier.is_wanted(to):
            return
        advisory = {
            "type": f"{TYPE_PREFIX}{kind}",
            "id": self.draw_id(),
            "timestamp": rfc3339(self._clock.wall()),
            **fields,
            **self._domain,
        }
        carrier.tell(to, json.dumps(advisory, separators=(",", ":"), ensure_ascii=False).encode())

    def stream(self, stream: str, event: str, action: str) -> None:
        """A stream was created, modified or deleted."""
        self.tell(f"STREAM.{event}.{stream}", "stream_action", stream=stream, action=action)

    def consumer(self, stream: str, consumer: str, event: str, action: str) -> None:
        """A consumer was created or deleted."""
        subject = f"CONSUMER.{event}.{stream}.{consumer}"
        self.tell(subject, "consumer_action", stream=stream, consumer=consumer, action=action)

    def api(
        self,
        server: str,
        client: Mapping[str, object],
        connected: float,
        subject: str,
        request: bytes,
        response: bytes,
    ) -> None:
        """A client's request to JetStream was answered."""
        began = rfc3339(self._clock.wall() - int(connected * 1e9))
        who = {"start": began, **client, "server": server, "kind": "Client", "client_type": "nats"}
        asked = {"request": request.decode(errors="replace")} if request else {}
        answered = response.decode(errors="replace")
        self.tell("API", "api_audit", server=server, client=who, subject=subject, **asked, response=answered)

    def elected(self, stream: str, leader: str, replicas: Sequence[object]) -> None:
        """A stream has another leader."""
        subject = f"STREAM.LEADER_ELECTED.{stream}"
        self.tell(subject, "stream_leader_elected", stream=stream, leader=leader, replicas=list(replicas))
