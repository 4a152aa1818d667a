"""What the commands that ask a running cluster share: where it is, and how a failure reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeVar

import click
import trio

from ..client import Client, ConnectFailed, JetStreamError, NatsError, NoResponders, ServerAddress, connect
from . import Failure

EXIT_REFUSED: Final = 1
EXIT_UNREACHABLE: Final = 2
REQUEST_SECONDS: Final = 10.0
"""Longer than a node itself tries to find who can answer, so that its own words arrive."""

NOBODY: Final = (
    "nobody answers for the cluster: its nodes have no majority, or that server belongs to no cluster yet "
    "(trimaran status and its log say which)"
)

T = TypeVar("T")


class Cluster(Protocol):
    """The part of `Client` that administration needs."""

    @property
    def server_info(self) -> Mapping[str, object]: ...

    async def administer(
        self, subject: str, body: Mapping[str, object] | None = None
    ) -> dict[str, object]: ...

    async def administer_raw(self, subject: str, data: bytes = b"") -> bytes: ...


def check_servers(
    context: click.Context, parameter: click.Parameter, servers: tuple[str, ...]
) -> tuple[str, ...]:
    """Addresses as the client reads them. Raises BadParameter."""
    for server in servers:
        try:
            ServerAddress.parse(server)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return servers


servers_option = click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="URL",
    callback=check_servers,
    help="Client address of a node; may repeat. [default: nats://127.0.0.1:4222]",
)


def ask(servers: tuple[str, ...], question: Callable[[Client], Awaitable[T]]) -> T:
    """Run a conversation with the first server that answers. Raises Failure."""

    async def converse() -> T:
        async with connect(*servers, request_timeout=REQUEST_SECONDS) as client:
            return await question(client)

    try:
        return trio.run(converse)
    except JetStreamError as refusal:
        raise Failure(refusal.description, EXIT_REFUSED) from None
    except ConnectFailed as error:
        raise Failure(str(error), EXIT_UNREACHABLE) from None
    except NoResponders:
        raise Failure(NOBODY, EXIT_UNREACHABLE) from None
    except (NatsError, ValueError) as error:
        raise Failure(f"{type(error).__name__}: {error}", EXIT_UNREACHABLE) from None
