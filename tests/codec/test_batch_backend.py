"""Which codec is used: C if it was built, Python if it was not or is asked for; nobody is left to guess."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, since the choice is made once, at import."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRIMARAN_PURE_PYTHON"}
    return subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )


SAY = "from trimaran.codec import IMPLEMENTATION, seal_batch; print(IMPLEMENTATION, seal_batch.__module__)"
HIDE = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "._native" else real(name, package)
"""


def test_c_is_used_where_it_was_built() -> None:
    said = run(SAY)
    assert said.stdout.split() == ["c", "trimaran.codec._compiled_batch"]
    assert said.stderr == ""


def test_python_can_be_asked_for() -> None:
    said = run(SAY, TRIMARAN_PURE_PYTHON="1")
    assert said.stdout.split() == ["python", "trimaran.codec._reference_batch"]
    assert said.stderr == ""


def test_a_missing_extension_is_said_aloud() -> None:
    said = run(HIDE + SAY)
    assert said.stdout.split() == ["python", "trimaran.codec._reference_batch"]
    assert "RuntimeWarning: Trimaran's C codec was not built" in said.stderr


def test_a_broken_extension_is_an_error() -> None:
    """A build that is there and cannot be loaded must not turn into a slow node."""
    broken = "import sys; sys.modules['trimaran.codec._native'] = None\n" + HIDE.replace(
        'None if name == "._native"', 'object() if name == "._native"'
    )
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(broken + SAY)
    assert "_native" in caught.value.stderr


def test_both_implementations_have_the_same_functions() -> None:
    import inspect

    from trimaran.codec import _compiled_batch as compiled
    from trimaran.codec import _reference_batch as reference

    assert set(reference.__all__) == set(compiled.__all__)
    for name in reference.__all__:
        signatures = [inspect.signature(getattr(module, name)) for module in (compiled, reference)]
        assert signatures[0] == signatures[1], name
    for name in ("__len__", "append_spans", "take", "seal"):
        signatures = [inspect.signature(getattr(module.OpenBatch, name)) for module in (compiled, reference)]
        assert signatures[0] == signatures[1], name
