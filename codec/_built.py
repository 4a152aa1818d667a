"""Whether the compiled codec is the one that the sources beside it describe.

Where the sources are there, a changed one and an extension of before may differ in anything: a missing name,
another struct, a number that means something else. So nothing is imported from it then.
"""

from __future__ import annotations

import sys
from pathlib import Path
from zlib import crc32

CHECKOUT = Path(__file__).resolve().parents[1]


class StaleCodec(ImportError):
    """The C codec was built from other sources than these. It says what to run."""

    def __init__(self, checkout: Path) -> None:
        super().__init__(
            f"Trimaran's C codec was not built from the sources that are now in {checkout / 'csrc'}."
            f" Build it again: {sys.executable} -m pip install -e {checkout}"
        )


def check_built(built: int | None, checkout: Path = CHECKOUT) -> None:
    """Compare what the extension says it was built from with the sources, where there are any.

    Raises:
        StaleCodec: they differ.
    """
    folder = checkout / "csrc"
    if folder.is_dir() and built != digest(folder):
        raise StaleCodec(checkout)


def digest(folder: Path) -> int:
    """The same number as in csrc/build.py, which can't import what it builds."""
    sources = sorted([*folder.glob("*.c"), *folder.glob("*.h"), folder / "build.py"])
    return crc32(b"".join(path.read_bytes() for path in sources)) >> 1
