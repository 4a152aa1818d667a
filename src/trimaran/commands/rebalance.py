"""`trimaran rebalance`: spread replicas and leaderships over the nodes, after some have come or gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import click
import trio

from .asking import Cluster, ask, servers_option
from .cluster import nodes_of

POLL_SECONDS: Final = 0.25


@click.command(short_help="Spread replicas and leaderships evenly.")
@servers_option
def rebalance(servers: tuple[str, ...]) -> int:
    """Move replicas until no node holds two more than another, a few at a time, and leaderships home.

    Clients go on; a group whose leader moves pauses for less than an election timeout.
    """
    ask(servers, lambda client: even_out(client, click.echo))
    return 0


async def even_out(client: Cluster, say: Callable[[str], object]) -> None:
    """Ask until nothing is left to move. Raises what the client raises."""
    while True:
        answer = await client.administer("CLUSTER.REBALANCE")
        if not answer["changed"]:
            say("replicas are even; leaderships go home within seconds")
            return
        say(f"moving replicas of {answer['changed']} groups")
        await _moved(client)


async def _moved(client: Cluster) -> None:
    """Return once no group's log counts on a node that is to hold it no more."""
    while True:
        info = await client.administer("CLUSTER.INFO")
        if not any(node.get("needed_by") for node in nodes_of(info)):
            return
        await trio.sleep(POLL_SECONDS)
