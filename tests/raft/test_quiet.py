"""Idle groups stop beating and trust the nodes instead (DESIGN 8), and every doubt wakes them."""

from dataclasses import replace

import pytest

from trimaran.actors.raft.effects import Send
from trimaran.actors.raft.messages import (
    AppendReply,
    Beat,
    BeatReply,
    PeerDown,
    PeerMessage,
    PeerSilent,
    PeerUp,
    ReadIndex,
    RequestVote,
    Resigned,
    StorageFailed,
    Transfer,
)
from trimaran.actors.raft.state import RaftOptions, Role
from trimaran.testing.process import Process

from .replica import Replica, messages_in
from .scenes import Scene

OPTIONS = RaftOptions(quiet_after=0.5, quiet_heartbeat=1000.0)
"""No quiet beat comes to the rescue of what should have been woken."""


class Quiet(Scene):
    """Three nodes whose group has gone quiet. Counts the messages of the group."""

    def __init__(self, seed: int = 0, options: RaftOptions = OPTIONS) -> None:
        super().__init__(seed, options=options)
        self.messages: list[PeerMessage] = []
        transmit = self.weather.send

        def send(sender: int, peer: int, message: PeerMessage | None) -> None:
            if message is not None:
                self.messages.append(message)
            transmit(sender, peer, message)

        self.weather.send = send  # type: ignore[method-assign]  # it listens, and changes nothing
        self.elect()
        self.settle()

    def settle(self) -> None:
        assert self.run_until(self.all_quiet, 5.0), "not quiet"

    def all_quiet(self) -> bool:
        return all(node.state is not None and node.state.quiet for node in self.processes.values())

    @property
    def led(self) -> Process:
        leader = self.leader()
        assert leader is not None
        return leader

    def follower(self) -> Process:
        return next(node for node in self.processes.values() if node is not self.led)


def test_a_quiet_group_says_nothing_and_keeps_its_leader() -> None:
    cluster = Quiet()
    leader, term = cluster.led.id, cluster.state(1).term
    cluster.messages.clear()
    cluster.run(100)
    assert cluster.messages == []
    assert (cluster.led.id, cluster.state(1).term) == (leader, term)


def test_a_proposal_wakes_it_and_is_not_slower_for_it() -> None:
    cluster = Quiet()
    assert cluster.serves()
    state = cluster.led.state
    assert state is not None and not state.quiet
    cluster.settle()
    assert cluster.converged()


def test_a_read_wakes_it_and_is_confirmed_by_a_majority() -> None:
    cluster = Quiet()
    cluster.messages.clear()
    token = cluster.ask(cluster.led, ReadIndex)
    assert cluster.run_until(lambda: token in cluster.outcomes, 0.5)
    assert any(isinstance(message, BeatReply) and message.read for message in cluster.messages)


@pytest.mark.parametrize("seed", range(5))
def test_a_quiet_leader_whose_links_close_is_replaced_at_once(seed: int) -> None:
    cluster = Quiet(seed)
    old, began = cluster.led, cluster.time
    cluster.stop(old, told=True)
    assert cluster.run_until(lambda: cluster.leader() not in (None, old), 2.0)
    assert cluster.time - began < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_quiet_leader_that_falls_silent_is_replaced_and_leads_no_more(seed: int) -> None:
    cluster = Quiet(seed)
    old, began = cluster.led, cluster.time
    cluster.isolate(old.id, notice=False)
    assert cluster.run_until(lambda: cluster.leader() not in (None, old), 3.0)
    assert cluster.time - began < 2.0
    assert cluster.run_until(lambda: old.state is not None and old.state.role is not Role.LEADER, 2.0)
    cluster.heal()
    assert cluster.run_until(cluster.converged, 5.0)


def test_a_silent_follower_changes_nothing() -> None:
    cluster = Quiet()
    leader, away = cluster.led, cluster.follower()
    cluster.isolate(away.id, notice=False)
    cluster.run(3)
    assert cluster.led is leader and cluster.serves()
    term = cluster.state(leader.id).term
    cluster.heal()
    assert cluster.run_until(cluster.converged, 5.0)
    assert cluster.state(leader.id).term == term, "it does not disturb when it is back"
    cluster.settle()


def test_a_restarted_follower_is_heard_and_fed() -> None:
    cluster = Quiet()
    away = cluster.follower()
    cluster.stop(away)
    assert cluster.serves()
    cluster.restart(away)
    assert cluster.run_until(cluster.converged, 3.0)
    cluster.settle()


def test_a_leader_restarted_so_fast_that_nobody_noticed_is_not_trusted_for_long() -> None:
    cluster = Quiet()
    old = cluster.led
    old.crash(power=False)
    assert old.start()
    assert cluster.run_until(lambda: cluster.leader() is not None, 3.0)
    assert cluster.serves()


def test_a_leadership_that_ends_wakes_its_followers() -> None:
    cluster = Quiet()
    old, began = cluster.led, cluster.time
    old.step(StorageFailed())
    assert cluster.run_until(lambda: cluster.leader() not in (None, old), 2.0)
    assert cluster.time - began < 0.5


def test_what_should_have_woken_it_may_be_lost() -> None:
    """The rare beat of a quiet leader, and the long timeout of a quiet follower, are the net below."""
    cluster = Quiet(options=replace(OPTIONS, quiet_heartbeat=5.0))
    old = cluster.led
    cluster.isolate(old.id, notice=False)
    old.step(StorageFailed())
    for node in cluster.processes.values():
        node.liveness.fallen_silent(1e9)  # and nobody remembers to have heard anyone
    cluster.weather.heal()
    assert cluster.run_until(lambda: cluster.leader() not in (None, old), 25.0)


def test_a_flapping_node_disturbs_nobody() -> None:
    cluster = Quiet()
    leader, flapping = cluster.led, cluster.follower()
    term = cluster.state(leader.id).term
    for _ in range(10):
        cluster.isolate(flapping.id)
        cluster.run(0.7)
        cluster.heal()
        cluster.run(0.4)
    assert cluster.led is leader and cluster.state(leader.id).term == term


# --- one replica at a time ----------------------------------------------------------------------------------


def quiet_leader() -> Replica:
    leader = Replica(options=OPTIONS).serve()
    leader.wait(OPTIONS.quiet_after)
    leader.tick()
    assert all(beat.quiet for beat in leader.sent(Beat))
    for peer in leader.others():
        assert not leader.state.quiet
        agree(leader, peer)
    assert leader.state.quiet
    return leader


def agree(leader: Replica, peer: int, *, quiet: bool = True) -> None:
    leader.step(replace(leader.beat_reply(peer, match=leader.state.log.last_index), quiet=quiet))


def test_one_that_does_not_agree_keeps_the_group_awake() -> None:
    leader = Replica(options=OPTIONS).serve()
    leader.wait(OPTIONS.quiet_after)
    leader.tick()
    agree(leader, 2)
    agree(leader, 3, quiet=False)
    agree(leader, 2)
    assert not leader.state.quiet


def test_a_peer_out_of_reach_is_not_asked_but_a_majority_must_be() -> None:
    leader = Replica(options=OPTIONS).serve()
    leader.step(PeerDown(3))
    leader.wait(OPTIONS.quiet_after)
    leader.tick()
    agree(leader, 2)
    assert leader.state.quiet
    leader.step(PeerUp(3))
    assert not leader.state.quiet, "what came back may lack something"
    leader.step(PeerDown(2))
    leader.step(PeerDown(3))
    leader.wait(OPTIONS.quiet_after)
    leader.tick()
    assert not leader.state.quiet


@pytest.mark.parametrize("message", [PeerUp(2), ReadIndex(70), Transfer(2, 80)])
def test_every_doubt_and_every_wish_wakes_the_leader(message: PeerUp) -> None:
    leader = quiet_leader()
    leader.step(message)
    assert not leader.state.quiet
    assert leader.state.deadline <= leader.time + OPTIONS.heartbeat
    leader.tick()
    assert leader.role() is Role.LEADER, "it is given the time of a quorum check"
    for _ in range(2):
        leader.wait(OPTIONS.election_min)
        leader.tick()
    assert leader.role() is not Role.LEADER


@pytest.mark.parametrize("lost", [PeerSilent, PeerDown])
def test_the_leader_wakes_when_no_majority_is_left_to_trust(lost: type[PeerSilent] | type[PeerDown]) -> None:
    leader = quiet_leader()
    leader.step(lost(2))
    assert leader.state.quiet, "a node that died must not wake a thousand leaders elsewhere"
    leader.step(lost(3))
    assert not leader.state.quiet


def test_somebody_who_asks_for_votes_wakes_the_leader() -> None:
    leader = quiet_leader()
    leader.step(leader.request_vote(2, leader.state.term, (9, 9), pre=True))
    assert not leader.state.quiet


def quiet_follower() -> Replica:
    follower = Replica(node=1, options=OPTIONS)
    follower.step(follower.append(2, 1, (0, 0), [1], commit=1))
    follower.settle()
    follower.step(replace(follower.beat(2, 1, commit=1), quiet=True))
    assert follower.state.quiet and follower.sent(BeatReply)[0].quiet
    follower.wait(100)
    return follower


def test_a_follower_agrees_only_when_it_has_everything() -> None:
    follower = Replica(node=1, options=OPTIONS)
    follower.step(follower.append(2, 1, (0, 0), [1, 1], commit=1))
    ask = replace(follower.beat(2, 1, commit=1), quiet=True)
    follower.step(ask)
    assert not follower.state.quiet, "not all is committed"
    follower.step(replace(ask, commit=2))
    assert not follower.state.quiet, "not all is synced"
    follower.settle()
    follower.step(replace(ask, commit=2))
    assert follower.state.quiet


def test_a_quiet_follower_helps_nobody_against_the_leader_it_trusts() -> None:
    follower = quiet_follower()
    follower.step(follower.request_vote(3, 1, (9, 1), pre=True))
    [reply] = [send.message for send in follower.all(Send)]
    assert getattr(reply, "granted", None) is False
    follower.step(follower.request_vote(3, 7, (9, 1)))
    assert follower.state.term == 1


def test_a_leader_that_asks_for_a_vote_itself_leads_no_more() -> None:
    follower = quiet_follower()
    follower.step(follower.request_vote(2, 1, (9, 1), pre=True))
    assert [getattr(send.message, "granted", None) for send in follower.all(Send)] == [True]


@pytest.mark.parametrize("message", [PeerSilent(2), PeerDown(2), PeerUp(2)])
def test_every_doubt_about_the_leaders_node_wakes_a_follower(message: PeerSilent) -> None:
    follower = quiet_follower()
    follower.step(message)
    assert not follower.state.quiet
    assert follower.state.deadline <= follower.time + OPTIONS.election_max
    follower.tick()
    assert follower.role() is Role.PRE_CANDIDATE


@pytest.mark.parametrize("message", [PeerSilent(3), PeerDown(3), PeerUp(3)])
def test_other_nodes_are_not_its_concern(message: PeerSilent) -> None:
    follower = quiet_follower()
    follower.step(message)
    assert follower.state.quiet


def test_a_resigned_leader_is_none_and_a_late_or_foreign_word_changes_nothing() -> None:
    follower = quiet_follower()
    said = {"group": 2, "incarnation": 77}
    follower.step(Resigned(group=2, incarnation=77, sender=3, term=1))
    assert follower.state.leader == 2
    follower.step(Resigned(**said, sender=2, term=0))
    assert follower.state.leader == 2
    follower.step(Resigned(**said, sender=2, term=1))
    assert follower.state.leader == 0
    follower.tick()
    assert messages_in(follower.all(Send), RequestVote)


def test_an_acknowledgement_of_a_catching_up_follower_is_no_agreement() -> None:
    leader = Replica(options=OPTIONS).serve()
    leader.propose()
    leader.settle()
    leader.acknowledge(2)
    leader.wait(OPTIONS.quiet_after)
    leader.tick()
    assert not any(beat.quiet for beat in leader.sent(Beat)), "follower 3 lacks a batch"
    assert isinstance(leader.append_reply(3, 1), AppendReply)
