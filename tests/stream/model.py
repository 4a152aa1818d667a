"""What a stream is, in as few lines as possible: a dictionary of messages and the rules, one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STORED, DUPLICATE, REFUSED, DONE = range(4)
Result = tuple[int, int]


def refused(err_code: int, detail: int = 0) -> Result:
    return REFUSED, err_code | detail << 16


def matches(pattern: str, subject: str) -> bool:
    if pattern.endswith(">"):
        return subject.startswith(pattern[:-1])
    wanted, tokens = pattern.split("."), subject.split(".")
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


@dataclass
class Message:
    subject: str
    headers: bytes
    payload: bytes
    time: int

    @property
    def size(self) -> int:
        headers = 4 + len(self.headers) if self.headers else 0
        return 30 + len(self.subject) + headers + len(self.payload)


@dataclass
class Model:
    config: dict[str, Any] | None = None
    version: int = 0
    messages: dict[int, Message] = field(default_factory=dict)
    last: int = 0
    touched: bool = False
    """Whether there ever was a message or a purge: before, the first sequence is 0."""
    last_id: str = ""
    duplicates: dict[str, tuple[int, int]] = field(default_factory=dict)
    now: int = 0

    @property
    def first(self) -> int:
        return min(self.messages, default=self.last + 1 if self.touched else 0)

    @property
    def size(self) -> int:
        return sum(message.size for message in self.messages.values())

    def of(self, pattern: str) -> list[int]:
        return [seq for seq, message in self.messages.items() if matches(pattern, message.subject)]

    def begin(self, time: int) -> None:
        self.now = time
        self.expire()

    def expire(self) -> None:
        if self.config is None:
            return
        if self.config["max_age"] > 0:
            horizon = self.now - self.config["max_age"]
            self.messages = {seq: message for seq, message in self.messages.items() if message.time > horizon}
        horizon = self.now - self.config["duplicate_window"]
        self.duplicates = {name: where for name, where in self.duplicates.items() if where[1] > horizon}

    def limit(self) -> None:
        assert self.config is not None
        per_subject = self.config["max_msgs_per_subject"]
        for subject in {message.subject for message in self.messages.values()}:
            while 0 < per_subject < len(self.of(subject)):
                del self.messages[min(self.of(subject))]
        while 0 < self.config["max_msgs"] < len(self.messages):
            del self.messages[min(self.messages)]
        while 0 < self.config["max_bytes"] < self.size:
            del self.messages[min(self.messages)]

    def configure(self, config: dict[str, Any], version: int) -> Result:
        if version <= self.version:
            return DONE, self.version
        if self.config is None and config.get("first_seq", 0) > 1 and not self.last:
            self.last, self.touched = config["first_seq"] - 1, True
        self.config, self.version = config, version
        self.expire()
        self.limit()
        return DONE, version

    def purge(self, pattern: str, seq: int, keep: int) -> Result:
        if self.config is None or (seq and keep):
            return refused(10003)
        if self.config["deny_purge"]:
            return refused(10110)
        everything = pattern in ("", ">")
        meant = sorted(self.of(pattern or ">"))
        if keep:
            meant = meant[: max(0, len(meant) - keep)]
        elif seq:
            meant = [number for number in meant if number < seq]
        for number in meant:
            del self.messages[number]
        if everything and not keep:
            self.touched = self.touched or not seq
            if seq > self.last + 1:
                self.last, self.touched = seq - 1, True
        return DONE, len(meant)

    def delete(self, seq: int) -> Result:
        if self.config is None:
            return refused(10003)
        if self.config["deny_delete"]:
            return refused(10057, 2)
        if seq > self.last or seq < max(1, self.first):
            return refused(10057, 1 if seq > self.last else 0)
        return (DONE, 1) if self.messages.pop(seq, None) else refused(10043, seq)

    def publish(self, subject: str, headers: bytes, payload: bytes, asked: dict[str, str]) -> Result:
        config = self.config
        if config is None or not any(matches(pattern, subject) for pattern in config["subjects"]):
            return refused(10059)
        if asked.get("Nats-Expected-Stream", "S") != "S":
            return refused(10060)
        if "Nats-TTL" in asked:
            return refused(10166)
        if asked.get("Nats-Msg-Id") in self.duplicates:
            return DUPLICATE, self.duplicates[asked["Nats-Msg-Id"]][0]
        if 0 < config["max_msg_size"] < len(headers) + len(payload):
            return refused(10054)
        if asked.get("Nats-Expected-Last-Sequence", str(self.last)) != str(self.last):
            return refused(10071, self.last)
        held = max(self.of(asked.get("Nats-Expected-Last-Subject-Sequence-Subject", subject)), default=0)
        if asked.get("Nats-Expected-Last-Subject-Sequence", str(held)) != str(held):
            return refused(10071, held)
        if asked.get("Nats-Expected-Last-Msg-Id", self.last_id) != self.last_id:
            return refused(10070)
        rollup = asked.get("Nats-Rollup")
        if rollup and not config["allow_rollup_hdrs"]:
            return refused(10111)
        if rollup not in (None, "sub", "all"):
            return refused(10111, 1)
        message = Message(subject, headers, payload, self.now)
        if config["discard"] == "new":
            mine = sorted(self.of(subject))
            replaces = 0 < config["max_msgs_per_subject"] <= len(mine)
            if replaces and config.get("discard_new_per_subject") and not rollup:
                return refused(10077, 2)
            if 0 < config["max_msgs"] <= len(self.messages) and not replaces:
                return refused(10077, 0)
            freed = self.messages[mine[0]].size if replaces else 0
            if 0 < config["max_bytes"] < self.size - freed + message.size:
                return refused(10077, 1)
        self.last, self.touched = self.last + 1, True
        self.messages[self.last] = message
        self.last_id = asked.get("Nats-Msg-Id", "")
        if self.last_id:
            self.duplicates[self.last_id] = (self.last, self.now)
        if rollup:
            for number in self.of(">" if rollup == "all" else subject):
                if number != self.last:
                    del self.messages[number]
        self.limit()
        return STORED, self.last
