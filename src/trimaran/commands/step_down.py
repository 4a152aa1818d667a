"""`trimaran step-down`: hand the leadership of a stream to another of its replicas."""

from __future__ import annotations

import click

from ..client import Client
from .asking import ask, servers_option


@click.command()
@click.argument("stream")
@click.option(
    "--to", "preferred", metavar="NODE", help="Name of the node that is to lead. [default: the best]"
)
@servers_option
def step_down(stream: str, preferred: str | None, servers: tuple[str, ...]) -> int:
    """Hand a stream's leadership over. Nothing is lost; publishes may be refused meanwhile (503)."""
    click.echo(ask(servers, lambda client: _step_down(client, stream, preferred)))
    return 0


async def _step_down(client: Client, stream: str, preferred: str | None) -> str:
    body = {"placement": {"preferred": preferred}} if preferred else None
    await client.api(f"STREAM.LEADER.STEPDOWN.{stream}", body)
    info = await client.stream_info(stream)
    cluster = info.get("cluster")
    leader = cluster.get("leader") if isinstance(cluster, dict) else None
    return f"{stream} is led by {leader}"
