"""The C sources: without a warning, and without a read or write outside of what they were given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted((ROOT / "csrc").glob("*.c"))
CODEC = [ROOT / "csrc" / name for name in ("batch.c", "crc32c.c", "protocol.c", "stream.c", "wal.c")]
FUZZ = ROOT / "fuzz"
TARGETS = sorted(path.name for path in (FUZZ / "corpus").iterdir())
STRICT = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]


def compile_c(*arguments: str | Path) -> None:
    compiler = os.environ.get("CC", "cc")
    done = subprocess.run([compiler, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_c_compiles_without_a_warning(source: Path, tmp_path: Path) -> None:
    compile_c(*STRICT, "-O2", "-c", source, "-o", tmp_path / "out.o")


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_input_under_the_sanitizers(target: str, tmp_path: Path) -> None:
    """The fuzz targets without the fuzzer: what was found to reach all of the code, and changes of it.

    `fuzz/run.sh` looks for more.
    """
    program = tmp_path / target
    compile_c(*STRICT, *SANITIZERS, FUZZ / f"{target}.c", FUZZ / "standalone.c", *CODEC, "-o", program)
    corpus = sorted((FUZZ / "corpus" / target).iterdir())
    rounds = 200_000
    done = subprocess.run([program, str(rounds), *corpus], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    inputs, sound = map(int, done.stdout.split())
    assert inputs == len(corpus) + rounds
    assert rounds // 50 < sound < rounds, "some inputs get past the checks, and some do not"
