"""Committed files of every format version, as commented hexadecimal: never to be changed, only added to."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent / "golden"


def read_golden(name: str) -> bytes:
    """The bytes of a file; `00*200` in it stands for two hundred zeros."""
    words = (
        word
        for line in (DIRECTORY / f"{name}.hex").read_text().splitlines()
        for word in line.split("#")[0].split()
    )
    return b"".join(_bytes(*word.split("*")) for word in words)


def _bytes(byte: str, times: str = "1") -> bytes:
    return bytes.fromhex(byte) * int(times)
