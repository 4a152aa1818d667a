"""The C code of block records reads and writes nothing outside of what it was given."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.codec.test_batch_build import ROOT, STRICT, compile_c


def test_hostile_blocks_under_the_sanitizers(tmp_path: Path) -> None:
    program = tmp_path / "block_fuzz"
    fuzz = Path(__file__).with_name("block_fuzz.c")
    sources = [ROOT / "csrc" / name for name in ("stream.c", "crc32c.c")]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
    compile_c(*STRICT, *sanitizers, fuzz, *sources, "-o", program)
    rounds = 20000
    done = subprocess.run([program, str(rounds)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    detected, damaged = map(int, done.stdout.split())
    assert detected == damaged > rounds // 2, "every damaged block is found damaged"
