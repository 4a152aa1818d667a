"""The stream machine against the model: whatever happens to a stream, both say the same.

Four machines see every batch: the real one; one that takes the slow way for every message; one that is
thrown away at random moments and made again from a capture; and one on the Python block codec's results
(the codec's own twin tests compare the bytes). Blocks are tiny, so that most runs span several.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream.model import Model, Result
from tests.stream.support import Entry, Log, MemoryFiles, command, machine_on, now, publish_with, restored
from trimaran.actors.stream.commands import configure, delete, purge
from trimaran.actors.stream.config import StreamConfig, from_request
from trimaran.actors.stream.errors import ApiError
from trimaran.actors.stream.machine import StreamMachine
from trimaran.actors.stream.results import unpack_all

TENTH = 100_000_000


class SlowMachine(StreamMachine):
    """Decides every message by itself."""

    def _adopt(self, config: StreamConfig | None) -> None:
        super()._adopt(config)
        self._plain = False


subjects = st.sampled_from(["s.a", "s.a", "s.b", "s.b", "s.c", "s.d.e", "x"])
patterns = st.sampled_from(["", ">", "s.a", "s.*", "s.>", "s.*.e", "x", "nothing"])
numbers = st.integers(1, 12).map(str)
questions = st.fixed_dictionaries(
    {},
    optional={
        "Nats-Msg-Id": st.sampled_from(["m1", "m2", "m3"]),
        "Nats-Expected-Stream": st.sampled_from(["S", "S", "Q"]),
        "Nats-Expected-Last-Sequence": numbers,
        "Nats-Expected-Last-Subject-Sequence": numbers,
        "Nats-Expected-Last-Msg-Id": st.sampled_from(["m1", "m2"]),
        "Nats-Rollup": st.sampled_from(["sub", "sub", "all", "never"]),
        "Nats-TTL": st.just("5s"),
    },
)
# Most checked publishes ask one thing, or none would ever be stored.
asked = st.one_of(
    st.builds(lambda name: {"Nats-Msg-Id": name}, st.sampled_from(["m1", "m2", "m3"])),
    st.builds(lambda kind: {"Nats-Rollup": kind}, st.sampled_from(["sub", "all"])),
    questions,
    questions.map(lambda fields: {**fields, "Nats-Expected-Last-Subject-Sequence-Subject": "s.*"}).filter(
        lambda fields: "Nats-Expected-Last-Subject-Sequence" in fields
    ),
)
payloads = st.one_of(st.binary(max_size=20), st.integers(100, 700).map(bytes))
publishes = st.tuples(
    st.just("publish"),
    subjects,
    payloads,
    st.one_of(st.just({}), st.just({}), st.just({}), st.just({"X-Y": "z"}), asked),
)
configs: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "subjects": st.sampled_from([["s.>"], ["s.>"], ["s.a", "s.b"], ["s.*"]]),
        "duplicate_window": st.sampled_from([TENTH, 5 * TENTH]),
    },
    optional={
        "max_msgs": st.sampled_from([1, 3, 10]),
        "max_bytes": st.sampled_from([40, 100, 400]),
        "max_age": st.sampled_from([5 * TENTH, 20 * TENTH]),
        "max_msgs_per_subject": st.sampled_from([1, 2, 5]),
        "max_msg_size": st.sampled_from([10, 150]),
        "discard": st.sampled_from(["old", "new"]),
        "discard_new_per_subject": st.booleans(),
        "allow_rollup_hdrs": st.booleans(),
        "deny_delete": st.booleans(),
        "first_seq": st.sampled_from([5]),
    },
)
commands = st.one_of(
    st.tuples(st.just("configure"), configs, st.integers(0, 3)),
    st.tuples(st.just("purge"), patterns, st.integers(0, 30), st.just(0)),
    st.tuples(st.just("purge"), patterns, st.just(0), st.integers(0, 3)),
    st.tuples(st.just("delete"), st.integers(0, 30)),
    st.tuples(st.just("delete"), st.integers(0, 30)),
)
batches = st.tuples(
    st.integers(0, 8),
    st.one_of(
        st.lists(publishes, min_size=1, max_size=20),
        st.lists(st.one_of(publishes, commands), max_size=6),
    ),
    st.sampled_from([False, False, True]),
)


class Both:
    """The machines and the model, driven together."""

    def __init__(self) -> None:
        self.log, self.model, self.version = Log(), Model(), 0
        self.files = [MemoryFiles() for _ in range(3)]
        self.fast = machine_on(self.files[0])
        self.slow = machine_on(self.files[1], kind=SlowMachine)
        self.reborn = machine_on(self.files[2])

    def batch(self, steps: list[Any], after: int, capture: bool) -> None:
        self.model.begin(self.log.time + after)
        entries, expected = [], []
        for step in steps:
            entry, result = self.step(*step)
            if entry is not None:
                entries.append(entry)
                expected.append(result)
        batch = self.log.batch(*entries, after=after)
        for machine in (self.fast, self.slow, self.reborn):
            assert [tuple(result) for result in unpack_all(machine.apply(batch))] == expected
        if capture:
            self.rebirth()

    def step(self, kind: str, *fields: Any) -> tuple[Entry | None, Result]:
        match kind:
            case "configure":
                return self.configure(*fields)
            case "purge":
                return command(purge(*fields)), self.model.purge(*fields)
            case "delete":
                return command(delete(*fields)), self.model.delete(*fields)
            case _:
                subject, payload, headers = fields
                entry = publish_with(subject, payload, headers)
                block = entry[1][8 + len(subject) : len(entry[1]) - len(payload)]
                return entry, self.model.publish(subject, block, payload, headers)

    def configure(self, settings: dict[str, Any], step: int) -> tuple[Entry | None, Result]:
        try:
            config = from_request("S", {"name": "S", **settings}).to_json()
        except ApiError:  # the draw was no valid configuration
            return None, (0, 0)
        self.version += step - 1
        return command(configure(config, self.version)), self.model.configure(config, self.version)

    def rebirth(self) -> None:
        capture = self.reborn.capture()
        self.files[2] = self.files[2].recovered(capture, lambda name: True)
        self.reborn = restored(capture, self.files[2])

    def check(self) -> None:
        model = self.model
        for machine in (self.fast, self.slow, self.reborn):
            info = machine.info()
            assert (info.messages, info.bytes) == (len(model.messages), model.size)
            assert (info.first_seq, info.last_seq) == (model.first, model.last)
            first = model.messages.get(model.first)
            assert info.first_time == (first.time if first else 0)
            assert machine.subjects() == {
                message.subject: len(model.of(message.subject)) for message in model.messages.values()
            }
            gone = [n for n in range(model.first, model.last + 1) if n not in model.messages]
            assert machine.deleted(1000) == (gone if model.messages else [])
            assert info.num_deleted == len(machine.deleted(1000))
            for sequence in range(max(0, model.last - 50), model.last + 2):
                self.check_message(machine, sequence)
            for pattern in ("s.a", "s.*", ">"):
                after = [number for number in model.of(pattern) if number >= model.last - 5]
                assert machine.next_sequence(max(0, model.last - 5), pattern) == min(after, default=None)
        captures = [machine.capture() for machine in (self.fast, self.slow, self.reborn)]
        assert captures[0].state == captures[1].state == captures[2].state
        contents = [
            [bytes(files.written[entry.name]) for entry in capture.files]
            for files, capture in zip(self.files, captures, strict=True)
        ]
        assert contents[0] == contents[1] == contents[2]

    def check_message(self, machine: StreamMachine, sequence: int) -> None:
        found, expected = now(machine.get(sequence)), self.model.messages.get(sequence)
        if expected is None:
            assert found is None
            return
        assert found is not None
        assert (found.sequence, found.time) == (sequence, expected.time)
        assert (found.subject, found.headers) == (expected.subject.encode(), expected.headers)
        assert found.payload == expected.payload


@settings(max_examples=250)
@given(configs, st.lists(batches, max_size=12))
def test_the_machine_does_what_the_model_does(first: dict[str, Any], history: list[Any]) -> None:
    both = Both()
    both.batch([("configure", first, 2)], 0, capture=False)
    for tenths, steps, capture in history:
        both.batch(steps, tenths * TENTH, capture)
        both.check()
