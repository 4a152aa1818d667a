"""The C sources: without a warning, and without a read or write outside of what they were given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted((ROOT / "csrc").glob("*.c"))
CODEC = [ROOT / "csrc" / name for name in ("batch.c", "crc32c.c")]
STRICT = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]


def compile_c(*arguments: str | Path) -> None:
    compiler = os.environ.get("CC", "cc")
    done = subprocess.run([compiler, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_c_compiles_without_a_warning(source: Path, tmp_path: Path) -> None:
    compile_c(*STRICT, "-O2", "-c", source, "-o", tmp_path / "out.o")


def test_hostile_batches_under_the_sanitizers(tmp_path: Path) -> None:
    program = tmp_path / "batch_fuzz"
    fuzz = Path(__file__).with_name("batch_fuzz.c")
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
    compile_c(*STRICT, *sanitizers, fuzz, *CODEC, "-o", program)
    rounds = 20000
    done = subprocess.run([program, str(rounds)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Half of the copies are cut and two thirds are changed, so some, but not most, are still sound.
    assert rounds // 20 < int(done.stdout) < rounds // 2
