"""The subcommands of `trimaran`, one module each, imported when asked for so that a node starts fast."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from .. import __version__

__all__ = ["cli", "Failure", "help_without_command"]

COMMANDS: Final = (
    "node",
    "nats-server",
    "demo",
    "status",
    "top",
    "cluster",
    "step-down",
    "rebalance",
    "backup",
    "restore",
    "recover",
    "log",
    "bench",
    "options",
)
"""Name of the subcommand, of its module and of the `click.Command` in it (there with `_` for `-`)."""


class Failure(click.ClickException):
    """A command ends here: what went wrong in one line, and the exit code for it."""

    def __init__(self, line: str, code: int = 1) -> None:
        super().__init__(line)
        self.code = code


def help_without_command(context: click.Context) -> None:
    """What a group of commands does when none of them is named."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


class _Commands(click.Group):
    """Finds a subcommand by importing its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f".{name}", __name__), name)
        return command


@click.command(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "--version", message="trimaran %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Trimaran: a replicated, durable message stream that NATS clients talk to."""
    help_without_command(context)
