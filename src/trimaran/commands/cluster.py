"""`trimaran cluster`: who belongs to a running cluster, and how that changes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, cast

import click
import trio
from rich.markup import escape as plain
from rich.table import Table

from ..actors.units import check_name, split_address
from ..client import Client, NatsError
from . import Failure, help_without_command
from .asking import EXIT_UNREACHABLE, ask, servers_option
from .tables import table_console

POLL_SECONDS: Final = 0.25
WAIT_SECONDS: Final = 600.0

Json = Mapping[str, object]
wait_option = click.option(
    "--wait/--no-wait",
    default=True,
    help="Return when it is done, or as soon as the cluster has decided it. [default: wait]",
)


@click.group(invoke_without_command=True, short_help="Show or change who belongs to a cluster.")
@click.pass_context
def cluster(context: click.Context) -> None:
    """Show or change who belongs to a running cluster, asking any of its nodes."""
    help_without_command(context)


@cluster.command(short_help="Show the nodes and what they wait for.")
@servers_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def info(servers: tuple[str, ...], as_json: bool) -> int:
    """Show the nodes: members, invited ones, and those that are leaving."""
    answer = ask(servers, _info)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        table_console().print(nodes_table(answer))
    return 0


@cluster.command(short_help="Invite a node.")
@click.argument("node", metavar="NAME=HOST:PORT")
@servers_option
def add(node: str, servers: tuple[str, ...]) -> int:
    """Invite a node, which joins as soon as it runs with an empty directory.

    HOST:PORT is the --peer-listen of the new node as the others reach it.
    """
    name, address = parse_node(node)
    answer = ask(servers, lambda client: _invite(client, {"name": name, "address": address}))
    _say_how_to_start(name, address, answer)
    return 0


@cluster.command(short_help="Invite a node in the place of another one.")
@click.argument("old", metavar="OLD")
@click.argument("node", metavar="NEW=HOST:PORT")
@servers_option
def replace(old: str, node: str, servers: tuple[str, ...]) -> int:
    """Invite a node that takes the place and the replicas of another one, which then leaves."""
    name, address = parse_node(node)
    answer = ask(
        servers,
        lambda client: _invite(client, {"name": name, "address": address, "replaces": old}, "REPLACE"),
    )
    _say_how_to_start(name, address, answer)
    return 0


@cluster.command(short_help="Move a node's replicas away, then remove it.")
@click.argument("name")
@servers_option
@wait_option
def remove(name: str, servers: tuple[str, ...], wait: bool) -> int:
    """Move a node's replicas to others, then remove it for good; or take an invitation back.

    The node may be down. If it runs it goes on serving until its replicas have moved, then it exits.
    """
    ask(servers, lambda client: _leave(client, name, wait))
    click.echo(f"{name} has left the cluster" if wait else f"{name} is leaving")
    return 0


def parse_node(text: str) -> tuple[str, str]:
    """(name, address) of NAME=HOST:PORT. Raises BadParameter."""
    name, equals, address = text.partition("=")
    if not equals or not name or not address:
        raise click.BadParameter(f"{text!r} is not NAME=HOST:PORT")
    try:
        check_name(name)
        split_address(address)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return name, address


async def _info(client: Client) -> Json:
    return await client.administer("CLUSTER.INFO")


async def _invite(client: Client, node: Json, what: str = "ADD") -> Json:
    await client.administer(f"CLUSTER.{what}", node)
    return await _info(client)


async def _leave(client: Client, name: str, wait: bool) -> None:
    await client.administer("CLUSTER.REMOVE", {"name": name})
    shown: object = None
    with trio.move_on_after(WAIT_SECONDS):
        while wait:
            try:
                left = [node for node in nodes_of(await _info(client)) if node["name"] == name]
            except NatsError:
                left = [{}]  # the node that was asked may be the one that leaves: the next one answers
            if not left:
                return
            if left[0].get("needed_by") != shown and (shown := left[0].get("needed_by")):
                click.echo(f"{name} is still needed by {', '.join(cast(list[str], shown))}", err=True)
            await trio.sleep(POLL_SECONDS)
    if wait:
        raise Failure(f"{name} has not left after {WAIT_SECONDS:g} s; trimaran cluster info shows why", 1)


def _say_how_to_start(name: str, address: str, answer: Json) -> None:
    member = next((node for node in nodes_of(answer) if node["state"] == "member"), None)
    if member is None:
        raise Failure("the cluster names no member", EXIT_UNREACHABLE)
    click.echo(f"{name} is invited to cluster {answer['cluster']}; start it with an empty directory:")
    click.echo(
        f"  trimaran node --name {name} --data DIR --listen HOST:PORT --peer-listen {address} "
        f"--peer {member['name']}={member['address']}"
    )


def nodes_of(answer: Json) -> Sequence[Json]:
    return cast(Sequence[Json], answer["nodes"])


def nodes_table(answer: Json) -> Table:
    title = f"cluster {answer['cluster']}, protocol {answer['protocol']}"
    table = Table(title=title, title_justify="left")
    for heading in ("node", "id", "address", "state", "link", "protocol", "replicas", "leads", "needed by"):
        table.add_column(heading)
    for node in nodes_of(answer):
        link = "" if "reachable" not in node else "up" if node["reachable"] else "down"
        needed = ", ".join(cast(Sequence[str], node.get("needed_by", ())))
        facts = (node["name"], node.get("id", ""), node["address"], node["state"], link)
        counts = (node.get("protocol", ""), node.get("replicas", ""), node.get("leads", ""), needed)
        table.add_row(*(plain(str(each)) for each in (*facts, *counts)))
    return table
