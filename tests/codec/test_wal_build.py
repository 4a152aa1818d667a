"""The C reader of the log reads nothing outside of what it was given, whatever a segment says."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .test_batch_build import CODEC, ROOT, STRICT, compile_c


def test_hostile_segments_under_the_sanitizers(tmp_path: Path) -> None:
    program = tmp_path / "wal_fuzz"
    fuzz = Path(__file__).with_name("wal_fuzz.c")
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
    compile_c(*STRICT, *sanitizers, fuzz, ROOT / "csrc" / "wal.c", *CODEC, "-o", program)
    rounds = 20000
    done = subprocess.run([program, str(rounds)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # There are two and a half writes on average; many are cut off, changed or beyond the limit.
    assert rounds // 2 < int(done.stdout) < 2 * rounds
