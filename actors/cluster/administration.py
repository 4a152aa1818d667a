"""Who belongs to the cluster, as an operator asks for it: `$TRIMARAN.API.` requests with JSON answers.

They come in over the NATS client port, like `$JS.API.` requests, and take the same way: any node may be
asked, the meta group's leader answers. So whoever may manage streams may manage nodes (there is one kind of
rights), a command needs one address of the cluster and no second listener, and the monitor stays read-only.

    CLUSTER.INFO      {}                                  nodes, who leads, what still moves
    CLUSTER.ADD       {"name", "address"}                 invite a node
    CLUSTER.REMOVE    {"name"}                            move its replicas away, then remove it
    CLUSTER.REPLACE   {"replaces", "name", "address"}     invite a node that takes another one's place
    CLUSTER.REBALANCE {}                                  move some replicas towards an even load, and all
                                                          leaderships home; `changed`: groups that move

Each changes desired state only and answers as soon as that is committed; CLUSTER.INFO shows how far it got.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, cast

from ..peers.wire import OLDEST_PROTOCOL
from ..raft.outcomes import Applied, NotApplied, Outcome
from ..stream.config import decode_json
from ..stream.errors import ApiError, json_error
from ..units import check_name, split_address
from .meta import NODE_EXISTS
from .meta_state import MetaState

PREFIX: Final = "$TRIMARAN.API."
TYPE_PREFIX: Final = "io.trimaran.api.v1."
UNAVAILABLE: Final = ApiError(503, 10008, "the cluster is temporarily unavailable: nothing was changed")
UNKNOWN: Final = ApiError(503, 20001, "outcome unknown: the change may or may not have been made")


class AdministrationHost(Protocol):
    """The node that leads the meta group, as this sees it."""

    @property
    def meta_state(self) -> MetaState: ...

    @property
    def cluster_id(self) -> int: ...

    def is_reachable(self, node: int) -> bool:
        """Whether a link to that node stands (true for this one)."""

    def led_by(self, node: int) -> int:
        """How many groups that node leads, as far as this one knows."""

    async def propose_meta(self, command: Mapping[str, object]) -> Outcome: ...


def is_administration(subject: str) -> bool:
    """Whether a request is one of these."""
    return subject.startswith(PREFIX)


class Administration:
    """Answers on the node that leads the meta group."""

    def __init__(self, host: AdministrationHost) -> None:
        self._host = host
        self._handlers: dict[str, Callable[[Mapping[str, object]], Awaitable[dict[str, object]]]] = {
            "CLUSTER.INFO": self._info,
            "CLUSTER.ADD": self._add,
            "CLUSTER.REMOVE": self._remove,
            "CLUSTER.REPLACE": self._replace,
            "CLUSTER.REBALANCE": self._rebalance,
        }

    async def handle(self, subject: str, payload: bytes) -> bytes | None:
        """The answer's JSON; None: there is no such request."""
        what = subject[len(PREFIX) :]
        handler = self._handlers.get(what)
        if handler is None:
            return None
        try:
            body = await handler(_request(payload))
        except ApiError as error:
            body = {"error": error.to_json()}
        kind = f"{TYPE_PREFIX}{what.lower().replace('.', '_')}_response"
        return json.dumps({"type": kind, **body}, separators=(",", ":")).encode()

    async def _info(self, request: Mapping[str, object]) -> dict[str, object]:
        state = self._host.meta_state
        nodes = [
            {
                "name": record.name,
                "id": f"{record.node:016x}",
                "address": record.address,
                "state": "leaving" if record.node in state.leaving else "member",
                "protocol": state.versions.get(record.node, OLDEST_PROTOCOL),
                "reachable": self._host.is_reachable(record.node),
                "replicas": sum(record.node in group.replicas for group in state.groups.values()),
                "leads": self._host.led_by(record.node),
                "needed_by": [
                    group.name
                    for group in state.groups.values()
                    if record.node in group.settled and record.node not in group.replicas
                ],
            }
            for record in sorted(state.nodes.values(), key=lambda record: record.name)
        ]
        invited = [
            {"name": each.name, "address": each.address, "state": "invited"}
            for each in state.invited.values()
        ]
        return {
            "cluster": f"{self._host.cluster_id:016x}",
            "protocol": state.level,
            "nodes": [*nodes, *invited],
            "removed": [f"{node:016x}" for node in sorted(state.removed)],
        }

    async def _add(self, request: Mapping[str, object]) -> dict[str, object]:
        return await self._invite(request, "")

    async def _replace(self, request: Mapping[str, object]) -> dict[str, object]:
        return await self._invite(request, _text(request, "replaces"))

    async def _invite(self, request: Mapping[str, object], replaced: str) -> dict[str, object]:
        """The address is looked at before the command is proposed: what applying decides is the same in all
        versions."""
        name, address = _name(request), _address(request)
        for record in self._host.meta_state.nodes.values():
            if record.address == address and record.name not in (name, replaced):
                raise ApiError(409, NODE_EXISTS, f"{address} is the address of node {record.name}")
        command = {"op": "invite", "name": name, "address": address}
        return await self._change(command | ({"replaces": replaced} if replaced else {}))

    async def _remove(self, request: Mapping[str, object]) -> dict[str, object]:
        return await self._change({"op": "leave", "name": _name(request)})

    async def _rebalance(self, request: Mapping[str, object]) -> dict[str, object]:
        return await self._change({"op": "rebalance"})

    async def _change(self, command: Mapping[str, object]) -> dict[str, object]:
        outcome = await self._host.propose_meta(command)
        if isinstance(outcome, NotApplied):
            raise UNAVAILABLE.fresh()
        if not isinstance(outcome, Applied):
            raise UNKNOWN.fresh()
        result = cast(Mapping[str, object], outcome.result)
        if "error" in result:
            error = cast(Mapping[str, object], result["error"])
            raise ApiError(cast(int, error["code"]), cast(int, error["err_code"]), str(error["description"]))
        return {"success": True, **result}


def _request(payload: bytes) -> Mapping[str, object]:
    value = decode_json(payload) if payload.strip() else {}
    if not isinstance(value, dict):
        raise json_error("the request is no object")
    return cast("dict[str, object]", value)


def _text(request: Mapping[str, object], field: str) -> str:
    value = request.get(field)
    if not isinstance(value, str) or not value:
        raise json_error(f"{field} is missing")
    return value


def _name(request: Mapping[str, object]) -> str:
    name = _text(request, "name")
    try:
        check_name(name)
    except ValueError as error:
        raise json_error(str(error)) from None
    return name


def _address(request: Mapping[str, object]) -> str:
    """HOST:PORT where the others reach the node."""
    address = _text(request, "address")
    try:
        if split_address(address)[1] == 0:
            raise ValueError(f"{address!r} needs the port that node listens on")
    except ValueError as error:
        raise json_error(str(error)) from None
    return address
