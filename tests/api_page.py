"""docs/api.md from what the packages export: `python -m tests.api_page > docs/api.md`."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import sys
import typing
from collections.abc import Iterator

HEAD = """# What is public

Made by `python -m tests.api_page`; a test compares it with the packages, names and parameters, so that
nothing here changes unnoticed.

| what | promise |
|---|---|
| `trimaran` | stable |
| `trimaran.client`, `trimaran.testing` | provisional |
| [options](options.md), their names in TOML, exit codes; commands; the [monitor](index.md) | stable |
| [files and frames](format.md) | versioned: older ones stay readable, newer ones are refused |
| `trimaran.actors`, `trimaran.storage`, `trimaran.codec`, and names that begin with `_` | private |

**Stable**: until 1.0 a minor version may change it, with a line in the [changelog](../CHANGELOG.md); what is
removed warns (`DeprecationWarning`) for one minor version before, where that is possible. From 1.0 on only a
major version breaks it.
**Provisional**: any minor version may change it, with a line in the changelog. **Private**: any release may.
Files are the exception until 1.0: a release may ask for empty directories, and says so in the changelog.
"""

MODULES: dict[str, tuple[str, ...] | None] = {
    "trimaran": None,
    "trimaran.client": None,
    "trimaran.testing": None,
    "trimaran.testing.machines": ("simulate", "SimulationFailed"),
    "trimaran.testing.rules": ("ClusterRules",),
}
"""With the names that are meant, where a module has no `__all__`."""
NODE = (
    "Made by `open_node` and `open_cluster`. Meant for users: `client_address`, `http_address`, `ready`, "
    "`node_id`, `async run(task_status)`, `reload()`, `async stop()`; all else is private."
)
ELSEWHERE = {"Options": "Its fields are the options: [options.md](options.md).", "Node": NODE}
"""What is said of a class in place of its members."""


def render() -> str:
    """The page."""
    parts = [HEAD]
    for module, names in MODULES.items():
        found = importlib.import_module(module)
        parts.append(f"\n## `{module}`\n")
        for name in names or found.__all__:
            parts.append("\n".join(_entry(name, getattr(found, name))) + "\n")
    return "\n".join(parts)


def _entry(name: str, value: object) -> Iterator[str]:
    if inspect.isfunction(value):
        yield f"**`{name}{_signature(value)}`** {_sentence(value)}"
    elif inspect.isclass(value):
        yield f"**`{name}`** ({_kind(value)}) {_sentence(value)}"
        members = [] if name in ELSEWHERE else list(_members(value))
        if members or name in ELSEWHERE:
            yield ""
        yield from (f"- `{member}`" for member in members)
        if name in ELSEWHERE:
            yield ELSEWHERE[name]
    elif typing.get_args(value):
        yield f"**`{name}`** {' or '.join(f'`{each.__name__}`' for each in typing.get_args(value))}"
    else:
        yield f"**`{name}`** = `{value!r}`"


def _kind(value: type) -> str:
    for base, word in (
        (Exception, "an exception"),
        (enum.Enum, "an enumeration"),
        (typing.Protocol, "a protocol"),
    ):
        if base in value.__mro__:
            return word
    return "a class"


def _members(value: type) -> Iterator[str]:
    """Fields, properties and methods that a user may use, in the order of the source."""
    if issubclass(value, enum.Enum):
        yield from value.__members__
        return
    fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    yield from (field for field in fields if not field.startswith("_"))
    for name, member in vars(value).items():
        if name.startswith("_") or name in fields:
            continue
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if inspect.isfunction(plain):
            prefix = "async " if inspect.iscoroutinefunction(plain) else ""
            yield f"{prefix}{name}{_signature(plain)}"
        elif isinstance(member, property):
            yield name


def _signature(value: typing.Callable[..., object]) -> str:
    """Names and defaults; types are in the source and in `py.typed`."""
    signature = inspect.signature(value)
    parameters = [
        each.replace(annotation=inspect.Parameter.empty, default=_default(each.default))
        for each in signature.parameters.values()
        if each.name not in ("self", "cls")
    ]
    plain = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return str(plain)


class _Other:
    """A default that has no short form which is the same everywhere."""

    def __repr__(self) -> str:
        return "..."


def _default(value: object) -> object:
    short = (
        value is inspect.Parameter.empty
        or value is None
        or value == ()
        or type(value) in (int, float, str, bool)
    )
    return value if short else _Other()


def _sentence(value: object) -> str:
    """The first sentence of what it says about itself."""
    text = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".") + "."


if __name__ == "__main__":
    sys.stdout.write(render())
