"""What clients send to consumers that nobody serves yet waits within bounds; more is turned away at once."""

import random
from typing import Any, cast

import pytest

from trimaran.actors.delivery.desk import Deliveries
from trimaran.actors.delivery.room import ROOM_BYTES, ROOM_MESSAGES, Room
from trimaran.actors.delivery.stream import ClientMessage, StreamDelivery

GROUP = 5
PAYLOAD = bytes(1 << 20)
CHANGED = b"NATS/1.0 409 Leadership Change\r\n\r\n"


class Told:
    """A carrier that keeps what clients are told."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, bytes]] = []

    def carry(self, to: bytes, subject: bytes, reply: bytes, header_size: int, body: bytes) -> bool:
        self.told.append((to, body))
        return True


class Nothing:
    """A part that is not asked for anything here."""

    def __getattr__(self, name: str) -> Any:
        return Nothing()

    def __call__(self, *arguments: object) -> None:
        return None


def deliveries(told: Told) -> Deliveries:
    """Of a node that knows of no leader."""
    nothing = cast("Any", Nothing())
    made = Deliveries(
        1,
        nothing,
        lambda group: None,
        lambda name: GROUP,
        lambda group: (),
        nothing,
        nothing,
        random.Random(1),
    )
    made.carrier = cast("Any", told)
    return made


def ask(desk: Deliveries, inbox: bytes, payload: bytes) -> None:
    assert desk.take(b"$JS.API.CONSUMER.MSG.NEXT.S.c", inbox, payload)
    desk.flush()


async def test_what_waits_for_a_leader_is_bounded_by_its_bytes() -> None:
    told = Told()
    desk = deliveries(told)
    for _ in range(ROOM_BYTES // len(PAYLOAD) - 1):
        ask(desk, b"waits", PAYLOAD)
    ask(desk, b"small", b"1")
    assert told.told == []
    ask(desk, b"refused", PAYLOAD)
    assert told.told == [(b"refused", CHANGED)]


async def test_what_stopped_waiting_makes_room() -> None:
    room, [message] = Room(), [ClientMessage("next", "c", (), b"inbox", PAYLOAD)]
    taken = 0
    while room.enter([message]):
        taken += 1
    assert taken == ROOM_BYTES // message.size
    room.leave([message])
    assert room.enter([message])
    assert not room.enter([message])


async def test_small_ones_are_counted() -> None:
    room, message = Room(), ClientMessage("ack", "c", (), b"", b"")
    assert room.enter([message] * ROOM_MESSAGES)
    assert not room.enter([message])


@pytest.mark.parametrize("kind", ["next", "ack"])
async def test_what_comes_before_consumers_are_served_is_bounded_too(kind: str) -> None:
    told, nothing = Told(), cast("Any", Nothing())
    delivery = StreamDelivery(nothing, nothing, cast("Any", told), nothing, random.Random(1), nothing, Room())
    message = ClientMessage(kind, "c", ("1", "2"), b"inbox", PAYLOAD)
    fit = ROOM_BYTES // message.size
    for _ in range(fit):
        delivery.take([message])
    assert told.told == []
    delivery.take([message])
    refused = [(b"inbox", CHANGED)] if kind == "next" else []
    assert told.told == refused, "who gets no answer sends an acknowledgement again"
    delivery.end()
    assert told.told == refused * (fit + 1)


async def test_streams_share_the_room_and_give_it_back() -> None:
    told, nothing, room = Told(), cast("Any", Nothing()), Room()
    one, other = (
        StreamDelivery(nothing, nothing, cast("Any", told), nothing, random.Random(1), nothing, room)
        for _ in range(2)
    )
    message = ClientMessage("ack", "c", ("1", "2"), b"", PAYLOAD)
    for _ in range(ROOM_BYTES // message.size):
        one.take([message])
    pull = ClientMessage("next", "c", (), b"inbox", PAYLOAD)
    other.take([pull])
    assert told.told == [(b"inbox", CHANGED)]
    one.end()
    other.take([pull])
    assert len(told.told) == 1
