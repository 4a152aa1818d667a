"""`python -m trimaran.testing`: play one seed, or many for a while."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Protocol, cast

import click
import trio

from . import soaking
from .crash_states import PROTOCOLS, StateLost, enumerate_states
from .report import Options, Report

TIERS = {"core": "trimaran.testing.core", "actor": "trimaran.testing.nodes"}
"""Where the function `play(seed, options) -> Report` of each tier is."""

tier_option = click.option(
    "--tier", type=click.Choice(sorted(TIERS)), default="core", show_default=True, help="What is simulated."
)
length_option = click.option(
    "--seconds", type=float, help="Virtual seconds with faults.  [default: the seed decides]"
)


class Tier(Protocol):
    def play(self, seed: int, options: Options) -> Report: ...


def tier_named(name: str) -> Tier:
    return cast(Tier, import_module(TIERS[name]))


def told(report: Report) -> str:
    """A report for humans."""
    faults = ", ".join(f"{kind} {count}" for kind, count in report.faults.items()) or "none"
    lines = [
        f"seed {report.seed}, {report.tier} tier, {report.virtual_seconds:.1f} virtual seconds",
        f"trace {report.trace_hash}",
        f"{report.operations} operations, {report.appends} acknowledged appends, {report.crashes} crashes",
        f"faults: {faults}",
    ]
    lines += [f"VIOLATION at {each.at:.4f}: {each.property}: {each.facts}" for each in report.violations]
    if report.violations:
        lines.append(f"again: {report.replay}")
    return "\n".join(lines)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Simulate whole clusters, each from one seed."""
    # What nodes log of the faults they are given would drown what is found.
    logging.getLogger("trimaran").addHandler(logging.NullHandler())


@cli.command()
@click.option("--seed", type=click.IntRange(min=0), required=True)
@tier_option
@length_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as one line of JSON.")
@click.option("--story", is_flag=True, help="Print everything that happens.")
def run(seed: int, tier: str, seconds: float | None, as_json: bool, story: bool) -> None:
    """Play one seed. The exit code is 1 if something that must hold did not."""
    report = tier_named(tier).play(seed, Options(seconds, click.echo if story else None))
    click.echo(report.to_json() if as_json else told(report))
    sys.exit(1 if report.violations else 0)


@cli.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True)
@tier_option
@length_option
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one per core]")
@click.option("--first", type=click.IntRange(min=0), help="The first seed.  [default: a fresh one]")
@click.option("--seeds", type=click.IntRange(min=1), help="Stop after so many seeds.")
def soak(
    minutes: float, tier: str, seconds: float | None, jobs: int | None, first: int | None, seeds: int | None
) -> None:
    """Play fresh seeds on all cores, and sum up. The exit code is 1 if any of them failed."""
    plan = soaking.Plan(tier=tier, minutes=minutes, seconds=seconds, jobs=jobs, first=first, seeds=seeds)
    total = trio.run(soaking.soak, plan, click.echo)
    sys.exit(1 if total.failed else 0)


@cli.command()
@click.option("--protocol", type=click.Choice(sorted(PROTOCOLS)), multiple=True, help="[default: all]")
@click.option("--first", type=click.IntRange(min=0), default=1, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="States of each protocol and seed.  [default: all]")
def states(protocol: tuple[str, ...], first: int, seeds: int, limit: int | None) -> None:
    """Recover every state that a power loss may leave of the update protocols. The exit code is 1 if any is
    wrong."""
    total = 0
    for seed in range(first, first + seeds):
        for name in protocol or PROTOCOLS:
            try:
                tried = enumerate_states(PROTOCOLS[name], limit=limit, seed=seed)
            except StateLost as lost:
                click.echo(f"LOST: {name}, seed {seed}: {lost}")
                sys.exit(1)
            total += tried.states
            click.echo(f"{name}, seed {seed}: {tried.operations} operations, {tried.states} states")
    click.echo(f"{total} states, nothing lost, nothing invented")


@cli.command(hidden=True)
@tier_option
@length_option
def work(tier: str, seconds: float | None) -> None:
    """Play the seeds that come on stdin, one a line; answer each with a line of JSON. For `soak`."""
    play = tier_named(tier).play
    for line in sys.stdin:
        click.echo(play(int(line), Options(seconds)).to_json())
        sys.stdout.flush()


if __name__ == "__main__":
    cli(prog_name="python -m trimaran.testing")
