"""JetStream's administration across the cluster: whoever is asked has it answered by the node that can.

`ApiRouter` finds that node (the leader of the meta group or of the stream) and asks it over the link;
`ApiDesk` is what the answering node offers to `JetStreamApi`, which knows the JSON.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, cast

import trio

from ..codec import Chunk
from .cluster.administration import Administration, is_administration
from .cluster.backup import Backups, is_backup, place_of
from .cluster.meta_commands import command_chunk
from .cluster.meta_state import META_GROUP, MetaState
from .delivery.advisories import Advisories
from .delivery.desk import Deliveries
from .delivery.stream import StreamDelivery
from .gateway.backend import ClusterInfo, ReplicaInfo, StreamAssignment
from .gateway.jetstream import JetStreamApi, Target, api_target
from .groups import Groups
from .peers.peers import Peers
from .peers.requests import NotHere, PeerLost, Refusal, Requests, describe, shaped
from .proposals import Proposals
from .raft.outcomes import Applied, Outcome, Reason, Unknown
from .replica.group import Group, NotDone
from .stream.account_limits import AccountLimits, Held
from .stream.machine import StreamMachine
from .usage import Usage
from .world import Clock

logger = logging.getLogger(__name__)

API: Final = "api"
STREAM_INFO: Final = "api.stream_info"
ANSWER_SECONDS: Final = 8.0
LEADER_SECONDS: Final = 4.0
CONFIGURED_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.02
HOPS: Final = 3  # asked node -> meta leader -> stream leader


def request_target(subject: str) -> Target | str | None:
    """Who answers a request, as `api_target` says it, for both kinds of requests."""
    return Target.META if is_administration(subject) else api_target(subject)


class MetaView(Protocol):
    """The applied meta state of this node."""

    @property
    def state(self) -> MetaState: ...


class ApiRouter:
    """Answers `$JS.API.` and `$TRIMARAN.API.` requests from any node."""

    def __init__(self, groups: Groups, requests: Requests, meta: MetaView, desk: "ApiDesk") -> None:
        self._groups = groups
        self._requests = requests
        self._meta = meta
        self._api = JetStreamApi(desk, desk.wall)
        self._administration = Administration(desk)
        desk.router = self
        self.backups: Backups | None = None
        """Set by the node once it is built."""
        requests.handle(API, self._on_api, (str, bytes, int))
        requests.handle(STREAM_INFO, self._on_stream_info, (str, int, int))

    async def ask(self, subject: str, payload: bytes) -> bytes | None:
        """The JSON answer, or None if there is no such API or nobody could answer in time.

        A change of desired state is visible on this node before its answer is given.
        """
        try:
            with trio.fail_after(ANSWER_SECONDS):
                answer, index = await self._route(subject, payload, HOPS)
                meta = self._groups.get(META_GROUP)
                if meta is not None and index:
                    await meta.wait_applied(index)
                return answer
        except (trio.TooSlowError, PeerLost, Refusal, NotDone) as error:
            logger.info("no answer to %s: %s", subject, describe(error))
            return None

    @property
    def counts(self) -> tuple[int, int]:
        """How many JetStream requests this node answered, and how many of them with an error."""
        return self._api.total, self._api.errors

    async def stream_info(self, name: str, version: int) -> dict[str, object] | None:
        """STREAM.INFO by the stream's leader, once it has applied configuration `version`."""
        stream = self._meta.state.named("stream", name)
        if stream is None:
            return None

        async def here() -> bytes | None:
            return await self._configured_info(name, stream.group, version)

        try:
            with trio.fail_after(CONFIGURED_SECONDS):
                answer = await self._at_leader(stream.group, here, STREAM_INFO, [name, stream.group, version])
        except (trio.TooSlowError, PeerLost, Refusal):
            return None
        return _object(answer) if answer is not None else None

    async def _route(self, subject: str, payload: bytes, hops: int) -> tuple[bytes | None, int]:
        """(answer, the meta index that this node should have applied before it shows the answer)."""
        if hops == 0:
            raise Refusal("the request went round in a circle")
        if is_backup(subject):
            return await self._route_backup(subject, payload, hops)
        target = request_target(subject)
        if target is None:
            return None, 0
        stream = self._meta.state.named("stream", target) if isinstance(target, str) else None
        group = stream.group if stream is not None else META_GROUP

        async def here() -> list[object]:
            if group == META_GROUP and target is not Target.ANY:
                await self._bring_meta_up_to_date()
                if isinstance(target, str) and self._meta.state.named("stream", target) is not None:
                    return list(await self._route(subject, payload, hops - 1))
            answerer = self._administration if is_administration(subject) else self._api
            answer = await answerer.handle(subject, payload)
            meta = self._groups.get(META_GROUP)
            return [answer, meta.applier.applied if meta is not None else 0]

        if target is Target.ANY:
            answer, index = await here()
        else:
            found = await self._at_leader(group, here, API, [subject, payload, hops - 1])
            answer, index = _answer(found)
        return cast(bytes | None, answer), cast(int, index)

    async def _bring_meta_up_to_date(self) -> None:
        """A new meta leader may not have applied what its log holds; "not found" must not come from that."""
        meta = self._groups.get(META_GROUP)
        try:
            if meta is not None:
                await meta.read_barrier()
        except NotDone as refused:
            raise NotHere(str(refused)) from None

    async def _route_backup(self, subject: str, payload: bytes, hops: int) -> tuple[bytes | None, int]:
        place = place_of(subject, payload, META_GROUP)
        backups = self.backups
        if place is None or backups is None:
            return None, 0

        async def here() -> list[object]:
            return [await backups.handle(subject, payload), 0]

        argument = [subject, payload, hops - 1]
        if place.group:
            found = await self._at_leader(place.group, here, API, argument)
        elif place.node == self._groups.me:
            found = await here()
        else:
            found = await self._requests.ask(place.node, API, argument, ANSWER_SECONDS)
        return _answer(found)

    async def _at_leader(
        self, group: int, here: Callable[[], Awaitable[object]], method: str, argument: object
    ) -> object:
        """Have the leader of a group do something; if it leads no longer, the next one, in time."""
        with trio.move_on_after(LEADER_SECONDS):
            while True:
                leader = self._groups.leadership(group)
                if leader is None:
                    await self._groups.wait_leader_change()
                    continue
                try:
                    if leader.node == self._groups.me:
                        return await here()
                    return await self._requests.ask(leader.node, method, argument, ANSWER_SECONDS)
                except NotHere as refusal:
                    logger.debug("%s refused by %016x: %s", method, leader.node, refusal)
                    await trio.sleep(RETRY_SECONDS)
        raise Refusal("the group has no leader that answers")

    async def _on_api(self, asker: int, argument: object) -> object:
        subject, payload, hops = cast(tuple[str, bytes, int], tuple(cast(list[object], argument)))
        hops = min(hops, HOPS - 1)
        if is_backup(subject):
            return list(await self._route(subject, payload, hops))
        target = request_target(subject)
        stream = self._meta.state.named("stream", target) if isinstance(target, str) else None
        group = self._groups.get(stream.group if stream is not None else META_GROUP)
        if stream is None and (group is None or not group.leads):
            raise NotHere("this node does not lead the meta group")
        answer, index = await self._route(subject, payload, hops)
        return [answer, index]

    async def _on_stream_info(self, asker: int, argument: object) -> object:
        name, number, version = cast(tuple[str, int, int], tuple(cast(list[object], argument)))
        group = self._groups.get(number)
        if group is None or not group.leads:
            raise NotHere("this node does not lead the stream")
        return await self._configured_info(name, number, version)

    async def _configured_info(self, name: str, number: int, version: int) -> bytes | None:
        group = self._groups.get(number)
        if group is None:
            raise NotHere("the stream is not hosted here")
        machine = cast(StreamMachine, group.machine)
        try:
            while machine.version < version:
                await group.wait_applied(group.applier.applied + 1)
        except NotDone as closed:
            raise NotHere(str(closed)) from None
        return await self._api.handle(f"$JS.API.STREAM.INFO.{name}", b"", asked=False)


def _answer(found: object) -> tuple[bytes | None, int]:
    """What a node answered to `API`. Raises Malformed."""
    answer, index = cast(list[object], shaped(found, (object, int)))
    if answer is not None:
        shaped(answer, bytes)
    return cast(bytes | None, answer), cast(int, index)


def _object(answer: object) -> dict[str, object] | None:
    """A peer's JSON object; None if it is none."""
    try:
        found = json.loads(answer) if isinstance(answer, bytes) else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else None


class ApiDesk:
    """`ApiHost`: this node, as the JSON side of the API sees it."""

    router: ApiRouter

    def __init__(
        self,
        groups: Groups,
        meta: MetaView,
        proposals: Proposals,
        deliveries: Deliveries,
        clock: Clock,
        cluster_name: str,
        peers: Peers,
        usage: Usage,
        limits: Callable[[], AccountLimits],
        domain: str,
    ) -> None:
        self.domain = domain
        self._groups = groups
        self._peers = peers
        self._usage = usage
        self._limits = limits
        self._meta = meta
        self._proposals = proposals
        self._deliveries = deliveries
        self._clock = clock
        self._cluster_name = cluster_name

    def wall(self) -> int:
        """Nanoseconds since 1970."""
        return self._clock.wall()

    @property
    def level(self) -> int:
        return self._meta.state.level

    @property
    def limits(self) -> AccountLimits:
        return self._limits()

    async def usage(self) -> Held:
        return await self._usage.total()

    def streams(self) -> Mapping[str, StreamAssignment]:
        return {
            stream.name: StreamAssignment(
                name=stream.name,
                group=stream.group,
                incarnation=stream.incarnation,
                config=stream.config,
                version=stream.version,
                created=stream.created,
                replicas=stream.replicas,
            )
            for stream in self._meta.state.streams()
        }

    def node_names(self) -> Mapping[int, str]:
        return {node: record.name for node, record in self._meta.state.nodes.items()}

    @property
    def meta_state(self) -> MetaState:
        return self._meta.state

    @property
    def cluster_id(self) -> int:
        return self._peers.me.cluster

    def is_reachable(self, node: int) -> bool:
        return node == self._groups.me or self._peers.is_up(node)

    def led_by(self, node: int) -> int:
        known = [self._groups.leadership(group) for group in self._meta.state.groups]
        return sum(leader is not None and leader.node == node for leader in known)

    async def propose_meta(self, command: Mapping[str, object]) -> Outcome:
        """The first result of the command's chunk stands for it."""
        outcome = await self.propose(META_GROUP, command_chunk(command))
        if isinstance(outcome, Applied):
            results = outcome.result
            if not isinstance(results, list) or not results:
                return Unknown(Reason.UNREADABLE_ANSWER)
            return Applied(outcome.index, results[0])
        return outcome

    async def propose(self, group: int, chunk: Chunk) -> Outcome:
        """Propose from this node to whoever leads, and wait; cancelling abandons the waiting only."""
        ended = trio.Event()
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            ended.set()

        self._proposals.propose(group, chunk, done)
        await ended.wait()
        return outcomes[0]

    async def stream_info(self, name: str) -> dict[str, object] | None:
        stream = self._meta.state.named("stream", name)
        return await self.router.stream_info(name, stream.version) if stream is not None else None

    async def consumers(self, name: str) -> list[dict[str, object]] | None:
        found: list[dict[str, object]] = []
        while True:
            page = json.dumps({"offset": len(found)}).encode()
            answer = _object(await self.router.ask(f"$JS.API.CONSUMER.LIST.{name}", page))
            if answer is None or "error" in answer:
                return None
            listed = cast("list[dict[str, object]]", answer["consumers"])
            found += listed
            if not listed or len(found) >= cast("int", answer["total"]):
                return found

    def machine(self, group: int) -> StreamMachine | None:
        hosted = self._groups.get(group)
        return hosted.machine if hosted is not None and isinstance(hosted.machine, StreamMachine) else None

    @property
    def advisories(self) -> Advisories:
        return self._deliveries.advisories

    def serving(self, group: int) -> StreamDelivery | None:
        """What serves the stream's consumers here right now."""
        return self._deliveries.serving(group)

    async def delivery(self, group: int) -> StreamDelivery | None:
        return await self._deliveries.leading(group)

    async def read_barrier(self, group: int) -> bool:
        hosted = self._groups.get(group)
        if hosted is None:
            return False
        try:
            await hosted.read_barrier()
        except NotDone:
            return False
        return True

    def leader_of(self, group: int) -> int:
        leader = self._groups.leadership(group)
        return leader.node if leader is not None else 0

    def cluster_of(self, group: int) -> ClusterInfo:
        hosted = self._groups.get(group)
        leader = self._groups.leadership(group)
        names = self.node_names()
        return ClusterInfo(
            name=self._cluster_name,
            leader=names.get(leader.node) if leader is not None else None,
            replicas=self._replicas(hosted, names) if hosted is not None else (),
        )

    def _replicas(self, group: Group, names: Mapping[int, str]) -> tuple[ReplicaInfo, ...]:
        state, leading = group.state, group.state.leading
        now, patience = self._clock.monotonic(), state.options.election_min
        replicas: list[ReplicaInfo] = []
        for node in sorted(state.membership.members - {state.leader or state.node}):
            progress = leading.progress.get(node) if leading is not None else None
            # Of a quiet group's members nothing is heard, nor expected, while their nodes are in reach.
            trusted = state.quiet and node not in state.closed_links
            silence = now - progress.last_contact if progress is not None and not trusted else 0.0
            lag = max(0, state.commit - progress.match) if progress is not None else 0
            replicas.append(
                ReplicaInfo(
                    name=names.get(node, f"{node:016x}"),
                    current=progress is not None and progress.answers(now, patience) and lag == 0,
                    active=int(silence * 1e9),
                    lag=lag,
                    offline=progress is not None and silence > state.options.election_max,
                    peer=f"{node:016x}",
                )
            )
        return tuple(replicas)

    async def transfer(self, group: int, preferred: str | None) -> bool:
        hosted = self._groups.get(group)
        if hosted is None or not hosted.leads:
            return False
        target: int | None = None
        if preferred is not None:
            target = next((node for node, name in self.node_names().items() if name == preferred), None)
            if target is None:
                return False
            if target == self._groups.me:
                return True
        try:
            await hosted.transfer(target)
        except NotDone as refused:
            logger.info("group %s: leadership stays: %s", hosted.name, refused)
            return False
        return True
