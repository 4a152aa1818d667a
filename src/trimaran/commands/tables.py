"""Where tables are printed."""

from __future__ import annotations

from typing import Final

from rich.console import Console, ConsoleDimensions

FILE_COLUMNS: Final = 160
"""Of a table that no terminal shows."""


def table_console() -> Console:
    """A terminal is as wide as it is. A file or a pipe has no width, and what is cut short there is lost."""
    console = Console()
    if not console.is_terminal:
        console.size = ConsoleDimensions(FILE_COLUMNS, console.height)
    return console
