"""Whom a node tells that a leader elsewhere died: those whose pull requests may still wait there."""

import json

from trimaran.actors.delivery.forwarded import BODY_REMEMBERED, REMEMBERED, Forwarded

SECOND = 1_000_000_000
GROUP, OLD, NEW = 7, 1, 2


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_requests_that_may_still_wait_are_told_once() -> None:
    forwarded = Forwarded(lambda node: False)
    forwarded.sent(GROUP, OLD, b"long", body(expires=30 * SECOND), 100.0)
    forwarded.sent(GROUP, OLD, b"expired", body(expires=5 * SECOND), 100.0)
    forwarded.sent(GROUP, OLD, b"at once", body(no_wait=True), 100.0)
    forwarded.sent(GROUP, OLD, b"for ever", b"", 100.0)
    forwarded.sent(GROUP, OLD, b"a number", b"5", 100.0)
    forwarded.sent(GROUP, OLD, b"nonsense", b"{", 100.0)
    forwarded.sent(GROUP + 1, NEW, b"elsewhere", b"", 100.0)
    assert forwarded.lost(OLD, 110.0) == [b"long", b"for ever", b"a number"]
    assert forwarded.lost(OLD, 110.0) == []
    assert forwarded.lost(NEW, 110.0) == [b"elsewhere"]


def test_a_leader_that_is_still_there_speaks_for_itself() -> None:
    up = {OLD}
    forwarded = Forwarded(up.__contains__)
    forwarded.sent(GROUP, OLD, b"inbox", b"", 100.0)
    assert forwarded.led_by(GROUP, OLD, 101.0) == []
    assert forwarded.led_by(GROUP, NEW, 101.0) == [], "it stepped down, and said so"
    assert forwarded.lost(OLD, 101.0) == []
    forwarded.sent(GROUP, OLD, b"inbox", b"", 102.0)
    up.clear()
    assert forwarded.led_by(GROUP, NEW, 103.0) == [b"inbox"]


def test_what_is_remembered_is_bounded_and_the_newest() -> None:
    forwarded = Forwarded(lambda node: False)
    forwarded.sent(GROUP, OLD, b"large", bytes(BODY_REMEMBERED + 1), 100.0)
    for number in range(REMEMBERED + 10):
        forwarded.sent(GROUP, OLD, b"%d" % number, b"", 100.0)
        forwarded.sent(GROUP, OLD, b"0", b"", 100.0)  # asks again and again
    told = forwarded.lost(OLD, 101.0)
    assert len(told) == REMEMBERED
    assert b"0" in told and b"1" not in told and b"%d" % (REMEMBERED + 9) in told
