"""`python -m trimaran` and the `trimaran` command: run one subcommand, end with one line if it fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from .commands import Failure, cli
from .logs import escape

INTERRUPTED = 130
"""What a shell reports for a program ended by Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (those of the process) and return the exit code.

    Whatever the user or the machine got wrong ends as one line on stderr; a traceback means a bug.
    """
    if sys.platform == "win32":
        print("trimaran: Windows is not supported; Linux and macOS are", file=sys.stderr)
        return 1
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments), prog_name="trimaran", standalone_mode=False
        )
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        line = " ".join(error.format_message().split())
        context = error.ctx if isinstance(error, click.UsageError) else None
        if context is not None:
            end = "" if line.endswith((".", "?")) else "."
            line = f"{line}{end} See {context.command_path} --help"
        print(f"trimaran: {escape(line)}", file=sys.stderr)
        return error.code if isinstance(error, Failure) else error.exit_code
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
