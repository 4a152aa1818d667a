"""The C scanner reads and writes nothing outside of what it was given, whatever the traffic."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .test_batch_build import ROOT, STRICT, compile_c


def test_hostile_traffic_under_the_sanitizers(tmp_path: Path) -> None:
    program = tmp_path / "protocol_fuzz"
    fuzz = Path(__file__).with_name("protocol_fuzz.c")
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
    compile_c(*STRICT, *sanitizers, fuzz, ROOT / "csrc" / "protocol.c", "-o", program)
    rounds = 20000
    done = subprocess.run([program, str(rounds)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Most traffic begins with something sound, and some of it is sound to its end.
    assert rounds // 4 < int(done.stdout) < 4 * rounds
