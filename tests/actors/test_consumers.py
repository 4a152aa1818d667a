"""Consumers in whole clusters: what clients get, who may be lost on the way, and what outlives a leader."""

import base64
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import until
from tests.actors.consumers import SECOND, harness, sequences
from trimaran.actors.delivery.led import LedConsumer, Plan
from trimaran.actors.delivery.stream import StreamDelivery
from trimaran.actors.stream.views import rfc3339


async def test_a_pull_gets_messages_with_everything_in_their_acknowledgement_subject(
    autojump_clock: MockClock,
) -> None:
    async with harness() as it:
        await it.client.fill("s.0", "s.1", "s.0")
        await it.consumer()
        got = await it.client.fetch("S.c", 2)
        assert [(each.subject, each.payload, each.numbers) for each in got] == [
            ("s.0", b"m0", (1, 1, 1, 2)),
            ("s.1", b"m1", (1, 2, 2, 1)),
        ]
        info = await it.info()
        assert (info["delivered"]["consumer_seq"], info["delivered"]["stream_seq"]) == (2, 2)
        assert (info["num_ack_pending"], info["num_pending"], info["num_waiting"]) == (2, 1, 0)


@pytest.mark.parametrize(
    ("request_fields", "answers"),
    [
        ({"batch": 9, "no_wait": True}, ["m0", "m1", "404 No Messages"]),
        ({"batch": 9, "no_wait": True, "expires": SECOND}, ["m0", "m1", "404 No Messages"]),
        ({"batch": 2}, ["m0", "m1"]),
        ({"batch": 3, "expires": SECOND}, ["m0", "m1", "408 Request Timeout"]),
        ({"batch": 3, "no_wait": True, "max_bytes": 50}, ["m0", "409 Message Size Exceeds MaxBytes"]),
        ({"batch": 1, "expires": SECOND, "max_bytes": 500}, ["m0", "409 Batch Completed"]),
        ({"batch": 1, "id": "x"}, ["400 Bad Request - Not a Pinned Client Priority consumer"]),
        ({"batch": 1, "min_pending": 1}, ["400 Bad Request - Not a Overflow Priority consumer"]),
        (
            {"batch": 1, "expires": SECOND, "idle_heartbeat": SECOND},
            ["400 Bad Request - heartbeat value too large"],
        ),
        ({"batch": 6}, ["409 Exceeded MaxRequestBatch of 5"]),
        ({"batch": 1, "expires": 90 * SECOND}, ["409 Exceeded MaxRequestExpires of 1m0s"]),
    ],
)
async def test_a_pull_ends_as_on_the_reference_server(
    autojump_clock: MockClock, request_fields: dict[str, object], answers: list[str]
) -> None:
    async with harness() as it:
        await it.client.fill("s.0", "s.1")
        limit = 5 if request_fields["batch"] == 6 else 0
        await it.consumer(max_batch=limit, max_expires=60 * SECOND)
        inbox = it.client.pull("S.c", **request_fields)
        got = await it.client.take(inbox, 9, seconds=2.0)
        assert [each.status or each.payload.decode() for each in got] == answers


async def test_a_request_that_waits_gets_what_comes_and_heartbeats_until_then(
    autojump_clock: MockClock,
) -> None:
    async with harness() as it:
        await it.consumer()
        inbox = it.client.pull("S.c", batch=1, expires=30 * SECOND, idle_heartbeat=SECOND)
        beats = await it.client.take(inbox, 2)
        assert [each.status for each in beats] == ["100 Idle Heartbeat"] * 2
        assert "Nats-Last-Consumer: 0\r\nNats-Last-Stream: 0" in beats[0].headers
        await it.client.fill("s.0")
        assert sequences(await it.client.take(inbox, 1)) == [1]


async def test_requests_take_turns(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.consumer()
        first, second = (it.client.pull("S.c", batch=2, expires=9 * SECOND) for _ in range(2))
        await it.client.fill("s.0", "s.0", "s.0", "s.0")
        assert sequences(await it.client.take(first, 2)) == [1, 3]
        assert sequences(await it.client.take(second, 2)) == [2, 4]


async def test_what_is_not_acknowledged_comes_again_and_counts(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill("s.0", "s.1")
        await it.consumer(ack_wait=2 * SECOND)
        first, _ = await it.client.fetch("S.c", 2)
        await it.ack(first)
        inbox = it.client.pull("S.c", batch=1, expires=9 * SECOND)
        again = await it.client.take(inbox, 1)
        assert again[0].numbers == (2, 2, 3, 0)
        await it.ack(again[0])
        info = await it.info()
        assert info["ack_floor"]["stream_seq"] == 2 and info["num_ack_pending"] == 0


async def test_nak_progress_term_and_next(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill("s.0", "s.1", "s.2", "s.3")
        await it.consumer(ack_wait=4 * SECOND)
        nacked, delayed, ended = await it.client.fetch("S.c", 3)
        it.client.publish(nacked.reply, b"-NAK")
        it.client.publish(delayed.reply, b'-NAK {"delay": 2000000000}')
        await it.ack(ended, b"+TERM no use")
        started = trio.current_time()
        inbox = it.client.pull("S.c", batch=3, expires=20 * SECOND)
        got = await it.client.take(inbox, 3, seconds=10)
        assert sequences(got) == [1, 4, 2] and trio.current_time() - started == pytest.approx(2.0, abs=0.3)
        it.client.publish(got[0].reply, b"+WPI")
        await trio.sleep(3)
        it.client.publish(got[0].reply, b"+WPI")
        await trio.sleep(3)
        assert (await it.info())["num_ack_pending"] == 3
        again = sequences(await it.client.fetch("S.c", 3))
        assert again == [4, 2], "only what nobody says he is working on is due again"
        await it.client.fill("s.5")
        inbox = it.client.inbox()
        it.client.publish(got[0].reply, b"+NXT", inbox)
        assert sequences(await it.client.take(inbox, 1)) == [5]


async def test_max_deliver_gives_up_and_says_so_though_nobody_asks_for_more(
    autojump_clock: MockClock,
) -> None:
    async with harness() as it:
        advisory = it.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.c")
        await it.client.fill("s.0")
        await it.consumer(ack_wait=SECOND, max_deliver=2)
        inbox = it.client.pull("S.c", batch=2, expires=9 * SECOND)
        got = await it.client.take(inbox, 2, seconds=20)
        assert [each.numbers[0] for each in got] == [1, 2]
        [told] = await it.client.take(advisory, 1, seconds=2)
        fields = json.loads(told.payload)
        assert len(fields.pop("id")) == 22 and fields.pop("timestamp").endswith("Z")
        assert fields == {
            "type": "io.nats.jetstream.advisory.v1.max_deliver",
            "stream": "S",
            "consumer": "c",
            "stream_seq": 1,
            "deliveries": 2,
        }
        assert (await it.info())["num_ack_pending"] == 0
        assert await it.client.take(advisory, 1, seconds=5) == [], "once"


async def test_backoff_spaces_redeliveries(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill("s.0")
        await it.consumer(backoff=[SECOND, 3 * SECOND], max_deliver=4)
        inbox = it.client.pull("S.c", batch=4, expires=30 * SECOND)
        times = []
        for _ in range(4):
            await it.client.take(inbox, 1, seconds=20)
            times.append(trio.current_time())
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps == pytest.approx([1.0, 3.0, 3.0], abs=0.3)


async def test_max_ack_pending_holds_back_until_an_acknowledgement(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill(*["s.0"] * 3)
        await it.consumer(max_ack_pending=2)
        inbox = it.client.pull("S.c", batch=3, expires=20 * SECOND)
        got = await it.client.take(inbox, 3, seconds=1.0)
        assert sequences(got) == [1, 2]
        await it.ack(got[0])
        assert sequences(await it.client.take(inbox, 1)) == [3]


async def test_ack_all_settles_what_came_before(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill(*["s.0"] * 4)
        await it.consumer(ack_policy="all", ack_wait=SECOND)
        got = await it.client.fetch("S.c", 4)
        await it.ack(got[2])
        info = await it.info()
        assert (info["ack_floor"]["stream_seq"], info["num_ack_pending"]) == (3, 1)
        await trio.sleep(2)
        assert sequences(await it.client.fetch("S.c", 1)) == [4]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"deliver_policy": "all"}, [1, 2, 3, 4, 5]),
        ({"deliver_policy": "last"}, [5]),
        ({"deliver_policy": "new"}, []),
        ({"deliver_policy": "by_start_sequence", "opt_start_seq": 4}, [4, 5]),
        ({"deliver_policy": "by_start_time", "opt_start_time": "1970-01-01T00:00:00Z"}, [1, 2, 3, 4, 5]),
        ({"deliver_policy": "last_per_subject", "filter_subject": "s.>"}, [3, 4, 5]),
        ({"filter_subject": "s.1"}, [2, 4]),
        ({"filter_subjects": ["s.1", "s.2"]}, [2, 4, 5]),
        ({"filter_subject": "s.1", "deliver_policy": "last"}, [4]),
        ({"filter_subject": "nobody"}, []),
    ],
)
async def test_a_consumer_begins_where_it_should_and_gets_what_it_wants(
    autojump_clock: MockClock, config: dict[str, Any], expected: list[int]
) -> None:
    async with harness() as it:
        await it.client.fill("s.0", "s.1", "s.0", "s.1", "s.2")
        made = await it.consumer(**config)
        assert made["num_pending"] == len(expected)
        got = await it.client.fetch("S.c", 9, no_wait=True)
        assert sequences(got) == expected
        assert [each.numbers[3] for each in got if each.reply] == list(range(len(expected)))[::-1]
        await it.client.fill("s.1", "s.7")
        wanted = [6] if "1" in str(config.get("filter_subject", "s.1")) else [6, 7]
        if config.get("filter_subject") == "nobody":
            wanted = []
        elif "filter_subject" not in config and "filter_subjects" not in config:
            wanted = [6, 7]
        assert sequences(await it.client.fetch("S.c", 2)) == wanted


@pytest.mark.parametrize("at", ["a", "b", "c"])
async def test_clients_of_any_node_are_served(autojump_clock: MockClock, at: str) -> None:
    async with harness("a", "b", "c", at=at) as it:
        await it.client.fill("s.0", "s.1")
        await it.consumer()
        got = await it.client.fetch("S.c", 2)
        assert [(each.subject, each.payload) for each in got] == [("s.0", b"m0"), ("s.1", b"m1")]
        await it.ack(got[0])
        assert (await it.info())["ack_floor"]["stream_seq"] == 1


async def test_a_consumer_outlives_its_leader(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        await it.client.fill(*[f"s.{number}" for number in range(10)])
        await it.consumer(ack_wait=5 * SECOND)
        got = await it.client.fetch("S.c", 6)
        for message in got[:4]:
            await it.ack(message)
        leader = it.leader
        await it.cluster.crash(leader)
        it.client = await it.connect(next(name for name in "abc" if name != leader))
        await until(lambda: bool(it.cluster.leaders(it.group)))
        info = await it.info()
        assert info["ack_floor"]["stream_seq"] == 4 and info["num_ack_pending"] == 2
        inbox = it.client.pull("S.c", batch=6, expires=20 * SECOND)
        rest = await it.client.take(inbox, 6, seconds=30)
        counts = {each.numbers[1]: each.numbers[0] for each in rest}
        assert counts == {7: 1, 8: 1, 9: 1, 10: 1, 5: 2, 6: 2}, "no acknowledged one, and counts go on"


async def test_every_consumer_survives_a_restart_of_all_nodes(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        await it.client.fill(*["s.0"] * 5)
        await it.consumer("kept", filter_subject="s.0")
        got = await it.client.fetch("S.kept", 3)
        await it.ack(got[0])
        for name in "abc":
            await it.cluster.crash(name, power=True)
        for name in "abc":
            await it.cluster.start(name)
        await it.cluster.ready()
        it.client = await it.connect("b")
        info = await it.info("kept")
        assert (info["num_ack_pending"], info["num_pending"], info["ack_floor"]["stream_seq"]) == (2, 2, 1)
        assert info["config"]["filter_subject"] == "s.0"


async def test_a_clock_that_was_ahead_keeps_nobody_waiting(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        leader = it.leader
        it.cluster.members[leader].clock.ahead = 3600.0
        it.client = await it.connect(next(name for name in "abc" if name != leader))
        await it.client.fill("s.x")
        await it.consumer(ack_wait=2 * SECOND)
        [message] = await it.client.fetch("S.c", 1)
        await it.cluster.crash(leader)
        await until(lambda: bool(it.cluster.leaders(it.group)))
        with trio.fail_after(30):
            while (again := await it.client.fetch("S.c", 1))[0].status:
                pass
        assert again[0].payload == message.payload and again[0].numbers[0] == 2


async def test_waiting_requests_are_told_when_leadership_moves_or_the_consumer_goes(
    autojump_clock: MockClock,
) -> None:
    async with harness("a", "b", "c") as it:
        await it.consumer()
        inbox = it.client.pull("S.c", batch=1, expires=60 * SECOND)
        await trio.sleep(0.1)
        await it.client.api("STREAM.LEADER.STEPDOWN.S")
        [told] = await it.client.take(inbox, 1, seconds=5)
        assert told.status == "409 Leadership Change"
        inbox = it.client.pull("S.c", batch=1, expires=60 * SECOND)
        await trio.sleep(0.1)
        assert (await it.client.api("CONSUMER.DELETE.S.c"))["success"] is True
        [told] = await it.client.take(inbox, 1, seconds=5)
        assert told.status == "409 Consumer Deleted"
        assert (await it.client.request("$JS.API.CONSUMER.MSG.NEXT.S.c")).status == "503"


async def test_purged_and_deleted_messages_are_not_pending(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill(*["s.0"] * 5)
        await it.consumer()
        await it.client.fetch("S.c", 4)
        await it.client.api("STREAM.MSG.DELETE.S", seq=2)
        assert (await it.info())["num_ack_pending"] == 3
        await it.client.api("STREAM.PURGE.S", seq=4)
        info = await it.info()
        assert (info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (1, 3)
        await it.client.api("STREAM.PURGE.S")
        info = await it.info()
        assert (info["num_ack_pending"], info["delivered"]["stream_seq"]) == (0, 5)


async def test_an_unused_ephemeral_goes_and_a_used_one_stays(autojump_clock: MockClock) -> None:
    async with harness() as it:
        made = await it.client.api("CONSUMER.CREATE.S", stream_name="S", config={"ack_policy": "explicit"})
        name = made["name"]
        assert len(name) == 8 and made["config"]["inactive_threshold"] == 5 * SECOND
        for _ in range(4):
            await trio.sleep(3)
            await it.client.fetch(f"S.{name}", 1)
        assert "error" not in await it.info(name)
        await trio.sleep(7)
        assert (await it.info(name))["error"]["err_code"] == 10014


@pytest.mark.parametrize("at", ["a", "b"])
async def test_a_push_consumer_delivers_while_somebody_listens(autojump_clock: MockClock, at: str) -> None:
    async with harness("a", "b", "c", at=at) as it:
        await it.client.fill("s.0", "s.1")
        made = await it.consumer(deliver_subject="to.me")
        assert made["num_pending"] == 2 and "push_bound" not in made
        inbox = it.client.subscribe("to.me")
        got = await it.client.take(inbox, 2)
        assert [(each.subject, each.numbers) for each in got] == [
            ("s.0", (1, 1, 1, 1)),
            ("s.1", (1, 2, 2, 0)),
        ]
        assert (await it.info())["push_bound"] is True
        pulled = await it.client.request("$JS.API.CONSUMER.MSG.NEXT.S.c")
        assert pulled.status == "409 Consumer is push based"
        it.client.unsubscribe("to.me")
        await it.client.fill("s.2")
        assert await it.client.take(inbox, 1, seconds=0.5) == []
        it.client.subscribe("to.me")
        assert sequences(await it.client.take(inbox, 1)) == [3]


@pytest.mark.parametrize("at", ["a", "b", "c"])
async def test_a_queue_of_push_clients_shares_the_messages(autojump_clock: MockClock, at: str) -> None:
    async with harness("a", "b", "c", at=at) as it:
        other = await it.connect("b")
        for client in (it.client, other):
            client.subscribe("to.us", "workers")
        await it.consumer(deliver_subject="to.us", deliver_group="workers", ack_policy="none")
        await it.client.fill(*["s.0"] * 40)
        first, second = await it.client.take("to.us", 40, seconds=1), await other.take("to.us", 40, seconds=1)
        assert sorted(sequences(first) + sequences(second)) == list(range(1, 41))
        assert first and second, "both get some"


async def test_a_silent_push_consumer_beats(autojump_clock: MockClock) -> None:
    async with harness() as it:
        inbox = it.client.subscribe("to.me")
        await it.client.fill("s.0")
        await it.consumer(deliver_subject="to.me", idle_heartbeat=SECOND)
        got = await it.client.take(inbox, 3)
        assert [each.status for each in got] == ["", "100 Idle Heartbeat", "100 Idle Heartbeat"]
        assert "Nats-Last-Consumer: 1\r\nNats-Last-Stream: 1" in got[1].headers


async def test_flow_control_stops_until_the_client_answers(autojump_clock: MockClock) -> None:
    async with harness() as it:
        for _ in range(260):
            await it.client.request("s.big", bytes(15_000))
        inbox = it.client.subscribe("to.me")
        await it.consumer(
            deliver_subject="to.me", ack_policy="none", flow_control=True, idle_heartbeat=5 * SECOND
        )
        got = await it.client.take(inbox, 300, seconds=2)
        assert 130 <= len(sequences(got)) < 260, "the window of 2 MB is full"
        [asked] = [each for each in got if each.status == "100 FlowControl Request"]
        [beat] = [each for each in await it.client.take(inbox, 1, seconds=6) if each.status]
        assert f"Nats-Consumer-Stalled: {asked.reply}" in beat.headers
        it.client.publish(asked.reply)
        rest = await it.client.take(inbox, 300, seconds=2)
        assert sequences(got) + sequences(rest) == list(range(1, 261))


async def test_an_ordered_consumer_is_in_no_log_and_goes_with_its_leader(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        await it.client.fill("s.0", "s.1")
        inbox = it.client.subscribe("to.me")
        config = {"ack_policy": "none", "mem_storage": True, "deliver_subject": "to.me", "name": "o"}
        made = await it.client.api("CONSUMER.CREATE.S.o", stream_name="S", config=config)
        assert "error" not in made
        assert sequences(await it.client.take(inbox, 2)) == [1, 2]
        assert not any(len(it.machine(name).consumers) for name in "abc")
        assert (await it.client.api("CONSUMER.NAMES.S"))["consumers"] == ["o"]
        await it.client.api("STREAM.LEADER.STEPDOWN.S")
        await until(lambda: bool(it.cluster.leaders(it.group)))
        assert (await it.info("o"))["error"]["err_code"] == 10014


async def test_a_paused_consumer_goes_on_by_itself(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill("s.0")
        await it.consumer()
        until_then = rfc3339(1_800_000_000_000_000_000 + int((trio.current_time() + 4) * 1e9))
        paused = await it.client.api("CONSUMER.PAUSE.S.c", pause_until=until_then)
        assert paused["paused"] is True and 0 < paused["pause_remaining"] <= 4 * SECOND
        assert (await it.info())["paused"] is True
        inbox = it.client.pull("S.c", batch=1, expires=20 * SECOND)
        assert await it.client.take(inbox, 1, seconds=2) == []
        assert sequences(await it.client.take(inbox, 1, seconds=4)) == [1]
        assert (await it.client.api("CONSUMER.PAUSE.S.c", pause_until=""))["paused"] is False


async def test_messages_are_replayed_in_their_own_time_if_asked(autojump_clock: MockClock) -> None:
    async with harness() as it:
        for _ in range(3):
            await it.client.fill("s.0")
            await trio.sleep(2)
        await it.consumer(replay_policy="original")
        inbox = it.client.pull("S.c", batch=3, expires=20 * SECOND)
        times = []
        for _ in range(3):
            await it.client.take(inbox, 1, seconds=9)
            times.append(trio.current_time())
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert gaps == pytest.approx([2.0, 2.0], abs=0.3)


async def test_a_work_queue_loses_what_is_acknowledged(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c", retention="workqueue") as it:
        await it.client.fill("s.0", "s.1", "s.2")
        await it.consumer("even", filter_subjects=["s.0", "s.2"])
        clash = await it.client.api(
            "CONSUMER.CREATE.S.x",
            stream_name="S",
            config={"name": "x", "ack_policy": "explicit", "filter_subject": "s.*"},
        )
        assert clash["error"]["err_code"] == 10100
        got = await it.client.fetch("S.even", 2)
        await it.ack(got[1])
        state = (await it.client.api("STREAM.INFO.S"))["state"]
        assert (state["messages"], state["num_deleted"]) == (2, 1) and state["last_seq"] == 3
        await it.ack(got[0], b"+TERM")
        assert (await it.client.api("STREAM.INFO.S"))["state"]["first_seq"] == 2


async def test_interest_keeps_messages_while_a_consumer_needs_them(autojump_clock: MockClock) -> None:
    async with harness(retention="interest") as it:
        await it.client.fill("s.0")
        assert (await it.client.api("STREAM.INFO.S"))["state"]["messages"] == 0
        for name, config in (
            ("one", {}),
            ("two", {"filter_subject": "s.0"}),
            ("three", {"ack_policy": "none"}),
        ):
            await it.consumer(name, **config)
        await it.client.fill("s.0", "s.1", "s.2")
        for name in ("one", "two"):
            for message in await it.client.fetch(f"S.{name}", 2, no_wait=True):
                if message.reply:
                    await it.ack(message)
        assert (await it.client.api("STREAM.INFO.S"))["state"]["messages"] == 3, "three has seen nothing"
        await it.client.fetch("S.three", 3)
        state = (await it.client.api("STREAM.INFO.S"))["state"]
        assert (state["messages"], state["first_seq"]) == (1, 4)
        await it.client.api("CONSUMER.DELETE.S.one")
        assert (await it.client.api("STREAM.INFO.S"))["state"]["messages"] == 0


@pytest.mark.parametrize("at", ["a", "b"])
async def test_direct_get_answers_with_a_message(autojump_clock: MockClock, at: str) -> None:
    async with harness("a", "b", "c", at=at, allow_direct=True) as it:
        client = it.client
        client.publish_with("s.0", {"Mine": "1"}, b"one", client.inbox())
        await client.fill("s.1", "s.0")
        got = await client.request("$JS.API.DIRECT.GET.S", b'{"seq":1}')
        lines = (
            "NATS/1.0",
            "Mine: 1",
            "Nats-Stream: S",
            "Nats-Subject: s.0",
            "Nats-Sequence: 1",
            "Nats-Time-Stamp: ",
        )
        assert got.headers.startswith("\r\n".join(lines)) and got.payload == b"one"
        for request, answer in (
            (b'{"last_by_subj":"s.0"}', b"m1"),
            (b'{"seq":2,"next_by_subj":"s.0"}', b"m1"),
            (b'{"start_time":"2020-01-01T00:00:00Z"}', b"one"),
            (b'{"seq":9}', "404 Message Not Found"),
            (b"", "408 Empty Request"),
            (b"{", "408 Malformed Request"),
            (b'{"seq":1,"last_by_subj":"s.0"}', "408 Bad Request"),
        ):
            got = await client.request("$JS.API.DIRECT.GET.S", request)
            assert answer == (got.payload or got.status)
        assert (await client.request("$JS.API.DIRECT.GET.S.s.1")).payload == b"m0"
        assert (await client.request("$JS.API.DIRECT.GET.S", b'{"seq":1,"min_last_seq":3}')).payload == b"one"
        behind = await client.request("$JS.API.DIRECT.GET.S", b'{"seq":1,"min_last_seq":4}')
        assert behind.status == "412 Min Last Sequence"
        await client.api("STREAM.CREATE.T", name="T", subjects=["t"])
        for stream in ("T", "NO"):
            assert (await client.request(f"$JS.API.DIRECT.GET.{stream}", b'{"seq":1}')).status == "503"


async def test_a_direct_get_of_many_ends_with_how_many_are_left(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c", at="b", allow_direct=True) as it:
        client = it.client
        await client.fill(*[f"s.{number % 3}" for number in range(300)])
        inbox = client.subscribe(client.inbox())
        client.publish("$JS.API.DIRECT.GET.S", b'{"seq":2,"batch":250}', inbox)
        got = await client.take(inbox, 252, seconds=5)
        assert [each.payload for each in got[:-1]] == [b"m%d" % number for number in range(1, 251)]
        assert got[-1].status == "204 EOB"
        assert "Nats-Num-Pending: 49\r\nNats-Last-Sequence: 251\r\n" in got[-1].headers
        client.publish("$JS.API.DIRECT.GET.S", b'{"multi_last":["s.0","s.2"],"up_to_seq":100}', inbox)
        newest = await client.take(inbox, 4, seconds=5)
        assert [each.payload for each in newest[:-1]] == [b"m98", b"m99"]
        assert (
            "Nats-Num-Pending: 0\r\nNats-Last-Sequence: 100\r\nNats-UpTo-Sequence: 100" in newest[-1].headers
        )


async def test_a_message_with_a_time_to_live_leaves_a_marker_on_every_replica(
    autojump_clock: MockClock,
) -> None:
    async with harness("a", "b", "c", allow_msg_ttl=True, subject_delete_marker_ttl=2 * SECOND) as it:
        inbox = it.client.inbox()
        it.client.publish_with("s.short", {"Nats-TTL": "1s"}, b"x", inbox)
        it.client.publish_with("s.long", {"Nats-TTL": "1h"}, b"x", inbox)
        await it.client.take(inbox, 2)
        await trio.sleep(1.6)
        message = (await it.client.api("STREAM.MSG.GET.S", last_by_subj="s.short"))["message"]
        headers = base64.b64decode(message["hdrs"])
        assert (
            headers == b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: 2s\r\nNats-Rollup: sub\r\n\r\n"
        )
        await trio.sleep(2.5)
        answer = await it.client.api("STREAM.INFO.S", subjects_filter=">")
        assert answer["state"]["subjects"] == {"s.long": 1}
        for name in "abc":
            await until(lambda: it.machine(name).subjects() == {"s.long": 1})


async def test_no_wait_with_an_expiry_waits_for_a_first_message(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.consumer()
        inbox = it.client.pull("S.c", batch=2, no_wait=True, expires=SECOND)
        assert [each.status for each in await it.client.take(inbox, 1)] == ["408 Request Timeout"]


async def test_an_ephemeral_push_consumer_stays_while_somebody_listens(autojump_clock: MockClock) -> None:
    async with harness() as it:
        it.client.subscribe("to.me")
        config = {"ack_policy": "explicit", "deliver_subject": "to.me", "name": "e"}
        await it.client.api("CONSUMER.CREATE.S.e", stream_name="S", config=config)
        await trio.sleep(20)
        assert "error" not in await it.info("e")
        it.client.unsubscribe("to.me")
        await trio.sleep(7)
        assert (await it.info("e"))["error"]["err_code"] == 10014


async def test_a_request_sent_during_an_election_is_served_after_it(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        await it.client.fill("s.0")
        await it.consumer()
        leader = it.leader
        it.client = await it.connect(next(name for name in "abc" if name != leader))
        await it.cluster.crash(leader)
        await until(lambda: it.any_node().groups.leadership(it.group) is None)
        inbox = it.client.pull("S.c", batch=1, expires=9 * SECOND)
        assert sequences(await it.client.take(inbox, 1)) == [1]


async def test_pending_is_counted_over_what_was_deleted_in_the_middle(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill(*["s.0"] * 6)
        await it.consumer()
        await it.client.fetch("S.c", 2)
        await it.client.api("STREAM.MSG.DELETE.S", seq=4)
        assert (await it.info())["num_pending"] == 3
        assert [each.numbers[3] for each in await it.client.fetch("S.c", 3)] == [2, 1, 0]


@pytest.mark.parametrize(
    "config",
    [
        {"pause_until": "x"},
        {"pause_until": "9999-99-99T99:99:99Z"},
        {"deliver_policy": "by_start_time", "opt_start_time": "never"},
        {"backoff": [10**30]},
        {"backoff": [True]},
        {"ack_wait": 10**30},
        {"durable_name": "c\u202e"},
    ],
)
async def test_a_configuration_that_nobody_could_serve_is_refused(
    autojump_clock: MockClock, config: dict[str, object]
) -> None:
    async with harness() as it:
        wanted = {"durable_name": "c", "ack_policy": "explicit", **config}
        name = wanted["durable_name"]
        answer = await it.client.api(f"CONSUMER.CREATE.S.{name}", stream_name="S", config=wanted)
        assert answer["error"]["err_code"] in (10025, 10103)
        await trio.sleep(1)
        await it.consumer("d")


@pytest.mark.parametrize(
    "tokens", ["", "x.x.x.x.x", "1.-1.1.1.1", "1.99999999999999999999.1.1.1", "1.+1.1.1.1", "1.1_0.1.1.1"]
)
@pytest.mark.parametrize("payload", [b"", b"-NAK " + b"[" * 5000, b'-NAK {"delay": 1e999}', b"+NXT {"])
async def test_an_acknowledgement_of_nothing_harms_nobody(
    autojump_clock: MockClock, tokens: str, payload: bytes
) -> None:
    async with harness() as it:
        await it.client.fill("s.0", "s.1")
        await it.consumer()
        [message] = await it.client.fetch("S.c", 1)
        it.client.publish(f"$JS.ACK.S.c.{tokens}", payload)
        it.client.publish(message.reply, payload)
        await trio.sleep(1)
        assert sequences(await it.client.fetch("S.c", 1)) in ([1], [2])


async def test_what_is_stored_is_published_again_once_with_where_it_came_from(
    autojump_clock: MockClock,
) -> None:
    again = {"src": "s.t.*", "dest": "again.{{wildcard(1)}}"}
    async with harness(
        "a", "b", "c", republish=again, subject_transform={"src": "s.*", "dest": "s.t.$1"}
    ) as it:
        inboxes = [client.subscribe("again.>") for client in (it.client,)]
        other = await it.connect("b")
        other.subscribe("again.>")
        await it.client.fill("s.1", "s.1")
        it.client.publish_with("s.2", {"Key": "value"}, b"x")
        for client in (it.client, other):
            got = await client.take(inboxes[0], 4, seconds=2)
            assert [(each.subject, each.payload) for each in got] == [
                ("again.1", b"m0"),
                ("again.1", b"m1"),
                ("again.2", b"x"),
            ]
            assert "Nats-Stream: S\r\nNats-Subject: s.t.1\r\nNats-Sequence: 2\r\n" in got[1].headers
            assert got[1].headers.endswith("Nats-Last-Sequence: 1\r\n\r\n")
            assert got[2].headers.startswith("NATS/1.0\r\nKey: value\r\nNats-Stream: S\r\n")
        info = await it.client.api("STREAM.INFO.S", subjects_filter=">")
        assert info["state"]["subjects"] == {"s.t.1": 2, "s.t.2": 1}


async def test_headers_alone_are_published_again_if_asked(autojump_clock: MockClock) -> None:
    async with harness(republish={"src": ">", "dest": "again.>", "headers_only": True}) as it:
        inbox = it.client.subscribe("again.>")
        await it.client.fill("s.1")
        [got] = await it.client.take(inbox, 1)
        assert (got.subject, got.payload) == ("again.s.1", b"") and "Nats-Msg-Size: 2\r\n" in got.headers


async def test_a_streams_limits_of_consumers_are_defaults_and_bounds(autojump_clock: MockClock) -> None:
    limits = {"inactive_threshold": 10 * SECOND, "max_ack_pending": 7}
    async with harness(consumer_limits=limits) as it:
        made = await it.consumer()
        assert made["config"]["inactive_threshold"] == 10 * SECOND and made["config"]["max_ack_pending"] == 7
        for field, code in (("inactive_threshold", 10153), ("max_ack_pending", 10121)):
            config = {"durable_name": "d", "ack_policy": "explicit", field: 11 * SECOND}
            refused = await it.client.api("CONSUMER.CREATE.S.d", stream_name="S", config=config)
            assert refused["error"]["err_code"] == code


async def test_consumers_in_no_log_are_counted_too(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        await it.consumer()
        ordered = {"name": "o", "mem_storage": True, "ack_policy": "none"}
        await it.client.api("CONSUMER.CREATE.S.o", stream_name="S", config=ordered)
        assert (await it.client.api("STREAM.INFO.S"))["state"]["consumer_count"] == 2


async def test_a_purge_moves_consumers_in_no_log_on_too(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill(*["s.0"] * 6)
        made = await it.client.api(
            "CONSUMER.CREATE.S.v",
            stream_name="S",
            config={"name": "v", "mem_storage": True, "ack_policy": "explicit"},
        )
        assert "error" not in made
        await it.client.fetch("S.v", 2)
        assert (await it.client.api("STREAM.PURGE.S"))["purged"] == 6
        info = await it.info("v")
        assert (info["num_ack_pending"], info["delivered"]["stream_seq"], info["num_pending"]) == (0, 6, 0)


async def test_making_a_paused_consumer_again_leaves_it_paused(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.consumer()
        await it.client.api("CONSUMER.PAUSE.S.c", pause_until="2090-01-01T00:00:00Z")
        assert (await it.consumer())["paused"] is True


async def test_what_is_deleted_holds_nobody_up(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill("s.0", "s.0")
        await it.consumer(max_ack_pending=1)
        inbox = it.client.pull("S.c", batch=2, expires=60 * SECOND)
        assert sequences(await it.client.take(inbox, 1)) == [1]
        assert await it.client.take(inbox, 1, seconds=1) == []
        assert (await it.client.api("STREAM.MSG.DELETE.S", seq=1))["success"] is True
        assert sequences(await it.client.take(inbox, 1, seconds=5)) == [2]


async def test_of_many_waiting_consumers_those_are_looked_at_that_want_the_message(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness() as it:
        inboxes = {}
        for name, pattern in (("one", "s.1"), ("any", "s.*"), ("deep", "s.1.>"), ("all", ">")):
            await it.consumer(name, filter_subject=pattern)
            inboxes[name] = it.client.pull(f"S.{name}", batch=9, expires=60 * SECOND)
        for number in range(20):
            await it.consumer(f"other{number}", filter_subject=f"s.other.{number}")
            it.client.pull(f"S.other{number}", batch=1, expires=60 * SECOND)
        await it.info("one")
        looked: list[str] = []
        plan = LedConsumer.plan

        def watched(led: LedConsumer, now: float, wall: int) -> Plan:
            looked.append(led.consumer.name)
            return plan(led, now, wall)

        monkeypatch.setattr(LedConsumer, "plan", watched)
        await it.client.fill("s.1", "s.2", "s.1.x")
        got = {name: sequences(await it.client.take(inbox, 3, seconds=1)) for name, inbox in inboxes.items()}
        assert got == {"one": [1], "any": [1, 2], "deep": [3], "all": [1, 2, 3]}
        assert set(looked) == set(inboxes)


async def test_a_request_that_expires_while_deliveries_are_on_their_way_keeps_nobody_busy(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader looked again and again, as fast as it could, until the entry was committed."""
    async with harness() as it:
        await it.consumer()
        looks = 0
        look, note = LedConsumer.look, StreamDelivery._note

        def counted(led: LedConsumer, now: float, wall: int) -> None:
            nonlocal looks
            looks += 1
            assert looks < 100, "nothing happened, and it looks"
            look(led, now, wall)

        async def slowly(delivery: StreamDelivery, led: LedConsumer, picked: Sequence[int]) -> int | None:
            await trio.sleep(2)
            return await note(delivery, led, picked)

        monkeypatch.setattr(LedConsumer, "look", counted)
        monkeypatch.setattr(StreamDelivery, "_note", slowly)
        first = it.client.pull("S.c", batch=1, expires=60 * SECOND)
        second = it.client.pull("S.c", batch=1, expires=SECOND)
        await it.client.fill("s.1")
        assert sequences(await it.client.take(first, 1, seconds=5)) == [1]
        assert [each.status for each in await it.client.take(second, 1, seconds=5)] == ["408 Request Timeout"]


async def test_a_stream_may_keep_what_was_given_up(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c") as it:
        subject = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.*"
        made = await it.client.api("STREAM.CREATE.DEAD", name="DEAD", subjects=[subject])
        assert "error" not in made, made
        await it.client.fill("s.0")
        await it.consumer(ack_wait=SECOND, max_deliver=1)
        await it.client.fetch("S.c", 1)
        await trio.sleep(3)
        kept = await it.client.api("STREAM.MSG.GET.DEAD", seq=1)
        assert json.loads(base64.b64decode(kept["message"]["data"]))["stream_seq"] == 1
        assert (await it.client.api("STREAM.INFO.DEAD"))["state"]["messages"] == 1


async def test_a_push_consumer_keeps_to_its_rate(autojump_clock: MockClock) -> None:
    async with harness() as it:
        await it.client.fill(*["s.0"] * 60)
        inbox = it.client.subscribe("deliver")
        one = 2 + 3 + 30  # payload, subject and what a stream counts besides
        await it.consumer(deliver_subject="deliver", rate_limit_bps=8 * one * 10)
        began = trio.current_time()
        got = await it.client.take(inbox, 41, seconds=60)
        assert sequences(got) == list(range(1, 42))
        assert trio.current_time() - began == pytest.approx(4.0, abs=0.5), "ten a second"


async def test_limits_that_a_consumer_is_beyond_are_refused(autojump_clock: MockClock) -> None:
    """The stream's leader knows its consumers; whoever changes the stream asks it, page by page."""
    async with harness("a", "b", "c") as it:
        for number in range(300):
            await it.consumer(f"c{number:03}", max_ack_pending=10, inactive_threshold=5 * SECOND)
        await it.consumer("large", max_ack_pending=20)

        async def limited(**limits: int) -> object:
            answer = await it.client.api("STREAM.UPDATE.S", name="S", num_replicas=3, consumer_limits=limits)
            return answer.get("error", {}).get("description")

        assert await limited(max_ack_pending=20, inactive_threshold=5 * SECOND) is None
        assert await limited(max_ack_pending=19) == "change to limits violates consumers: large"
        refused = str(await limited(inactive_threshold=4 * SECOND))
        assert refused.startswith("change to limits violates consumers: c000, c001,")
        assert await limited(max_ack_pending=30) is None
