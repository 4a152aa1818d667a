"""Dependencies point one way (docs/architecture.md, "Layout"): who may import whom."""

import ast
from pathlib import Path

import pytest

import trimaran

PACKAGE = Path(trimaran.__file__).parent
RULES_AND_REPLICAS = {"actors.raft", "actors.peers", "actors.replica"}
ALLOWED: dict[str, set[str]] = {
    "codec": set(),
    "storage": {"codec"},
    "actors.raft": {"codec"},
    "actors.peers": {"codec", "storage.readiness", "storage.turns", "actors.raft"},
    "actors.replica": {"codec", "storage", "actors.raft", "actors.peers", "actors.world"},
    "actors.stream": {"codec", "storage", "actors.replica"},
    "actors.delivery": {"codec", *RULES_AND_REPLICAS, "actors.stream", "actors.proposals", "actors.world"},
    "actors.cluster": {
        "codec",
        "storage",
        *RULES_AND_REPLICAS,
        "actors.stream",
        "actors.groups",
        "actors.world",
    },
    "actors.gateway": {
        "codec",
        "storage.readiness",
        "storage.turns",
        "actors.raft",
        "actors.stream",
        "actors.delivery",
    },
    "client": {"", "codec"},
}
"""What each folder may use of the others. A file of `actors/` itself that uses nothing is free for all; "" is
the package itself, with its version."""


def modules(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder.replace(".", "/")).glob("**/*.py"))


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, as dotted names below `trimaran`."""
    own = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = own[: len(own) - node.level]
            found.add(".".join((*base, *(node.module or "").split("."))).strip("."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trimaran."):
            found.add((node.module or "").removeprefix("trimaran."))
    return found


def uses_nothing(module: str) -> bool:
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    return module.startswith("actors.") and path.exists() and not any(imports(path) - {module})


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_uses_only_what_lies_below_it(folder: str) -> None:
    found = modules(folder)
    assert found, f"no modules in {folder}"
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in found
        for module in sorted(imports(path))
        if not any(module == each or module.startswith(f"{each}.") for each in {folder, *ALLOWED[folder]})
        and not uses_nothing(module)
    ]
    assert not wrong


@pytest.mark.parametrize("path", modules("actors.raft"), ids=lambda path: path.stem)
def test_the_rules_of_raft_know_no_trio(path: Path) -> None:
    """They await nothing and touch no clock, disk or network: those are parameters or effects."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level
    }
    assert not names & {"trio", "time", "os", "socket", "secrets", "threading"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
