"""Every function in C has a twin in Python of the same shape; tests of the twins compare what they do."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.codec import payload_size
from trimaran.codec._native import lib

ROOT = Path(__file__).parents[2]
PARTS = ("batch", "block", "protocol", "wal")
HEADERS = ("batch.h", "protocol.h", "stream.h", "wal.h")
SOURCES = ("batch.c", "bytes.h", "crc32c.c", "protocol.c", "stream.c", "wal.c")


def public(module: ModuleType) -> dict[str, inspect.Signature | None]:
    """What a module defines by itself, with the signatures of what has one."""
    names = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    return {
        name: inspect.signature(value) if inspect.isfunction(value) else None
        for name, value in names.items()
        if inspect.isfunction(value) or inspect.isclass(value)
    }


@pytest.mark.parametrize("part", PARTS)
def test_both_have_the_same_functions(part: str) -> None:
    compiled = public(importlib.import_module(f"trimaran.codec._compiled_{part}"))
    reference = public(importlib.import_module(f"trimaran.codec._reference_{part}"))
    compiled.pop("crc32c", None)  # in Python it has a module of its own
    assert {name for name in compiled if name not in ("walk_batch", "decode_batch")} == {
        name for name in reference if name not in ("walk_batch", "decode_batch")
    }
    for name in compiled.keys() & reference.keys() - {"walk_batch", "decode_batch"}:
        assert compiled[name] == reference[name], name


def test_every_c_function_is_called_where_it_is_compared_with_its_twin() -> None:
    callers = [*(ROOT / "codec").glob("_compiled_*.py"), *Path(__file__).parent.glob("test_*.py")]
    called = "".join(path.read_text() for path in callers)
    for header in HEADERS:
        text = re.sub(r"/\*.*?\*/", "", (ROOT / "csrc" / header).read_text(), flags=re.S)
        for name in re.findall(r"\b(tri_\w+)\(", text):
            assert f"lib.{name}" in called, f"{name} of {header}"


@given(st.integers(0, 65_535), st.integers(0, (1 << 32) - 1))
def test_the_size_of_a_payload(count: int, entries_size: int) -> None:
    assert lib.tri_payload_size(count, entries_size) == payload_size(count, entries_size)


def test_the_codec_allocates_nothing() -> None:
    for source in SOURCES:
        assert not re.search(r"\b(malloc|calloc|realloc|alloca|free)\(", (ROOT / "csrc" / source).read_text())
