"""Planting a bug: one function of the product gets other code for a while, in this process only.

The bug is given as the text to be replaced in the function's source and what takes its place. If the source
has changed so that the text is no longer there, planting fails, and somebody must look at the bug again.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import CodeType, FunctionType


@dataclass(frozen=True)
class Edit:
    """In the function `where` ("package.module:Class.function" below `trimaran`), `old` becomes `new`."""

    where: str
    old: str
    new: str

    def function(self) -> FunctionType:
        module_name, _, path = self.where.partition(":")
        found: object = import_module(f"trimaran.{module_name}")
        for name in path.split("."):
            found = inspect.getattr_static(found, name)
        if isinstance(found, property):
            found = found.fget
        if isinstance(found, staticmethod | classmethod):
            found = found.__func__
        assert isinstance(found, FunctionType), f"{self.where} is no function"
        return found


@contextmanager
def planted(edits: Sequence[Edit]) -> Iterator[None]:
    """Edits of one function."""
    function = edits[0].function()
    good = function.__code__
    source = textwrap.dedent(inspect.getsource(function))
    for edit in edits:
        assert source.count(edit.old) == 1, f"{edit.where} has {source.count(edit.old)} times {edit.old!r}"
        source = source.replace(edit.old, edit.new)
    function.__code__ = compiled(source, function)
    try:
        yield
    finally:
        function.__code__ = good


def compiled(source: str, function: FunctionType) -> CodeType:
    """The code of the one function that this source defines."""
    flags = __future__.annotations.compiler_flag
    module = compile(source, f"<planted in {function.__qualname__}>", "exec", flags, dont_inherit=True)
    codes = [
        const
        for const in module.co_consts
        if isinstance(const, CodeType) and const.co_name == function.__name__
    ]
    assert len(codes) == 1, f"{len(codes)} functions in the source of {function.__qualname__}"
    return codes[0]


@dataclass(frozen=True)
class Bug:
    """A classic mistake.

    Attributes:
        name: what it is, in a few words.
        edits: what must change together.
        within: so many seeds must be enough to catch it.
        by: how it is looked for: "core", "actor" (seeds of that tier) or "states" (enumerated crash states).
    """

    name: str
    edits: tuple[Edit, ...]
    within: int = 300
    by: str = "core"

    @cached_property
    def slug(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.name.lower())

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as stack:
            for where in dict.fromkeys(edit.where for edit in self.edits):
                stack.enter_context(planted([edit for edit in self.edits if edit.where == where]))
            yield


def bug(name: str, where: str, old: str, new: str, *, within: int = 300, by: str = "core") -> Bug:
    """A bug of one edit."""
    return Bug(name, (Edit(where, old, new),), within, by)
