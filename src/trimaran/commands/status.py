"""`trimaran status`: what a node's monitor says, as a small table."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import click
from rich.markup import escape as plain
from rich.table import Table

from ..logs import escape
from . import Failure
from .tables import table_console

EXIT_UNHEALTHY: Final = 1
EXIT_UNREACHABLE: Final = 2

DEFAULT_URL: Final = "http://127.0.0.1:8222"
TIMEOUT_SECONDS: Final = 5.0
LARGEST_ANSWER: Final = 64 * 1024 * 1024

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The monitor's answers of one node, or why there are none."""

    url: str
    health: Json
    varz: Json
    raftz: Json
    unreachable: str = ""

    @property
    def healthy(self) -> bool:
        return self.health.get("status") == "ok"


def fetch(url: str, path: str) -> Json:
    """The JSON object at `path` of a monitor, whatever its status. Raises Failure."""
    where = url.rstrip("/") + path
    try:
        with urllib.request.urlopen(where, timeout=TIMEOUT_SECONDS) as answer:
            text = answer.read(LARGEST_ANSWER)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(LARGEST_ANSWER)
    except http.client.HTTPException:
        raise Failure(f"no monitor at {url}: what listens there is none", EXIT_UNREACHABLE) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Failure(f"no monitor at {url}: {reason}", EXIT_UNREACHABLE) from None
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Failure(f"{where} answered something other than a JSON object", EXIT_UNREACHABLE)
    return body


def fetch_status(url: str) -> NodeStatus:
    """All of one node. One that doesn't answer is part of the picture, so that the others are shown too."""
    try:
        return NodeStatus(url, fetch(url, "/healthz"), fetch(url, "/varz"), fetch(url, "/raftz"))
    except Failure as failure:
        return NodeStatus(url, {"error": "no answer"}, {"server_name": url}, {}, failure.message)


def groups(raftz: Json) -> Iterator[tuple[str, Json]]:
    """Name and state of every group, out of account -> group -> state."""
    for account in raftz.values():
        if isinstance(account, Mapping):
            for name, state in account.items():
                if isinstance(state, Mapping):
                    yield str(name), state


def lag_of(state: Json) -> int:
    """How many log entries this node still has to apply of those known to be committed."""
    commit, applied = state.get("commit", 0), state.get("applied", 0)
    return max(0, commit - applied) if isinstance(commit, int) and isinstance(applied, int) else 0


def number(value: object) -> float:
    """A number from a node, or 0 where it said something else."""
    return value if isinstance(value, int | float) else 0


def _cell(value: object) -> str:
    """Text from a node, without power over the terminal or the table's markup."""
    return plain(escape(str(value)))


def scrub_of(varz: Json) -> str:
    """What a node's scrub does now or has done, and what it found."""
    scrub = varz.get("scrub")
    if not isinstance(scrub, Mapping):
        return ""
    sweeps = round(number(scrub.get("sweeps")))
    doing = f"{number(scrub.get('bytes')) / 2**20:,.0f} MiB: {scrub.get('at')}" if scrub.get("at") else ""
    done = f"{sweeps} {'sweep' if sweeps == 1 else 'sweeps'}" if sweeps or not doing else ""
    found = round(number(scrub.get("found")))
    return ", ".join(filter(None, [doing, done, f"{found} damaged" if found else ""]))


def nodes_table(nodes: list[NodeStatus]) -> Table:
    """One row per node."""
    table = Table(title="nodes", title_justify="left")
    for name in ("node", "version", "uptime", "clients", "messages in", "log syncs", "scrub", "health"):
        table.add_column(name)
    for node in nodes:
        varz, wal = node.varz, node.varz.get("wal")
        syncs = wal.get("syncs", "") if isinstance(wal, Mapping) else ""
        uptime = timedelta(seconds=round(number(varz.get("uptime_seconds"))))
        server, version, *traffic = [
            varz.get(key, "") for key in ("server_name", "version", "connections", "in_msgs")
        ]
        health = "[green]ok[/]" if node.healthy else f"[red]{_cell(node.health.get('error', 'unknown'))}[/]"
        table.add_row(*map(_cell, [server, version, uptime, *traffic, syncs, scrub_of(varz)]), health)
    return table


def groups_table(nodes: list[NodeStatus]) -> Table:
    """One row per group on each node."""
    table = Table(title="groups", title_justify="left")
    for name in ("group", "node", "role", "leader"):
        table.add_column(name)
    for name in ("term", "commit", "applied", "lag"):
        table.add_column(name, justify="right")
    rows = [(name, node, state) for node in nodes for name, state in groups(node.raftz)]
    for name, node, state in sorted(rows, key=lambda row: row[0]):
        facts = [state.get(key, "") for key in ("role", "leader", "term", "commit", "applied")]
        table.add_row(*map(_cell, [name, node.varz.get("server_name", ""), *facts, lag_of(state)]))
    return table


def check_urls(context: click.Context, parameter: click.Parameter, urls: tuple[str, ...]) -> tuple[str, ...]:
    """The monitors to ask. Raises BadParameter."""
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise click.BadParameter(f"{url} is no http:// address")
    return urls or (DEFAULT_URL,)


urls_option = click.option(
    "--url",
    "urls",
    multiple=True,
    metavar="URL",
    callback=check_urls,
    help=f"Monitor of a node; may repeat. [default: {DEFAULT_URL}]",
)


@click.command(short_help="Show the health of nodes and of their groups.")
@urls_option
@click.option("--json", "as_json", is_flag=True, help="Print what the monitors said, as JSON.")
def status(urls: tuple[str, ...], as_json: bool) -> int:
    """Show the health of nodes and the groups they host.

    The exit code is 0 if all are healthy, 1 if one is not, 2 if one can't be reached.
    """
    nodes = [fetch_status(url) for url in urls]
    silent = [node.unreachable for node in nodes if node.unreachable]
    if as_json:
        facts = [{"url": n.url, "healthz": n.health, "varz": n.varz, "raftz": n.raftz} for n in nodes]
        click.echo(json.dumps(facts, indent=2))
    elif len(silent) < len(nodes):
        console = table_console()
        console.print(nodes_table(nodes))
        console.print(groups_table(nodes))
    if silent:
        raise Failure("; ".join(silent), EXIT_UNREACHABLE)
    return 0 if all(node.healthy for node in nodes) else EXIT_UNHEALTHY
