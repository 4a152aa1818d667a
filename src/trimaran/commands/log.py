"""`trimaran log`: the directory of a stopped node, looked at, checked and, as a last resort, repaired."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import click
import trio
from rich.markup import escape as plain
from rich.table import Table

from ..actors.cluster.accepted_loss import CannotRepair, Plan, plan_repair
from ..actors.cluster.accepted_loss import repair as repair_log
from ..storage.disk import FileDisk
from ..storage.errors import DirectoryLocked, StorageError
from ..storage.node import NODE_FILE
from ..storage.survey import Damage, GroupSurvey, ReadOnlyDisk, SegmentSurvey, Survey, survey
from . import Failure, help_without_command
from .tables import table_console

EXIT_NOT_DONE: Final = 1
EXIT_DAMAGED: Final = 5
"""`verify` found damage, or `repair` some that it can't mend."""

T = TypeVar("T")
Json = Mapping[str, object]

directory = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(invoke_without_command=True)
@click.pass_context
def log(context: click.Context) -> None:
    """Look at, check or repair the directory of a stopped node."""
    help_without_command(context)


@log.command(short_help="Show what the log has.")
@directory
@as_json
def inspect(directory: Path, as_json: bool) -> int:
    """Show what the log has: segments, groups, terms, indexes, and who keeps old segments alive."""
    found = _look(directory, files=False)
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=2))
        return 0
    console, node = table_console(), found.node
    console.print(f"node {plain(node.name)} ({node.node_id:016x}), cluster {node.cluster_id:016x}")
    console.print(_segments_table(found.segments))
    console.print(_groups_table(found.groups))
    for line in _remarks(found):
        console.print(plain(line), soft_wrap=True)
    return 0


@log.command(short_help="Check every checksum.")
@directory
@as_json
def verify(directory: Path, as_json: bool) -> int:
    """Check every checksum: log, node header, manifests, and the files that they name.

    Names what is damaged, and ends with exit code 5 then.
    """
    found = _look(directory, files=True)
    if as_json:
        click.echo(json.dumps({"bytes": found.checked_bytes, **_findings(found)}, indent=2))
    else:
        for line in _remarks(found):
            click.echo(line)
        click.echo(f"{found.checked_bytes} bytes read, {len(found.damages)} damages found")
    return EXIT_DAMAGED if found.damages else 0


@log.command(short_help="Give up what nobody can mend.")
@directory
@click.option("--accept-loss", "accepted", is_flag=True, help="Do it. What the plan says is lost, is lost.")
@click.option(
    "--copy-to",
    type=click.Path(path_type=Path),
    help="Where everything is copied to first. [default: beside the directory, with the time in its name]",
)
def repair(directory: Path, accepted: bool, copy_to: Path | None) -> int:
    """Let groups without any other replica go on behind damage that nobody can mend.

    Without --accept-loss prints the plan and changes nothing. Groups with other replicas are never touched:
    they get from them what they lack as soon as the node runs.
    """
    found = _look(directory, files=True)
    plan = _guarded(directory, lambda: plan_repair(ReadOnlyDisk(directory), found))
    for line in _plan_lines(plan):
        click.echo(line)
    if not plan.steps:
        click.echo("There is nothing here to be repaired by accepting a loss.")
        return EXIT_DAMAGED if plan.beyond else 0
    if not accepted:
        click.echo("Nothing was changed. To do it: --accept-loss (everything is copied first).")
        return EXIT_NOT_DONE
    copy = copy_to or directory.with_name(
        f"{directory.name}.before-repair-{datetime.now():%Y-%m-%dT%H-%M-%S}"
    )
    _guarded(directory, lambda: trio.run(repair_log, FileDisk(directory), plan, directory, copy))
    click.echo(f"Done. What was there before is in {copy}; keep it until you know that nothing is missed.")
    return EXIT_DAMAGED if plan.beyond else 0


def _look(directory: Path, *, files: bool) -> Survey:
    if not (directory / NODE_FILE).is_file():
        raise Failure(f"{directory} is no node's directory", EXIT_NOT_DONE)
    return _guarded(directory, lambda: survey(ReadOnlyDisk(directory), files=files))


def _guarded(directory: Path, work: Callable[[], T]) -> T:
    """What a start-up refuses, this refuses in the same words and with the same exit code."""
    try:
        return work()
    except DirectoryLocked as error:  # it names the directory
        raise Failure(str(error), error.exit_code) from None
    except StorageError as error:
        raise Failure(f"{directory}: {error}", error.exit_code) from None
    except (CannotRepair, OSError) as error:
        raise Failure(f"{directory}: {error}", EXIT_NOT_DONE) from None


# --- what is said -------------------------------------------------------------------------------------------


def _segments_table(segments: list[SegmentSurvey]) -> Table:
    table = Table(
        "segment", "bytes", "writes", "sequences", "batches", "entries", "entries/sync", "live bytes"
    )
    for each in segments:
        table.add_row(
            f"{each.number:x}{' (begun by a start)' if each.resumes else ''}",
            str(each.size),
            str(each.writes),
            f"{each.first}-{each.last}" if each.writes else "-",
            str(each.batches),
            str(each.entries),
            f"{each.entries / each.writes:.1f}" if each.writes else "-",
            str(each.live_bytes),
        )
    return table


def _groups_table(groups: list[GroupSurvey]) -> Table:
    table = Table("group", "name", "term", "log", "terms in it", "snapshot", "live bytes", "pinned bytes")
    for each in groups:
        found = each.found
        terms = [term for term, _ in each.terms]
        table.add_row(
            f"{found.group}-{found.incarnation}",
            plain(f"{found.kind} {found.name}") if found.created else "(its creation can't be read)",
            str(found.term),
            f"{found.compacted.index + 1}-{found.last_index}" if len(found.entries) else "empty",
            f"{terms[0]}-{terms[-1]}" if terms else "-",
            str(found.manifest.index) if found.manifest is not None else "-",
            str(each.live_bytes),
            str(each.pinned_bytes),
        )
    return table


def _remarks(found: Survey) -> Iterator[str]:
    """Damage, and what looks like it and is none."""
    for damage in found.damages:
        yield f"DAMAGED: {damage}"
    for group in found.groups:
        if group.found.closed:
            yield f"CLOSED: group {group.found.group} may have promised what its log no longer says"
    if found.torn is not None:
        where = f"{found.torn.file}, offset {found.torn.offset}"
        yield f"torn: {where}: the last write, as a power loss leaves it; a start decides what it is worth"
    for name in found.orphans:
        yield f"left over: groups/{name}, of a group that the log doesn't have"


def _plan_lines(plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        yield f"group {step.group} ({step.kind} {step.name}): {step.loss}"
        yield f"  because of {step.cause}"
    for line in plan.mended:
        yield f"left alone: {line}"
    for line in plan.beyond:
        yield f"beyond repair: {line}"


def _as_json(found: Survey) -> Json:
    return {
        "node": {"name": found.node.name, "id": found.node.node_id, "cluster": found.node.cluster_id},
        "segments": [_segment_json(each) for each in found.segments],
        "groups": [_group_json(each) for each in found.groups],
        **_findings(found),
    }


def _findings(found: Survey) -> Json:
    torn = found.torn
    return {
        "damages": [_damage_json(each) for each in found.damages],
        "torn": {"file": torn.file, "offset": torn.offset} if torn is not None else None,
        "orphans": list(found.orphans),
    }


def _damage_json(damage: Damage) -> Json:
    return {
        "file": damage.file,
        "offset": damage.offset,
        "what": damage.what,
        "group": damage.group,
        "first": damage.first,
        "last": damage.last,
    }


def _segment_json(segment: SegmentSurvey) -> Json:
    return {
        "segment": segment.number,
        "file": segment.file,
        "bytes": segment.size,
        "used_bytes": segment.used_bytes,
        "live_bytes": segment.live_bytes,
        "resumes": segment.resumes,
        "first_sequence": segment.first,
        "last_sequence": segment.last,
        "writes": segment.writes,
        "batches": segment.batches,
        "entries": segment.entries,
        "entries_per_sync": round(segment.entries / segment.writes, 2) if segment.writes else 0.0,
    }


def _group_json(group: GroupSurvey) -> Json:
    found = group.found
    return {
        "group": found.group,
        "incarnation": found.incarnation,
        "kind": found.kind,
        "name": found.name,
        "term": found.term,
        "vote": found.vote,
        "commit": found.commit,
        "compacted": found.compacted.index,
        "last_index": found.last_index,
        "terms": [{"term": term, "first": first} for term, first in group.terms],
        "snapshot": found.manifest.index if found.manifest is not None else None,
        "faulty": [[each.first, each.last] for each in found.faulty],
        "closed": found.closed,
        "live_bytes": group.live_bytes,
        "pinned_bytes": group.pinned_bytes,
    }
