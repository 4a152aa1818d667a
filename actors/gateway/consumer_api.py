"""The JetStream API of consumers: `$JS.API.CONSUMER.` subjects, answered by the leader of their stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ..stream import commands
from ..stream.config import decode_json
from ..stream.consumer import Position
from ..stream.consumer_config import (
    PRIORITY_SINCE,
    ConsumerConfig,
    ConsumerRequest,
    check_config,
    fixed_change,
    from_request,
    parse_time,
    same_config,
    with_account_limit,
    with_limits,
)
from ..stream.errors import ApiError, api_error, json_error
from ..stream.views import ZERO_TIME, listed, rfc3339
from .request_json import check_empty, offset_of, read_request, text_of

if TYPE_CHECKING:
    from ..delivery.led import LedConsumer
    from ..delivery.stream import StreamDelivery
    from ..stream.account_limits import AccountLimits
    from ..stream.config import StreamConfig
    from ..stream.machine import StreamMachine
    from .backend import StreamAssignment

__all__ = [
    "CONSUMER_PREFIX",
    "ConsumerApi",
    "ConsumerHost",
    "ConsumerQuestion",
    "consumer_json",
    "read_body",
    "read_question",
]

CONSUMER_PREFIX: Final = "$JS.API.CONSUMER."
NAMES_LIMIT: Final = 1024
LIST_LIMIT: Final = 256

NOT_SUPPORTED: Final = ApiError(501, 10036, "this request on consumers is not supported yet")
UNAVAILABLE: Final = ApiError(503, 10008, "JetStream system temporarily unavailable")


@dataclass(frozen=True, slots=True)
class ConsumerQuestion:
    """A request's subject, taken apart."""

    kind: str
    stream: str
    name: str = ""
    filtered: str = ""
    """The filter that a create request's subject ends in."""
    durable: bool = False

    @property
    def type(self) -> str:
        """The response's type without prefix and `_response`."""
        return f"consumer_{self.kind}"

    @property
    def paged(self) -> bool:
        """Its answers list consumers by page."""
        return self.kind in ("names", "list")


def read_question(subject: str) -> ConsumerQuestion | None:
    """What a subject asks of consumers, or None if it is no such subject."""
    if not subject.startswith(CONSUMER_PREFIX):
        return None
    tokens = subject[len(CONSUMER_PREFIX) :].split(".")
    if "" in tokens:
        return None
    match tokens:
        case ["CREATE", stream]:
            return ConsumerQuestion("create", stream)
        case ["CREATE", stream, name, *filtered]:
            return ConsumerQuestion("create", stream, name, ".".join(filtered))
        case ["DURABLE", "CREATE", stream, name]:
            return ConsumerQuestion("create", stream, name, durable=True)
        case ["INFO" | "DELETE" | "PAUSE" | "RESET" | "UNPIN" as kind, stream, name]:
            return ConsumerQuestion(kind.lower(), stream, name)
        case ["NAMES" | "LIST" as kind, stream]:
            return ConsumerQuestion(kind.lower(), stream)
        case ["LEADER", "STEPDOWN", stream, name]:
            return ConsumerQuestion("leader_stepdown", stream, name)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Body:
    """A request's payload, read."""

    create: ConsumerRequest | None = None
    offset: int = 0
    until: str = ""
    """Until when a consumer is to be paused; empty: not at all."""
    group: str = ""
    """Whose pinned client is to be another one."""


def read_body(question: ConsumerQuestion, payload: bytes) -> Body:
    """What a payload says. Its errors come first, whether there is such a stream or not. Raises ApiError."""
    match question.kind:
        case "create":
            value = decode_json(payload) if payload.strip() else {}
            request = from_request(question.stream, question.name, question.filtered, question.durable, value)
            return Body(create=request)
        case "info" | "delete":
            check_empty(payload)
            return Body()
        case "names" | "list":
            return Body(offset=offset_of(read_request(payload, "offset")))
        case "unpin":
            if not payload.strip():
                raise json_error("unexpected end of JSON input")
            group = text_of(read_request(payload, "group"), "group")
            if not group:
                raise json_error("consumer group not specified")
            return Body(group=group)
        case "pause":
            until = text_of(read_request(payload, "pause_until"), "pause_until")
            if not until or until.startswith("0001-"):
                return Body()
            parse_time(until)
            return Body(until=until)
        case _:
            return Body()


class ConsumerHost:
    """What the answers need of `JetStreamApi` and its node, bound to one stream."""

    def __init__(
        self,
        assignment: StreamAssignment,
        machine: StreamMachine,
        delivery: StreamDelivery,
        nodes: int,
        change: Callable[[bytes], Awaitable[int]],
        cluster: Mapping[str, object],
        wall: int,
        limits: AccountLimits,
        level: int,
    ) -> None:
        self.assignment = assignment
        self.machine = machine
        self.delivery = delivery
        self.nodes = nodes
        self.change = change
        self.cluster = cluster
        self.wall = wall
        self.limits = limits
        self.level = level
        """The protocol that all nodes speak."""

    @property
    def config(self) -> StreamConfig:
        config = self.machine.config
        if config is None:
            raise UNAVAILABLE.fresh()
        return config


class ConsumerApi:
    """Answers questions about the consumers of one stream, on its leader."""

    def __init__(self, host: ConsumerHost) -> None:
        self._host = host

    async def answer(self, question: ConsumerQuestion, body: Body) -> dict[str, object]:
        """The body of the response. Raises ApiError."""
        match question.kind:
            case "create" if body.create is not None:
                return await self._create(body.create)
            case "info":
                return self._info(self._find(question.name))
            case "delete":
                return await self._delete(question.name)
            case "names":
                page, found = self._page(body.offset, NAMES_LIMIT)
                return {**page, "consumers": found}
            case "list":
                page, found = self._page(body.offset, LIST_LIMIT)
                return {**page, "consumers": [listed(self._info(self._find(name))) for name in found]}
            case "pause":
                return await self._pause(question.name, body.until)
            case "unpin":
                return self._unpin(question.name, body.group)
            case _:
                raise NOT_SUPPORTED.fresh()

    # --- making and changing ----------------------------------------------------------------------------

    async def _create(self, request: ConsumerRequest) -> dict[str, object]:
        host = self._host
        config, action = with_limits(request, host.config.consumer_limits), request.action
        config = with_account_limit(request, config, host.limits.max_ack_pending)
        check_config(config, host.config, host.nodes)
        if config.has_priority and host.level < PRIORITY_SINCE:
            raise ApiError(503, 10036, "priority groups need a newer program on every node of the cluster")
        name = config.name or host.delivery.new_name()
        standing = host.delivery.find(name)
        if standing is not None:
            # Only PAUSE changes it: a client that finds its consumer paused does not set it going.
            config = replace(config, pause_until=standing.consumer.config.pause_until)
            self._check_update(standing, config, action)
        elif action == "update":
            raise api_error(10149)
        elif 0 < host.limits.consumers_of(host.config) <= len(host.delivery.names()):
            raise api_error(10026)
        if standing.volatile if standing is not None else config.is_volatile(host.config.retention):
            self._create_volatile(name, config, standing)
        else:
            await host.change(commands.consumer(name, config.to_json(), action))
        return self._info(self._find(name))

    def _create_volatile(self, name: str, config: ConsumerConfig, standing: LedConsumer | None) -> None:
        host = self._host
        if standing is not None:
            host.delivery.change_volatile(standing, config)
        else:
            host.delivery.create_volatile(name, config)

    def _check_update(self, standing: LedConsumer, config: ConsumerConfig, action: str) -> None:
        """The same checks are made again at apply, where they count."""
        old = standing.consumer.config
        if same_config(old, config):
            return
        if action == "create":
            raise api_error(10148)
        fixed = fixed_change(old, config)
        if fixed is not None:
            raise api_error(10012, fixed)

    async def _delete(self, name: str) -> dict[str, object]:
        led = self._find(name)
        if led.volatile:
            self._host.delivery.delete_volatile(led)
        else:
            await self._host.change(commands.delete_consumer(name))
        return {"success": True}

    async def _pause(self, name: str, until: str) -> dict[str, object]:
        led = self._find(name)
        if led.volatile:
            self._host.delivery.change_volatile(led, replace(led.consumer.config, pause_until=until))
        else:
            await self._host.change(commands.pause_consumer(name, until))
        left = (parse_time(until) if until else 0) - self._host.wall
        shown: dict[str, object] = {"paused": left > 0, "pause_until": until or ZERO_TIME}
        stream = self._host.assignment.name
        self._host.delivery.advisories.tell(
            f"CONSUMER.PAUSE.{stream}.{name}", "consumer_pause", stream=stream, consumer=name, **shown
        )
        return shown | {"pause_remaining": left} if left > 0 else shown

    def _unpin(self, name: str, group: str) -> dict[str, object]:
        led = self._find(name)
        if group not in led.consumer.config.priority_groups:
            raise api_error(10160)
        self._host.delivery.unpin(led)
        return {}

    def check_there(self, name: str) -> None:
        """Raises ApiError 10014 if there is no such consumer."""
        self._find(name)

    # --- showing ----------------------------------------------------------------------------------------

    def _find(self, name: str) -> LedConsumer:
        led = self._host.delivery.find(name)
        if led is None:
            raise api_error(10014)
        return led

    def _page(self, offset: int, limit: int) -> tuple[dict[str, object], list[str]]:
        names = self._host.delivery.names()
        offset = min(offset, len(names))
        page: dict[str, object] = {"total": len(names), "offset": offset, "limit": limit}
        return page, names[offset : offset + limit]

    def _info(self, led: LedConsumer) -> dict[str, object]:
        host = self._host
        return consumer_json(led, host.assignment.name, host.cluster, host.wall)


def consumer_json(
    led: LedConsumer, stream: str, cluster: Mapping[str, object], wall: int
) -> dict[str, object]:
    """A consumer's information, as of a moment (ns since 1970)."""
    consumer, config = led.consumer, led.consumer.config
    echo = config.to_json()
    if not config.durable_name and not config.name:
        echo.pop("name", None)
    shown: dict[str, object] = {
        "stream_name": stream,
        "name": consumer.name,
        "created": rfc3339(consumer.created),
        "config": echo,
        "delivered": _position(consumer.delivered),
        "ack_floor": _position(consumer.floor),
        "num_ack_pending": len(consumer.pending),
        "num_redelivered": sum(each.count > 1 for each in consumer.pending.values()),
        "num_waiting": len(led.waiting),
        "num_pending": led.num_pending(),
        "cluster": dict(cluster),
    }
    if led.bound:
        shown["push_bound"] = True
    if config.priority_groups:
        shown["priority_groups"] = [_group(led)]
    remaining = config.paused_until - wall
    if remaining > 0:
        shown |= {"paused": True, "pause_remaining": remaining}
    return shown | {"ts": rfc3339(wall)}


def _group(led: LedConsumer) -> dict[str, object]:
    """The first group, which is the only one that is served, as in the reference."""
    pin = led.pin
    return {
        "group": led.consumer.config.priority_groups[0],
        **({"pinned_client_id": pin.id} if pin is not None else {}),
        "pinned_ts": rfc3339(pin.since) if pin is not None else ZERO_TIME,
    }


def _position(position: Position) -> dict[str, object]:
    shown: dict[str, object] = {"consumer_seq": position.consumer, "stream_seq": position.stream}
    return shown | {"last_active": rfc3339(position.time)} if position.time else shown
