"""Delivery for one stream: the actor that serves its consumers while this node leads the stream's group.

    MSG.NEXT, acknowledgements -> LedConsumer (who gets what) -> entry in the log -> applied -> messages out

Deliveries of durable consumers are proposed as one entry and sent when it is applied; acknowledgements that
came together are one entry too. When the leadership ends, whoever waits is told, and nothing of what only the
leader knew outlives it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from ..raft.outcomes import Applied, Outcome
from ..replica.group import NotDone
from ..stream import commands
from ..stream.config import transform_of
from ..stream.consumer import Consumer
from ..stream.consumer_config import ConsumerConfig
from ..stream.consumers import begin, select
from ..stream.errors import DamagedRecord
from ..stream.results import unpack
from ..stream.views import rfc3339
from ..strict_json import BadJson, read_json
from .advisories import ACCOUNT, LETTERS
from .hungry import Hungry
from .led import LedConsumer, Pick, Plan
from .pulls import Refused, read_pull, status

if TYPE_CHECKING:
    import random

    from ..replica.group import Group
    from ..stream.machine import News, StoredMessage, StreamMachine
    from ..stream.selection import Selection
    from ..stream.transforms import SubjectTransform
    from ..world import Clock
    from .advisories import Advisories
    from .room import Room

__all__ = ["Carrier", "ClientMessage", "StreamDelivery"]

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.05
"""After a proposal that was not taken."""


class Carrier(Protocol):
    """The gateway: takes messages to whoever subscribes, on this node or another. Never waits."""

    def listens(self, subject: bytes) -> bool: ...

    def carry(self, to: bytes, subject: bytes, reply: bytes, header_size: int, body: bytes) -> bool:
        """Deliver to the subscribers of `to` a message that shows `subject`; False: nobody listens."""

    def is_wanted(self, subject: bytes) -> bool:
        """Whether `tell` would reach anybody."""

    def tell(self, subject: bytes, body: bytes) -> None:
        """Publish a message that nobody answers for, also into the stream that takes its subject."""


NEXT_WORD: Final = b"+NXT"
"""An acknowledgement that is a pull request at once."""


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """What a client sent to a stream's leader: a MSG.NEXT, an acknowledgement, a direct get, or an answer to
    flow control."""

    kind: str
    """`next`, `ack`, `direct` or `flow`."""
    consumer: str
    """Empty for a direct get."""
    tokens: tuple[str, ...]
    """Of the subject, behind the consumer's (or stream's) name."""
    reply: bytes
    payload: bytes

    @property
    def size(self) -> int:
        """Bytes of what the client wrote."""
        words = len(self.consumer) + sum(map(len, self.tokens))
        return len(self.payload) + len(self.reply) + words

    def subject(self, stream: str) -> str:
        """What it was published to."""
        return ".".join(
            (_PREFIXES[self.kind], stream, *(each for each in (self.consumer, *self.tokens) if each))
        )

    @property
    def pull(self) -> bytes | None:
        """What is asked for, if it asks for messages: by a MSG.NEXT, or behind an acknowledgement's word."""
        if self.kind == "next":
            return self.payload
        if self.kind == "ack" and (words := self.payload.strip()).startswith(NEXT_WORD):
            return words[len(NEXT_WORD) :].strip()
        return None


_PREFIXES: Final = {
    "next": "$JS.API.CONSUMER.MSG.NEXT",
    "ack": "$JS.ACK",
    "direct": "$JS.API.DIRECT.GET",
    "flow": "$JS.FC",
}


class StreamDelivery:
    """Serves one stream's consumers during one leadership. `run` ends with it.

    Args:
        carrier: takes messages to clients.
        room: for what comes before consumers are served.
    """

    def __init__(
        self,
        group: Group,
        machine: StreamMachine,
        carrier: Carrier,
        clock: Clock,
        rng: random.Random,
        advisories: Advisories,
        room: Room,
    ) -> None:
        self.group = group
        self.ready = trio.Event()
        """Set once consumers are served; an early end sets it too."""
        self.ended = False
        self.advisories = advisories
        self._machine = machine
        self._carrier = carrier
        self._clock = clock
        self._random = rng
        self.term = group.state.term
        self._led: dict[str, LedConsumer] = {}
        self._logged: dict[int, LedConsumer] = {}
        """Those of them that are in the log, by number."""
        self._seen = (-1, 0)
        """Epoch and number of the `Consumers.changes` that `_led` has followed."""
        self._looked_to = machine.messages.last
        """The last message that hungry consumers were woken for."""
        self._removals = machine.consumers.removals
        """The `Consumers.removals` that consumers in no log have heard of."""
        self._dirty: dict[LedConsumer, None] = {}
        self._hungry = Hungry()
        """Consumers whose clients would take a message."""
        self._alarms: list[tuple[float, int, LedConsumer]] = []
        self._numbers = itertools.count()
        self._republisher: tuple[Mapping[str, object], SubjectTransform] | None = None
        self._room = room
        self._early: list[ClientMessage] = []
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None

    # --- life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until cancelled, or until the group is not led from here any more."""
        try:
            await self._await_own_term()
            self._machine.on_applied = self._on_applied
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._follow()
                self.ready.set()
                early, self._early = self._early, []
                self._room.leave(early)
                self.take(early)
                await self._serve()
        except NotDone as lost:
            logger.info("group %s: consumers are not served from here: %s", self.group.name, lost)
        finally:
            self.end()

    async def _await_own_term(self) -> None:
        """What this leader knows is complete once an entry of its own term is applied."""
        await self.group.read_barrier()

    async def _serve(self) -> None:
        while True:
            self._follow()
            now, wall = trio.current_time(), self._clock.wall()
            while self._alarms and self._alarms[0][0] <= now:
                led = heapq.heappop(self._alarms)[2]
                if led.alarm is not None and led.alarm <= now:
                    led.alarm = None
                    self._dirty[led] = None
            dirty, self._dirty = self._dirty, {}
            for led in dirty:
                if self._led.get(led.consumer.name) is led:
                    self._look(led, now, wall)
            with trio.move_on_at(self._alarms[0][0] if self._alarms else float("inf")):
                await self._wake.wait()
            self._wake = trio.Event()

    def end(self) -> None:
        """Serve no more; whoever waits is told. Nothing happens the second time."""
        if self.ended:
            return
        self.ended = True
        self._nursery = None
        self._machine.on_applied = _nothing
        for led in self._led.values():
            for _ in led.end("Leadership Change"):
                pass
        self._room.leave(self._early)
        self._refuse(self._early)
        self._early.clear()
        self.ready.set()

    def _touch(self, led: LedConsumer) -> None:
        self._dirty[led] = None
        self._wake.set()

    def _on_applied(self) -> None:
        """The stream has new messages, or its consumers changed."""
        if self._machine.news:
            self._republish()
        if self._machine.consumers.removals != self._removals:
            self._forget_removed()
        self._wake_hungry()
        if self._dirty or self._consumers_changed():
            self._wake.set()

    def _wake_hungry(self) -> None:
        """Look at those consumers that may have got a message."""
        store, seen = self._machine.messages, self._looked_to
        self._looked_to = store.last
        if store.last > seen:
            named = store.subjects_from(seen + 1) if self._hungry.filtered else ()
            self._dirty.update(dict.fromkeys(self._hungry.wanting([store.name_of(each) for each in named])))

    def _forget_removed(self) -> None:
        """Messages were removed: consumers in the log know it already, the others hear it here.

        Who waited for an acknowledgement of one may go on."""
        machine = self._machine
        self._dirty.update(dict.fromkeys(self._hungry))
        self._removals = machine.consumers.removals
        for led in self._led.values():
            if led.volatile:
                first = machine.consumers.removed_before
                led.consumer.forget(machine.messages.has, first, self._clock.wall())

    def _republish(self) -> None:
        """Publish again what the last batch stored: once, by the leader that sees it applied, or never."""
        config = self._machine.config
        if config is None or not config.republish:
            return
        if self._republisher is None or self._republisher[0] != config.republish:
            self._republisher = (config.republish, transform_of(config.republish))
        transform, headers_only = self._republisher[1], config.republish.get("headers_only") is True
        for news in self._machine.news:
            subject = transform(news.subject)
            if subject is not None and self._carrier.listens(subject):
                header, body = _republished(self._machine.name, news, headers_only)
                self._carrier.carry(subject, subject, b"", len(header), header + body)

    def listeners_changed(self) -> None:
        """Somebody subscribed or left: push consumers look whether it was theirs."""
        for led in self._led.values():
            if not led.consumer.config.is_pull:
                self._dirty[led] = None
        self._wake.set()

    # --- which consumers there are ------------------------------------------------------------------------

    def _consumers_changed(self) -> bool:
        consumers = self._machine.consumers
        return (consumers.epoch, len(consumers.changes)) != self._seen

    def _follow(self) -> None:
        """Serve the consumers that the log now has, and no others."""
        if not self._consumers_changed():
            return
        consumers = self._machine.consumers
        epoch, seen = self._seen
        if consumers.epoch == epoch:
            numbers = set(consumers.changes[seen:])
        else:
            numbers = {led.consumer.number for led in self._logged.values()} | {
                each.number for each in consumers
            }
        self._seen = (consumers.epoch, len(consumers.changes))
        for number in sorted(numbers):
            self._follow_one(number, consumers.numbered(number))

    def _follow_one(self, number: int, consumer: Consumer | None) -> None:
        led = self._logged.get(number)
        if consumer is None:
            if led is not None:
                del self._logged[number]
                self._drop(led)
        elif led is None:
            self._logged[number] = self._lead(consumer, volatile=False)
            self._advise_made(consumer)
        else:
            led.selection = self._select(consumer.config)
            if consumer.config.priority_policy != "pinned_client":
                led.pin = None
            self._touch(led)

    def _lead(self, consumer: Consumer, *, volatile: bool) -> LedConsumer:
        now = trio.current_time()
        led = LedConsumer(
            consumer,
            self._select(consumer.config),
            self._machine.messages,
            self._machine.name,
            volatile=volatile,
            listens=self._carrier.listens,
            send=self._status,
            draw=self.advisories.draw_id,
            pinned=partial(self._advise_pin, consumer),
            now=now,
        )
        led.take_over(now, self._clock.wall())
        self._led[consumer.name] = led
        self._touch(led)
        return led

    def _select(self, config: ConsumerConfig) -> Selection:
        stream = self._machine.config
        assert stream is not None
        return select(self._machine.messages, config, stream)

    def _drop(self, led: LedConsumer) -> None:
        if self._led.get(led.consumer.name) is led:
            del self._led[led.consumer.name]
        self._hungry.discard(led)
        for _ in led.end("Consumer Deleted"):
            pass
        self.advisories.consumer(self._machine.name, led.consumer.name, "DELETED", "delete")

    def find(self, name: str) -> LedConsumer | None:
        """The consumer of a name, whether the log knows it or this leader alone."""
        self._follow()
        return self._led.get(name)

    def names(self) -> list[str]:
        """Every consumer's name, sorted."""
        self._follow()
        return sorted(self._led)

    def new_name(self) -> str:
        """A name that no consumer has."""
        while True:
            name = "".join(self._random.choices(LETTERS, k=8))
            if name not in self._led:
                return name

    def create_volatile(self, name: str, config: ConsumerConfig) -> LedConsumer:
        """A consumer that lives here and in no log."""
        stream = self._machine.config
        assert stream is not None
        consumer = begin(0, name, config, self._machine.messages, stream, self._clock.wall())
        led = self._lead(consumer, volatile=True)
        self._advise_made(consumer)
        return led

    def _advise_made(self, consumer: Consumer) -> None:
        if self.ready.is_set():  # else it was there before this leader
            self.advisories.consumer(self._machine.name, consumer.name, "CREATED", "create")

    def change_volatile(self, led: LedConsumer, config: ConsumerConfig) -> None:
        """Give such a consumer another configuration."""
        led.consumer.config = config
        led.selection = self._select(config)
        self._touch(led)

    def delete_volatile(self, led: LedConsumer) -> None:
        """End such a consumer."""
        self._drop(led)

    # --- what clients send --------------------------------------------------------------------------------

    def take(self, messages: Sequence[ClientMessage]) -> None:
        """Act on what clients sent; acknowledgements that come together are proposed together."""
        if not self.ready.is_set():
            if self._room.enter(messages):
                self._early += messages
            else:
                self._refuse(messages)
            return
        acknowledged: dict[LedConsumer, list[int]] = {}
        answers: list[bytes] = []
        for message in messages:
            led = self.find(message.consumer)
            if led is None or (message.kind == "ack" and not led.consumer.config.acknowledges):
                self._nobody(message)
            elif message.kind == "next":
                self._pull(led, message)
            elif message.kind == "flow":
                self._confirm(led, message)
            else:
                self._acknowledge(led, message, acknowledged, answers)
        if acknowledged or answers:
            self._propose_acks(acknowledged, answers)

    def _refuse(self, messages: Sequence[ClientMessage]) -> None:
        for message in messages:
            self._status(message.reply, unserved(message))

    def _pull(self, led: LedConsumer, message: ClientMessage) -> None:
        config = led.consumer.config
        now = trio.current_time()
        if not message.reply:
            return
        if not config.is_pull:
            self._status(message.reply, status(409, "Consumer is push based"))
            return
        try:
            request = read_pull(message.payload, message.reply, config, now)
        except Refused as refusal:
            self._status(message.reply, status(refusal.code, refusal.text))
            return
        if len(led.waiting) >= config.max_waiting:
            led.look(now, self._clock.wall())
        if len(led.waiting) >= config.max_waiting:
            self._status(message.reply, status(409, "Exceeded MaxWaiting"))
            return
        led.used = now
        if led.is_stranger(request):
            self._status(message.reply, status(423, "Nats-Pin-Id mismatch"))
            return
        if request.pin:
            led.keep_pin(now)
        led.enqueue(request)
        self._touch(led)

    def _nobody(self, message: ClientMessage) -> None:
        """There is nobody to take it: the client is told as of a subject without subscribers."""
        about = message.subject(self._machine.name)
        self._status(message.reply, status(503, "", ("Nats-Subject", about)))

    def _confirm(self, led: LedConsumer, message: ClientMessage) -> None:
        """A client says that it has processed what was sent before a flow control request."""
        led.confirm(message.tokens)
        self._answer(message.reply)
        self._touch(led)

    def _acknowledge(
        self,
        led: LedConsumer,
        message: ClientMessage,
        acknowledged: dict[LedConsumer, list[int]],
        answers: list[bytes],
    ) -> None:
        sequence = _sequence(message.tokens)
        if sequence is None:
            return
        now = trio.current_time()
        led.used = now
        payload = message.payload.strip()
        word = payload[:4]
        if word == b"-NAK":
            led.negate(sequence, now, _delay(payload[4:]))
            self._answer(message.reply)
        elif word == b"+WPI":
            led.extend(sequence, now)
            self._answer(message.reply)
        elif word in (b"", b"+ACK", b"+OK", b"+TER", NEXT_WORD) or payload.startswith(b"+TERM"):
            acknowledged.setdefault(led, []).append(sequence)
            if led.consumer.config.ack_policy == "all":
                led.settle_up_to(sequence)
            led.settle([sequence])
            if (wanted := message.pull) is not None:
                self._pull(led, ClientMessage("next", message.consumer, (), message.reply, wanted))
            elif message.reply:
                answers.append(message.reply)
        self._touch(led)

    def _answer(self, reply: bytes) -> None:
        if reply:
            self._carrier.carry(reply, reply, b"", 0, b"")

    def _propose_acks(self, acknowledged: dict[LedConsumer, list[int]], answers: Sequence[bytes]) -> None:
        logged: list[tuple[int, list[int]]] = []
        for led, sequences in acknowledged.items():
            if led.volatile:
                led.consumer.acknowledge(sequences, self._clock.wall())
            else:
                logged.append((led.consumer.number, sequences))
        if not logged:
            self._acknowledged(acknowledged, answers, Applied(0))
            return
        chunk = commands.command_chunk(commands.acknowledge(logged))
        self.group.propose(chunk, partial(self._acknowledged, acknowledged, answers), self.term)

    def _acknowledged(
        self, acknowledged: dict[LedConsumer, list[int]], answers: Sequence[bytes], outcome: Outcome
    ) -> None:
        """Acknowledgements are in the log; or are not, and then what they were for falls due again."""
        if self.ended:
            return
        if isinstance(outcome, Applied):
            for reply in answers:
                self._answer(reply)
        else:
            now = trio.current_time()
            for led, sequences in acknowledged.items():
                for sequence in sequences:
                    if sequence in led.consumer.pending:
                        led.arm(sequence, now + led.consumer.config.ack_wait / 1e9)
        for led in acknowledged:
            self._touch(led)

    # --- what goes out ------------------------------------------------------------------------------------

    def _look(self, led: LedConsumer, now: float, wall: int) -> None:
        config = led.consumer.config
        if not config.is_pull:
            self._bind(led, now)
        led.look(now, wall)
        plan = led.plan(now, wall)
        if plan.gone or plan.exhausted:
            self._give_up(led, plan)
        if plan.picks:
            self._go(led, plan)
        else:
            self._send_all(plan.ends)
        if led.waits:
            self._hungry.add(led)
        else:
            self._hungry.discard(led)
        if led.inactive(now):
            self._retire(led)
            return
        self._set_alarm(led, now, wall)

    def _bind(self, led: LedConsumer, now: float) -> None:
        bound = self._carrier.listens(led.consumer.config.deliver_subject.encode())
        if bound != led.bound:
            led.bound = bound
            led.used = now
            led.next_beat = now + led.consumer.config.idle_heartbeat / 1e9
            led.restart_window()

    def _set_alarm(self, led: LedConsumer, now: float, wall: int) -> None:
        alarm = led.next_alarm(wall, now)
        if alarm is not None and (led.alarm is None or alarm < led.alarm):
            led.alarm = alarm
            heapq.heappush(self._alarms, (alarm, next(self._numbers), led))

    def _retire(self, led: LedConsumer) -> None:
        """Nobody uses it any more."""
        logger.debug("stream %s: consumer %s is inactive", self._machine.name, led.consumer.name)
        if led.volatile:
            self._drop(led)
        else:
            led.used = trio.current_time()
            chunk = commands.command_chunk(commands.delete_consumer(led.consumer.name))
            self.group.propose(chunk, lambda outcome: None, self.term)

    def _give_up(self, led: LedConsumer, plan: Plan) -> None:
        """Deliver these no more: the stream has them no more, or they were delivered as often as may be."""
        sequences = [*plan.gone, *plan.exhausted]
        if led.volatile:
            led.consumer.give_up(sequences, self._clock.wall())
            self._advise(led, plan.exhausted)
        else:
            chunk = commands.command_chunk(commands.give_up(led.consumer.number, sequences))
            self.group.propose(chunk, partial(self._gave_up, led, plan), self.term)

    def _gave_up(self, led: LedConsumer, plan: Plan, outcome: Outcome) -> None:
        """It is in the log that these are delivered no more; or is not, and then it is tried again."""
        if self.ended:
            return
        if isinstance(outcome, Applied):
            self._advise(led, plan.exhausted)
        else:
            again = trio.current_time() + RETRY_SECONDS
            for sequence in (*plan.gone, *plan.exhausted):
                if sequence in led.consumer.pending:
                    led.arm(sequence, again)
        self._touch(led)

    def _advise_pin(self, consumer: Consumer, pin: str, reason: str) -> None:
        """Tell whoever listens that a client of a group was pinned, or why it is no more."""
        stream, action = self._machine.name, "pinned" if pin else "unpinned"
        groups = consumer.config.priority_groups
        self.advisories.tell(
            f"CONSUMER.{action.upper()}.{stream}.{consumer.name}",
            f"consumer_group_{action}",
            account=ACCOUNT,
            stream=stream,
            consumer=consumer.name,
            group=groups[0] if groups else "",
            **({"pinned_id": pin} if pin else {"reason": reason}),
        )

    def unpin(self, led: LedConsumer) -> None:
        """An operator wants another client to get the messages."""
        led.unpin("admin")
        self._touch(led)

    def _advise(self, led: LedConsumer, exhausted: Iterable[int]) -> None:
        """Tell whoever listens that a message was given up."""
        stream, name = self._machine.name, led.consumer.name
        for sequence in exhausted:
            self.advisories.tell(
                f"CONSUMER.MAX_DELIVERIES.{stream}.{name}",
                "max_deliver",
                stream=stream,
                consumer=name,
                stream_seq=sequence,
                deliveries=led.consumer.config.max_deliver,
            )

    def _go(self, led: LedConsumer, plan: Plan) -> None:
        assert self._nursery is not None
        led.busy = True
        self._nursery.start_soon(self._deliver, led, plan)

    async def _deliver(self, led: LedConsumer, plan: Plan) -> None:
        """Note the deliveries, in the log if the consumer is in it, and send them once that is done."""
        picks = plan.picks
        sequences = [pick.sequence for pick in picks]
        try:
            messages = await self._machine.messages.read_many(sequences)
            first = await self._note(led, sequences)
            if first is not None:
                self._send(led, picks, messages, first)
        except (DamagedRecord, NotDone) as error:
            # What can't be read is not passed over: it goes out once it is mended, or from another leader.
            logger.warning("stream %s: no delivery to %s: %s", self._machine.name, led.consumer.name, error)
            led.give_back(picks)
            await trio.sleep(RETRY_SECONDS)
        finally:
            self._send_all(plan.ends)
            led.busy = False
            led.used = trio.current_time()
            self._touch(led)

    async def _note(self, led: LedConsumer, sequences: Sequence[int]) -> int | None:
        """The consumer sequence of the first one, or None if nothing was delivered."""
        if led.volatile:
            return led.consumer.deliver(sequences, self._clock.wall())
        chunk = commands.command_chunk(commands.deliver(led.consumer.number, sequences))
        applied = await self.group.propose_and_wait(chunk, self.term)
        assert isinstance(applied.result, bytes)
        result = unpack(applied.result, 0)
        return None if result.error is not None else result.value

    def _send(
        self,
        led: LedConsumer,
        picks: Sequence[Pick],
        messages: Sequence[StoredMessage | None],
        first: int,
    ) -> None:
        now = trio.current_time()
        consumer, config = led.consumer, led.consumer.config
        for position, (pick, message) in enumerate(zip(picks, messages, strict=True)):
            count = 1
            if config.acknowledges:
                known = consumer.pending.get(pick.sequence)
                if known is None:
                    continue  # acknowledged while it was on its way
                count = known.count
                led.arm(pick.sequence, now + config.wait_before(count) / 1e9)
            if message is None:
                continue
            reply = led.ack_subject(pick.sequence, count, first + position, message.time, pick.left)
            header, body = _shown(message, config.headers_only)
            if pick.request is not None and pick.request.pin:
                header = _with_pin(header, pick.request.pin)
            self._carrier.carry(pick.inbox, message.subject, reply, len(header), header + body)
            if pick.completes and pick.request is not None:
                self._status(pick.inbox, status(409, "Batch Completed", *pick.request.pending()))
        led.next_beat = now + config.idle_heartbeat / 1e9
        if config.flow_control:
            self._ask_flow(led)

    def _ask_flow(self, led: LedConsumer) -> None:
        """Ask a push consumer's client to say when it has processed what was sent."""
        asked = led.ask_flow(self._machine.name, self._random.getrandbits(16))
        if asked:
            subject = led.consumer.config.deliver_subject.encode()
            header = status(100, "FlowControl Request")
            self._carrier.carry(subject, subject, asked, len(header), header)

    def _send_all(self, ends: Sequence[tuple[bytes, bytes]]) -> None:
        for inbox, header in ends:
            self._status(inbox, header)

    def _status(self, inbox: bytes, header: bytes) -> None:
        if inbox and header:
            self._carrier.carry(inbox, inbox, b"", len(header), header)


def unserved(message: ClientMessage) -> bytes:
    """The status for a message that no leader will see; empty where a silence makes the client repeat it."""
    if message.pull is not None:
        return status(409, "Leadership Change")
    return status(503) if message.kind == "direct" else b""


def _shown(message: StoredMessage, headers_only: bool) -> tuple[bytes, bytes]:
    """Header block and body as a consumer's client gets them."""
    if not headers_only:
        return message.headers, message.payload
    lines = message.headers[:-2] if message.headers else b"NATS/1.0\r\n"
    return b"%bNats-Msg-Size: %d\r\n\r\n" % (lines, len(message.payload)), b""


def _with_pin(header: bytes, pin: str) -> bytes:
    """A header block that tells a pinned client its id."""
    return b"%bNats-Pin-Id: %b\r\n\r\n" % (header[:-2] if header else b"NATS/1.0\r\n", pin.encode())


def _republished(stream: str, news: News, headers_only: bool) -> tuple[bytes, bytes]:
    """Header block and body: the message, and where it came from."""
    lines = news.headers[:-2] if news.headers else b"NATS/1.0\r\n"
    block = b"%bNats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\n" % (
        lines,
        stream.encode(),
        news.subject,
        news.sequence,
    )
    block += b"Nats-Time-Stamp: %b\r\nNats-Last-Sequence: %d\r\n" % (rfc3339(news.time).encode(), news.before)
    if headers_only:
        return block + b"Nats-Msg-Size: %d\r\n\r\n" % len(news.payload), b""
    return block + b"\r\n", news.payload


def _sequence(tokens: tuple[str, ...]) -> int | None:
    """Which message an acknowledgement's subject means, or None if it means none."""
    digits = tokens[1] if len(tokens) > 1 else ""
    return int(digits) if _DIGITS.fullmatch(digits) else None


_DIGITS: Final = re.compile(r"[0-9]{1,18}")
"""More have no room in the log, and no stream has so many messages."""


def _delay(argument: bytes) -> float:
    """Seconds of a `-NAK {"delay": ns}`; 0 if there are none."""
    try:
        fields = read_json(argument)
    except BadJson:
        return 0.0
    delay = fields.get("delay") if isinstance(fields, dict) else None
    return max(0, delay) / 1e9 if isinstance(delay, int | float) else 0.0


def _nothing() -> None:
    """Nobody is to be told."""
