"""An extension that was not built from the sources beside it is not used, and says what to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trimaran.codec._built import CHECKOUT, StaleCodec, check_built, digest


def checkout(path: Path) -> Path:
    (path / "csrc").mkdir()
    for name in ("build.py", "a.c", "a.h"):
        (path / "csrc" / name).write_text(name)
    return path


@pytest.mark.parametrize("name", ["a.c", "a.h", "build.py", "new.c"])
def test_a_changed_source_is_noticed_and_told_with_what_to_run(tmp_path: Path, name: str) -> None:
    here = checkout(tmp_path)
    built = digest(here / "csrc")
    check_built(built, here)
    (here / "csrc" / name).write_text("changed")
    with pytest.raises(StaleCodec, match=f"pip install -e {here}$"):
        check_built(built, here)


def test_an_extension_that_does_not_say_what_it_was_built_from_is_an_old_one(tmp_path: Path) -> None:
    with pytest.raises(StaleCodec):
        check_built(None, checkout(tmp_path))


def test_an_installed_package_has_no_sources_to_compare_with(tmp_path: Path) -> None:
    check_built(None, tmp_path)


def test_a_program_that_imports_a_stale_codec_ends_with_that_one_line() -> None:
    """Not with the first name that the extension lacks."""
    assert (CHECKOUT / "csrc").is_dir(), "these tests run in a checkout"
    program = (
        "import pathlib\n"
        "found = pathlib.Path.read_bytes\n"
        "pathlib.Path.read_bytes = lambda path: found(path) + b'//' * (path.name == 'batch.h')\n"
        "import trimaran.codec\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRIMARAN_PURE_PYTHON"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"{sys.executable} -m pip install -e {CHECKOUT}")
