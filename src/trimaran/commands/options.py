"""`trimaran options`: the table of options, as it stands in the code."""

from __future__ import annotations

import click

from ..actors.options import settings
from ..actors.setting import Setting, Unit
from ..actors.units import format_duration, format_size


def range_of(each: Setting) -> str:
    """What values an option takes, in a few words."""
    if each.choices:
        return ", ".join(f"`{choice}`" for choice in each.choices)
    if not each.maximum:
        return each.metavar
    form = {Unit.SIZE: format_size, Unit.DURATION: format_duration}.get(each.unit, str)
    return f"{form(each.minimum)} to {form(each.maximum)}"


def markdown() -> str:
    """The table of docs/options.md, line by line."""
    rows = ["| option | default | values | what it is, and why the default |", "|---|---|---|---|"]
    for each in settings():
        rows.append(
            f"| `--{each.flag}` | `{each.default_text}` | {range_of(each)} | {each.help} *{each.reason}* |"
        )
    return "\n".join(rows) + "\n"


@click.command(short_help="Print the table of a node's options as Markdown.")
def options() -> None:
    """Print the table of options as Markdown: flag, default, values, reason."""
    click.echo(markdown(), nl=False)
