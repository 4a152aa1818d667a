"""Direct gets: answered by whichever replica is nearest to the client, and never from a state too old.

The reference lets any replica answer, with whatever it has. Here a replica first makes sure how new that is:
it asks the leader for a read index (`reads.py`), and what that showed holds for `FRESH_SECONDS`. So an answer
is at most that much behind, also from a leader that was cut off and doesn't know it yet. Where that is not
good enough the question is asked anew for each get, which makes it linearizable:

- in key-value buckets and object stores, where whoever reads has often just written;
- in streams whose metadata ask for it (`trimaran.reads`: `linearizable` or `replica`);
- where a request names a `min_last_seq` that this replica doesn't have.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ..replica.group import NotDone
from ..stream.errors import DamagedRecord
from ..stream.machine import StreamMachine
from .direct import Replaced, direct_get, read_request
from .pulls import status

if TYPE_CHECKING:
    from ..replica.group import Group
    from ..stream.config import StreamConfig
    from .direct import Request
    from .stream import Carrier, ClientMessage

__all__ = ["DirectGets"]

logger = logging.getLogger(__name__)

FRESH_SECONDS: Final = 1.0
"""How much may have been stored elsewhere before a get that its answer doesn't know of, in time."""
PATIENCE_SECONDS: Final = 3.0
"""How long a get waits for a leader's word, as a publish does."""
GETS_MAX: Final = 1024
"""Gets under way on this node; more are turned away, and clients try again."""
READS: Final = "trimaran.reads"
"""The key of a stream's metadata."""
LINEARIZABLE: Final = "linearizable"
BUCKETS: Final = ("KV_", "OBJ_")
"""How the names of key-value buckets' and object stores' streams begin."""


def is_linearizable(config: StreamConfig) -> bool:
    """Whether every direct get of a stream shows all that was acknowledged before it."""
    asked = config.metadata.get(READS)
    return asked == LINEARIZABLE if asked is not None else config.name.startswith(BUCKETS)


class DirectGets:
    """Answers from this node's replicas. Its tasks run in the nursery given to `serve_in`.

    Args:
        hosted: the replica of a group that this node has, or None.
        barrier: returns once that replica shows what was acknowledged before the call; LookupError, NotDone.
    """

    carrier: Carrier

    def __init__(
        self, hosted: Callable[[int], Group | None], barrier: Callable[[int], Awaitable[None]]
    ) -> None:
        self._hosted = hosted
        self._barrier = barrier
        self._fresh: dict[int, float] = {}
        """Group -> the newest moment whose acknowledgements its replica is known to show."""
        self._getting = 0
        self._nursery: trio.Nursery | None = None

    def serve_in(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def on_closed(self, group: int) -> None:
        """A group is not here any more: of one that comes back nothing is known."""
        self._fresh.pop(group, None)

    def take(self, group: int, message: ClientMessage) -> bool:
        """Answer a get, in time; False: this node has no replica that could."""
        machine = self._machine(group)
        if machine is None or self._nursery is None:
            return False
        config = machine.config
        assert config is not None
        if not config.allow_direct or self._getting >= GETS_MAX:
            self._nobody(machine.name, message)
        else:
            self._getting += 1
            self._nursery.start_soon(self._get, group, machine, message)
        return True

    def _machine(self, number: int) -> StreamMachine | None:
        """The machine of a replica that belongs to the stream, and has its state."""
        group = self._hosted(number)
        if group is None or group.failed or group.state.node not in group.state.membership.voters:
            return None
        machine = group.machine
        return machine if isinstance(machine, StreamMachine) and machine.config is not None else None

    async def _get(self, group: int, machine: StreamMachine, message: ClientMessage) -> None:
        try:
            wanted = message.tokens[0] if message.tokens else ""
            request = read_request(wanted, message.payload)
            if isinstance(request, bytes):
                self._status(message.reply, request)
                return
            with trio.fail_after(PATIENCE_SECONDS):
                await self._freshen(group, machine, request)
            await direct_get(machine, request, partial(self._respond, message.reply))
        except (Replaced, NotDone, LookupError, trio.TooSlowError) as error:
            logger.info("stream %s: no answer to a direct get: %s", machine.name, error)
            self._nobody(machine.name, message)
        except DamagedRecord as damage:
            logger.error("%s", damage)
            self._status(message.reply, status(500, "Message Damaged"))
        finally:
            self._getting -= 1

    async def _freshen(self, group: int, machine: StreamMachine, request: Request) -> None:
        """Return once the replica is new enough for a request."""
        now = trio.current_time()
        config = machine.config
        if (
            config is not None
            and not is_linearizable(config)
            and now - self._fresh.get(group, float("-inf")) < FRESH_SECONDS
            and request.min_last_seq <= machine.messages.last
        ):
            return
        await self._barrier(group)
        self._fresh[group] = max(now, self._fresh.get(group, now))

    def _nobody(self, stream: str, message: ClientMessage) -> None:
        """There is nobody to take it: the client is told as of a subject without subscribers."""
        self._status(message.reply, status(503, "", ("Nats-Subject", message.subject(stream))))

    def _status(self, reply: bytes, header: bytes) -> None:
        self._respond(reply, header, b"")

    def _respond(self, reply: bytes, header: bytes, body: bytes) -> bool:
        return bool(reply) and self.carrier.carry(reply, reply, b"", len(header), header + body)
