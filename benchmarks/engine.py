"""The log engine's figures, as ratios in one run: codec, log, recovery, each with its target and verdict.

    .venv/bin/pip install -e '.[bench]'
    .venv/bin/python benchmarks/engine.py [--only codec|storage] [DIRECTORY]

About two minutes. What is compared runs in turn, in blocks, and the median counts, so a machine that is busy
with other things makes the figures worse but hardly the ratios. DIRECTORY (default: this one) says which file
system; some 3 GiB are written there and removed. Needs a C compiler for the bare loop.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
from pathlib import Path

import trio
from engine_codec import codec_figures
from engine_storage import storage_figures
from figures import Figure, markdown

from trimaran.codec._native import lib


def machine() -> str:
    names = {
        lib.TRI_CRC32C_SSE42: "SSE4.2",
        lib.TRI_CRC32C_AVX512: "AVX-512",
        lib.TRI_CRC32C_ARMV8: "ARMv8",
    }
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Linux {platform.release()},"
        f" Python {platform.python_version()}, CRC32C by {names.get(lib.tri_crc32c_chosen(), 'table')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", nargs="?", default=".", type=Path)
    parser.add_argument("--only", choices=("codec", "storage"))
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    figures: list[Figure] = []
    if arguments.only != "storage":
        figures += codec_figures()
    if arguments.only != "codec":
        place = Path(tempfile.mkdtemp(prefix="trimaran-bench-", dir=arguments.directory))
        try:
            figures += trio.run(storage_figures, place)
        finally:
            shutil.rmtree(place)
    print(markdown(figures))
    missed = sum(figure.met is False for figure in figures)
    print(f"\nafterwards: load {os.getloadavg()[0]:.1f}; {missed} of the targets missed")


if __name__ == "__main__":
    main()
