"""Questions between nodes, with one answer each: a small pending table over links that may die at any moment.

Whoever asks waits for one of three ends: an answer, the peer's refusal, or the loss of the link. A question
is never sent twice.
"""

import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

import msgpack
import trio

from .wire import MAX_U64, FrameKind

logger = logging.getLogger(__name__)

Handler = Callable[[int, object], Awaitable[object]]
"""(asking node's id, argument) -> msgpack-able answer. Raises Refusal to say no.

What it asks of a third node may end as PeerLost or TooSlowError: that refuses the question as well.
"""

Shape = type | tuple[type, ...]
"""What a question or an answer must be: of this type, or a list with one value of each type. `object` is
anything, to be checked by whoever takes it."""

HANDLER_SECONDS: Final = 30.0
"""Longer than anybody waits for an answer: what can't be answered must not take a place for good."""

FINE: Final = "fine"
REFUSED: Final = "refused"
ELSEWHERE: Final = "elsewhere"


class Refusal(Exception):
    """The answering node said no; its text says why."""


class NotHere(Refusal):
    """The node that was asked is not, or no longer, the one to answer; nothing was done."""


class Malformed(Refusal):
    """What came over the link is no question or answer of its kind: the other node is to blame."""


class PeerLost(Exception):
    """The link went down before an answer came: whether the peer acted on the question is unknown."""


def shaped(value: object, shape: Shape) -> object:
    """The value, which has this shape. Raises Malformed. An int is a u64, as everywhere between nodes."""
    if isinstance(shape, tuple):
        if not isinstance(value, list) or len(value) != len(shape):
            raise Malformed("a wrong number of fields")
        return [shaped(each, kind) for each, kind in zip(value, shape, strict=True)]
    if shape is not object and type(value) is not shape:
        raise Malformed(f"a {type(value).__name__} in place of a {shape.__name__}")
    if shape is int and not 0 <= cast(int, value) <= MAX_U64:
        raise Malformed("a number out of range")
    return value


def describe(error: Exception) -> str:
    """An error for a log line, also one without a text."""
    return str(error) or type(error).__name__


class Frames(Protocol):
    """The part of the node that carries frames (`Peers`)."""

    def is_up(self, peer: int) -> bool: ...
    def send(self, peer: int, kind: FrameKind, envelope: tuple[object, ...], *attachments: bytes) -> bool: ...


class Requests:
    """Asks other nodes and answers them. Handlers run in the nursery of `run`, bounded by `limit`.

    `first_number` is drawn at each start of the process, so that a late answer to an earlier one of this node
    passes for none of its own.
    """

    def __init__(self, peers: Frames, first_number: int, limit: int = 1024) -> None:
        self._peers = peers
        self._numbers = itertools.count(first_number)
        self._pending: dict[int, tuple[int, trio.Event, list[object]]] = {}
        self._handlers: dict[str, tuple[Handler, Shape]] = {}
        self._limit = limit
        self._running = 0
        self._nursery: trio.Nursery | None = None

    def handle(self, method: str, handler: Handler, shape: Shape) -> None:
        """Who answers questions of a kind, and what their argument must be."""
        self._handlers[method] = (handler, shape)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # peers may still ask while the node ends

    async def ask(
        self, peer: int, method: str, argument: object, seconds: float, shape: Shape = object
    ) -> object:
        """Ask one node. Raises Refusal (Malformed, if the answer is not of this shape), PeerLost, or
        trio.TooSlowError after `seconds`."""
        number = next(self._numbers)
        done, slot = trio.Event(), cast(list[object], [])
        self._pending[number] = (peer, done, slot)
        try:
            packed = cast(bytes, msgpack.packb(argument))
            if not self._peers.send(peer, FrameKind.ASK, (number, method), packed):
                raise PeerLost
            with trio.fail_after(seconds):
                await done.wait()
        finally:
            self._pending.pop(number, None)
        if not slot:
            raise PeerLost
        verdict, answer = cast(tuple[str, object], slot[0])
        if verdict == FINE:
            return shaped(answer, shape)
        raise (NotHere if verdict == ELSEWHERE else Refusal)(str(answer))

    def on_peer_down(self, peer: int) -> None:
        """Every question to that peer ends as lost."""
        for asked, done, _ in self._pending.values():
            if asked == peer:
                done.set()

    def on_ask(self, peer: int, envelope: list[object], attachment: memoryview) -> None:
        number, method = cast(tuple[int, str], tuple(envelope))
        if self._nursery is None or self._running >= self._limit:
            self._reply(peer, number, REFUSED, "busy")
            return
        self._running += 1
        self._nursery.start_soon(self._answer, peer, number, method, bytes(attachment))

    def on_answer(self, peer: int, envelope: list[object], attachment: memoryview) -> None:
        number, verdict = cast(tuple[int, str], tuple(envelope))
        waiting = self._pending.get(number)
        if waiting is not None and waiting[0] == peer:  # else whoever asked has gone, or asked another node
            waiting[2].append((verdict, msgpack.unpackb(attachment, strict_map_key=False)))
            waiting[1].set()

    async def _answer(self, peer: int, number: int, method: str, packed: bytes) -> None:
        try:
            if method not in self._handlers:
                raise Refusal(f"this node does not answer {method!r:.80}")
            handler, shape = self._handlers[method]
            argument = shaped(_unpack(packed), shape)
            with trio.fail_after(HANDLER_SECONDS):
                answer = await handler(peer, argument)
        except NotHere as refusal:
            self._reply(peer, number, ELSEWHERE, str(refusal))
        except Refusal as refusal:
            self._reply(peer, number, REFUSED, str(refusal))
        except trio.TooSlowError:
            self._reply(peer, number, REFUSED, "too slow")
        except PeerLost:
            self._reply(peer, number, REFUSED, "a node that had to be asked as well was lost")
        except (TypeError, ValueError, LookupError) as error:
            # The argument is not of the shape that the question has: the peer is to blame, not this node.
            logger.warning("question %r of %016x: %s", method, peer, describe(error))
            self._reply(peer, number, REFUSED, "the question makes no sense here")
        else:
            self._reply(peer, number, FINE, answer)
        finally:
            self._running -= 1

    def _reply(self, peer: int, number: int, verdict: str, answer: object) -> None:
        # A lost link is the asker's to notice; the answer is then nobody's.
        self._peers.send(peer, FrameKind.ANSWER, (number, verdict), cast(bytes, msgpack.packb(answer)))


def _unpack(packed: bytes) -> object:
    """A question's argument. Raises Malformed."""
    try:
        return cast(object, msgpack.unpackb(packed, strict_map_key=False))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Malformed(f"no msgpack: {error}") from error
