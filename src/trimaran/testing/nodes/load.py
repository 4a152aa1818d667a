"""The clients of a simulated cluster: they publish, read, compare and set, and remember every answer.

Most speak the NATS protocol to the gateway of some node; a group with a machine of their own is asked through
the node they are embedded in.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Final, cast

import trio

from ...actors.embedded import GroupHandle
from ...actors.raft.outcomes import Unknown
from ...actors.replica.group import NotDone
from ..linearizability import Operation
from ..swarm import Work
from .client import Answer, Client, Disconnected
from .drain import Fetched
from .history import REFUSED, Append, Get, Journal, KeyOperation, Put, Seen
from .machines import Machines, Process
from .scheduler import adopt

PATIENCE_SECONDS: Final = 40.0
"""Every request has an end by then: a leader is waited for 3 s, an answer 10 s, a pause lasts 2 s."""
RETRY_SECONDS: Final = 0.05
RECONNECT_SHARE: Final = 0.02
KEYS: Final = 6
MOST_AT_ONCE: Final = 30
WORKERS: Final = 3
FILLERS: Final = (0, 0, 10, 300, 8_000, 15_000)
LOG, REGISTERS, CONSUMER = "log", "kv", "worker"
"""Names of the streams and of the consumer that clients use."""
FETCHED_AT_ONCE: Final = 8
FETCH: Final = json.dumps({"batch": FETCHED_AT_ONCE, "expires": 1_000_000_000}).encode()


class Ledger:
    """A user's state machine: remembers every entry in order, and answers with its place."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def apply(self, entries: Sequence[bytes], index: int, time: int) -> list[object]:
        self.entries += entries
        return [len(self.entries) - len(entries) + position + 1 for position in range(len(entries))]

    def snapshot(self) -> bytes:
        return b"\n".join(self.entries)

    def restore(self, state: bytes) -> None:
        self.entries = state.split(b"\n") if state else []


@dataclass(slots=True)
class Deliveries:
    """What the consumer's clients got."""

    seen: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    """An acknowledgement was sent."""
    confirmed: set[int] = field(default_factory=set)
    """And it was answered."""
    numbered: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By the consumer's own number of a delivery, (sequence, how many times it was delivered by then)."""


class Load:
    """All clients of one run. `run` returns once `over` is set and everyone has got an end."""

    def __init__(
        self,
        machines: Machines,
        work: Work,
        random: Random,
        complain: Callable[[str, str], None],
        note: Callable[..., None],
    ) -> None:
        self.over = trio.Event()
        self.log, self.ledger = Journal("stream"), Journal("machine")
        self.keys: dict[str, list[KeyOperation]] = {f"k{number}": [] for number in range(KEYS)}
        self.deliveries = Deliveries()
        self.operations = 0
        self.ledger_group = 0
        """Set by whoever made it."""
        self._machines = machines
        self._work = work
        self._random = random
        self._complain = complain
        self._note = note
        self._names = itertools.count()

    @property
    def acknowledged(self) -> int:
        """Appends that were acknowledged, of all kinds."""
        journals = sum(each.is_acknowledged for name in (self.log, self.ledger) for each in name.appends)
        puts = sum(
            isinstance(each.call, Put) and each.result != REFUSED and each.ended < inf
            for history in self.keys.values()
            for each in history
        )
        return journals + puts

    async def run(self, clients: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(self._client)
            for number in range(WORKERS):
                nursery.start_soon(self._worker, f"{CONSUMER}{number}")

    # --- one client

    async def _client(self) -> None:
        chores = [
            self._publish,
            self._publish,
            self._publish_many,
            self._publish_until_stored,
            self._publish_again,
            self._put,
            self._compare_and_set,
            self._look_up,
            self._read_last,
            self._append,
            self._append,
            self._read_ledger,
        ]
        chair = _Chair(self._machines, self._random, f"c{next(self._names)}")
        while not self.over.is_set():
            await trio.sleep(self._random.expovariate(1 / self._work.propose_every) * 2)
            self.operations += 1
            try:
                with trio.fail_after(PATIENCE_SECONDS):
                    await self._random.choice(chores)(chair)
            except trio.TooSlowError:
                self._complain("everything ends", f"a request of {chair.name} has no answer")
                return
            except Disconnected:
                chair.leave()

    def _text(self, chair: _Chair, filler: int | None = None) -> bytes:
        if filler is None:
            filler = self._random.choice(FILLERS)
        return f"{chair.name}-{next(chair.numbers)}-".encode() + b"." * filler

    # --- the stream

    async def _publish(self, chair: _Chair) -> None:
        append = Append(self._text(chair), chair.name, trio.current_time())
        self.log.appends.append(append)
        await self._attempt(chair, append, {})

    async def _publish_many(self, chair: _Chair) -> None:
        """Without waiting for answers in between: they fill batches, and more than may be uncommitted."""
        client, filler = await chair.client(), self._random.choice(FILLERS)
        appends = [
            Append(self._text(chair, filler), chair.name, trio.current_time(), doubtful=True)
            for _ in range(self._random.randrange(2, MOST_AT_ONCE))
        ]
        self.log.appends += appends
        inboxes = [client.ask(f"{LOG}.{chair.name}", append.text) for append in appends]
        for append, inbox in zip(appends, inboxes, strict=True):
            self._settle(chair, append, await client.take(inbox), doubtful=False)
            client.forget(inbox)

    async def _publish_until_stored(self, chair: _Chair) -> None:
        """As a careful client does: again under its id, wherever, until it is acknowledged."""
        append = Append(self._text(chair), chair.name, trio.current_time(), has_id=True)
        self.log.appends.append(append)
        headers = _id_of(append)
        while not (append.is_acknowledged or self.over.is_set()):
            try:
                await self._attempt(chair, append, headers)
            except Disconnected:
                chair.leave()
            await trio.sleep(RETRY_SECONDS)

    async def _publish_again(self, chair: _Chair) -> None:
        """As a client does that has forgotten what it was told: what is stored is not stored again."""
        stored = [append for append in self.log.appends if append.is_acknowledged and append.has_id]
        if not stored:
            return
        append = self._random.choice(stored)
        client = await chair.client()
        answer = await client.request(f"{LOG}.{chair.name}", append.text, _id_of(append))
        code, place = _verdict(answer)
        self._note(chair.name, "again", append.text[:24], code, place)
        if place not in (0, append.place):
            self._complain("exactly once", f"{append.text[:24]!r} is at {append.place}, and again at {place}")

    async def _attempt(self, chair: _Chair, append: Append, headers: dict[str, str]) -> None:
        client = await chair.client()
        doubtful, append.doubtful = append.doubtful, True
        answer = await client.request(f"{LOG}.{chair.name}", append.text, headers)
        self._settle(chair, append, answer, doubtful=doubtful)

    def _settle(self, chair: _Chair, append: Append, answer: Answer, *, doubtful: bool) -> None:
        """What the answer says of it; `doubtful`: an earlier attempt may have been stored all the same."""
        code, place = _verdict(answer)
        append.doubtful = doubtful or code == UNKNOWN_CODE
        if place:
            append.place, append.ended = place, trio.current_time()
        self._note(chair.name, "publish", append.text[:24], code, place)

    async def _read_last(self, chair: _Chair) -> None:
        """The last message that there is."""
        client, began = await chair.client(), trio.current_time()
        body = await client.api(f"STREAM.MSG.GET.{LOG}", last_by_subj=f"{LOG}.>")
        message = body.get("message")
        ended = trio.current_time()
        if message is not None:
            text = _decoded(message)
            self.log.reads.append(Seen(chair.name, began, ended, message["seq"]))
            self.log.gets.append((ended, message["seq"], text))
        elif body.get("error", {}).get("err_code") == 10037:
            self.log.reads.append(Seen(chair.name, began, ended, 0))
        self._note(chair.name, "last", message and message["seq"])

    # --- registers

    async def _put(self, chair: _Chair) -> None:
        await self._write(chair, self._random.choice(list(self.keys)), None)

    async def _compare_and_set(self, chair: _Chair) -> None:
        key = self._random.choice(list(self.keys))
        found = await self._get(chair, key)
        if found is not None:
            await self._write(chair, key, found[1])

    async def _look_up(self, chair: _Chair) -> None:
        await self._get(chair, self._random.choice(list(self.keys)))

    async def _write(self, chair: _Chair, key: str, expected: int | None) -> None:
        client = await chair.client()
        put = Put(self._text(chair), expected)
        headers = {} if expected is None else {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        began, position = trio.current_time(), len(self.keys[key])
        self.keys[key].append(Operation(put, began))
        answer = await client.request(f"{REGISTERS}.{key}", put.value, headers)
        code, place = _verdict(answer)
        ended = trio.current_time()
        if place:
            self.keys[key][position] = Operation(put, began, ended, (put.value, place))
        elif code == WRONG_REVISION_CODE:
            self.keys[key][position] = Operation(put, began, ended, REFUSED)
        self._note(chair.name, "put", key, expected, code, place)

    async def _get(self, chair: _Chair, key: str) -> tuple[bytes, int] | None:
        client, began = await chair.client(), trio.current_time()
        body = await client.api(f"STREAM.MSG.GET.{REGISTERS}", last_by_subj=f"{REGISTERS}.{key}")
        message, found = body.get("message"), None
        if message is not None:
            found = _decoded(message), cast(int, message["seq"])
        elif body.get("error", {}).get("err_code") == 10037:
            found = b"", 0
        if found is not None:
            self.keys[key].append(Operation(Get(), began, trio.current_time(), found))
        self._note(chair.name, "get", key, found and found[1])
        return found

    # --- the machine, from inside

    async def _append(self, chair: _Chair) -> None:
        process = await chair.process()
        append = Append(self._text(chair), chair.name, trio.current_time(), doubtful=True)
        self.ledger.appends.append(append)
        handle = GroupHandle(process.node, self.ledger_group)

        async def propose() -> None:
            try:
                place = cast(int, await handle.propose(append.text))
            except NotDone as end:
                append.doubtful = isinstance(end.outcome, Unknown)
            else:
                append.place, append.ended = place, trio.current_time()

        await _inside(process, propose)
        self._note(chair.name, "append", append.text[:24], append.place or append.doubtful)

    async def _read_ledger(self, chair: _Chair) -> None:
        process = await chair.process()
        handle = GroupHandle(process.node, self.ledger_group)
        began = trio.current_time()

        async def read() -> None:
            try:
                ledger = cast(Ledger, await handle.read())
            except (NotDone, LookupError):
                return  # no leader confirmed it in time, or no replica is here at this moment
            place = len(ledger.entries)
            if not process.is_cut:
                self.ledger.reads.append(Seen(chair.name, began, trio.current_time(), place))
                if place:
                    self.ledger.gets.append((began, place, ledger.entries[-1]))

        await _inside(process, read)

    # --- the consumer

    async def _worker(self, name: str) -> None:
        """Fetches, and acknowledges most of what it gets, until it is over."""
        chair = _Chair(self._machines, self._random, name)
        while not self.over.is_set():
            await trio.sleep(self._random.uniform(0, 0.3))
            try:
                await self.fetch(chair, careless=0.2)
            except Disconnected:
                chair.leave()

    async def fetch(self, chair: _Chair, careless: float = 0.0) -> Fetched:
        """One fetch. Some messages are not acknowledged, so that they come again. Raises Disconnected."""
        client, fetched, status = await chair.client(), 0, ""
        inbox = client.subscribe()
        client.ask_into(inbox, f"$JS.API.CONSUMER.MSG.NEXT.{LOG}.{CONSUMER}", FETCH)
        try:
            with trio.move_on_after(2.0):
                while fetched < FETCHED_AT_ONCE:
                    answer = await client.take(inbox)
                    if status := answer.status:
                        self._note(CONSUMER, "status", status)
                        break
                    fetched += 1
                    await self._consumed(client, answer, careless)
        finally:
            client.unsubscribe(inbox)
        return Fetched(fetched, status)

    async def _consumed(self, client: Client, answer: Answer, careless: float) -> None:
        count, sequence, number = map(int, answer.reply.split(".")[4:7])
        self.deliveries.seen.add(sequence)
        self.log.gets.append((trio.current_time(), sequence, answer.payload))
        known = self.deliveries.numbered.setdefault(number, (sequence, count))
        if known != (sequence, count):
            facts = f"delivery {number} was {known}, and is {(sequence, count)} (sequence, times)"
            self._complain("a delivery is in the log before it is sent", facts)
        if self._random.random() < careless:
            return
        self.deliveries.acknowledged.add(sequence)
        with trio.move_on_after(1.0):
            await client.request(answer.reply, b"+ACK")
            self.deliveries.confirmed.add(sequence)
        self._note(CONSUMER, "got", sequence)

    def chair(self, name: str) -> _Chair:
        """A place for somebody else who wants to talk to the cluster."""
        return _Chair(self._machines, self._random, name)


UNKNOWN_CODE: Final = 20001
WRONG_REVISION_CODE: Final = 10071


def _id_of(append: Append) -> dict[str, str]:
    return {"Nats-Msg-Id": append.text.decode().strip(".")}


def _verdict(answer: Answer) -> tuple[int, int]:
    """(error code or 0, sequence or 0) of a publish's answer."""
    if not answer.payload:
        return int(answer.status or 0), 0  # 503: nobody took it
    body = answer.json()
    error = body.get("error")
    return (error["err_code"], 0) if error else (0, body["seq"])


def _decoded(message: dict[str, str]) -> bytes:
    from base64 import b64decode

    return b64decode(message.get("data", ""))


class _Chair:
    """Where a client sits: at some node, as long as that serves it."""

    def __init__(self, machines: Machines, random: Random, name: str) -> None:
        self.name = name
        self.numbers = itertools.count()
        self._connections = itertools.count()
        self._machines = machines
        self._random = random
        self._client: Client | None = None

    async def process(self) -> Process:
        """A node that serves, any."""
        while not (serving := self._machines.serving()):  # noqa: ASYNC110  # the clock is virtual
            await trio.sleep(RETRY_SECONDS)
        process = self._machines[self._random.choice(serving)].process
        assert process is not None
        return process

    async def client(self) -> Client:
        """The connection, or a new one, to any node. Raises Disconnected."""
        if self._client is not None and self._random.random() < RECONNECT_SHARE:
            self.leave()
        if self._client is None or not self._client.is_open:
            process = await self.process()
            # An inbox is never used twice: an answer may come late, by way of a node where it was known once.
            name = f"{self.name}-{next(self._connections)}"
            self._client = await Client.connect(process.port, name)
        return self._client

    def leave(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


async def _inside(process: Process, work: Callable[[], Awaitable[object]]) -> None:
    """Do something as a task of a process: it is held still with it, and ends with it."""

    async def embedded() -> None:
        adopt(process.stillness)
        await work()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(embedded)
        await process.was_cut.wait()
        nursery.cancel_scope.cancel()
