"""What operators do to a simulated cluster meanwhile: they hand over leaderships, make, scale and delete
streams, and have a spare machine join and leave.

What one of these requests becomes is nobody's business here, as long as the cluster is whole in the end.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from math import inf
from random import Random
from typing import Final

import trio

from ..swarm import Work
from .client import Disconnected
from .load import CONSUMER, LOG, REGISTERS, Load
from .machines import SPARE, Machines
from .weather import STRETCH, Weather

PATIENCE_SECONDS: Final = 3.0
DUPLICATE_SECONDS: Final = 3 * 3600
"""A log's clock follows a wall clock that jumped ahead by an hour: no id is forgotten in a run."""
LIMITS: Final[tuple[dict[str, object], ...]] = (
    {},
    {"max_age": 700_000_000},
    {"max_msgs": 10},
    {"max_msgs_per_subject": 3, "discard": "old"},
    {"duplicate_window": 500_000_000},
)
"""Of the stream that comes and goes: what it forgets, all of its replicas forget at the same message."""
ADMINISTRATION: Final = "$TRIMARAN.API.CLUSTER."


class Operator:
    """Runs until cancelled.

    Args:
        single: whether streams may be scaled down to one replica: not where a disk may be lost.
    """

    def __init__(
        self,
        machines: Machines,
        weather: Weather,
        load: Load,
        work: Work,
        random: Random,
        note: Callable[..., None],
        *,
        single: bool,
    ) -> None:
        self._machines = machines
        self._weather = weather
        self._chair = load.chair("operator")
        self._work = work
        self._random = random
        self._note = note
        self._replicas = (1, 3) if single else (3,)
        self._made = 0
        self._limits = LIMITS[0]

    async def run(self) -> None:
        chores: list[tuple[float, list[Callable[[], Awaitable[None]]]]] = [
            (self._work.transfer_every, [self._hand_over]),
            (self._work.change_every, self._changes()),
            (self._work.change_every * 2, [self._invite, self._dismiss, self._rebalance]),
        ]
        async with trio.open_nursery() as nursery:
            for every, some in chores:
                if every < inf:
                    nursery.start_soon(self._keep_at, every * STRETCH, some)

    def _changes(self) -> list[Callable[[], Awaitable[None]]]:
        return [self._make, self._renew, self._publish, self._scale, self._delete, self._purge]

    async def _keep_at(self, every: float, chores: list[Callable[[], Awaitable[None]]]) -> None:
        while True:
            await trio.sleep(self._random.expovariate(1 / every))
            try:
                with trio.move_on_after(PATIENCE_SECONDS):
                    await self._random.choice(chores)()
            except Disconnected:
                self._chair.leave()

    async def _ask(self, subject: str, **body: object) -> None:
        client = await self._chair.client()
        answer = await client.request(subject, json.dumps(body).encode() if body else b"")
        self._weather.faults["operation"] += 1
        self._note("operator", subject, json.dumps(body, sort_keys=True), _short(answer.payload))

    async def _hand_over(self) -> None:
        stream = self._random.choice((LOG, REGISTERS))
        name = self._random.choice(list(self._machines.all))
        await self._ask(f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}", placement={"preferred": name})

    # --- a stream that comes and goes

    @property
    def _scratch(self) -> str:
        return f"scratch{self._made}"

    async def _make(self) -> None:
        self._made += 1
        self._limits = self._random.choice(LIMITS)
        await self._ask(f"$JS.API.STREAM.CREATE.{self._scratch}", **self._configuration())

    async def _renew(self) -> None:
        """Made again under its name as soon as it is deleted, and filled."""
        await self._delete()
        self._limits = self._random.choice(LIMITS)
        await self._ask(f"$JS.API.STREAM.CREATE.{self._scratch}", **self._configuration())
        await self._publish()

    def _configuration(self) -> dict[str, object]:
        return {
            "name": self._scratch,
            "subjects": [f"{self._scratch}.>"],
            "num_replicas": self._random.choice(self._replicas),
            **self._limits,
        }

    async def _publish(self) -> None:
        client = await self._chair.client()
        for number in range(self._random.randrange(1, 30)):
            headers = {"Nats-Msg-Id": str(number % 7)} if self._random.random() < 0.5 else {}
            await client.request(f"{self._scratch}.{number % 3}", b"%d" % number, headers)

    async def _scale(self) -> None:
        await self._ask(f"$JS.API.STREAM.UPDATE.{self._scratch}", **self._configuration())

    async def _delete(self) -> None:
        await self._ask(f"$JS.API.STREAM.DELETE.{self._scratch}")

    async def _purge(self) -> None:
        await self._ask(f"$JS.API.STREAM.PURGE.{self._scratch}")

    # --- a machine that comes and goes

    async def _invite(self) -> None:
        machine = self._machines.all.get(SPARE)
        if machine is None:
            machine = self._machines.add(SPARE)
            self._weather.retired[SPARE] = None  # until it is invited, the first time
        elif machine.process is None and SPARE in self._weather.retired:
            self._machines.wipe(SPARE)
        await self._ask(f"{ADMINISTRATION}ADD", name=SPARE, address=machine.address)
        self._weather.retired.pop(SPARE, None)

    async def _dismiss(self) -> None:
        if SPARE in self._machines.all:
            await self._ask(f"{ADMINISTRATION}REMOVE", name=SPARE)

    async def _rebalance(self) -> None:
        await self._ask(f"{ADMINISTRATION}REBALANCE")


def _short(payload: bytes) -> str:
    return payload[:120].decode(errors="replace")


async def found(load: Load, replicas: int) -> None:
    """Make what the clients use, on a cluster that is well. Raises Disconnected."""
    chair = load.chair("founder")
    client = await chair.client()
    for stream in (LOG, REGISTERS):
        body = await client.api(
            f"STREAM.CREATE.{stream}",
            name=stream,
            subjects=[f"{stream}.>"],
            num_replicas=replicas,
            duplicate_window=DUPLICATE_SECONDS * 10**9,
        )
        assert "error" not in body, body
    body = await client.api(
        f"CONSUMER.DURABLE.CREATE.{LOG}.{CONSUMER}",
        stream_name=LOG,
        config={"durable_name": CONSUMER, "ack_policy": "explicit", "ack_wait": 2 * 10**9},
    )
    assert "error" not in body, body
