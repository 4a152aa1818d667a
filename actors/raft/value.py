"""Values: small things that are made with every batch and never changed.

A frozen dataclass assigns each field through `object.__setattr__`, which costs three times as much as a plain
assignment: with every message, effect and name of a batch that is a tenth of what a node does for a batch. So
mypy sees these classes as frozen, and the interpreter as plain ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Value = TypeVar("Value")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(*, kw_only: bool = False) -> Callable[[type[Value]], type[Value]]:
    """A dataclass with slots, equality and a hash, whose fields nobody changes: mypy holds all to that."""
    return dataclass(slots=True, unsafe_hash=True, kw_only=kw_only)
