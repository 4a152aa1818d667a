"""What is raised is made for it, or stripped of its past."""

import ast
from pathlib import Path

import pytest

import trimaran
from trimaran.actors.gateway.request_json import NOT_EMPTY, check_empty
from trimaran.actors.stream.errors import ApiError

PACKAGE = Path(trimaran.__file__).parent


def kept(raised: ast.expr | None) -> bool:
    """Whether an expression is an object that lives on after it was raised: a constant, or of an actor."""
    match raised:
        case ast.Name(name):
            return name.isupper()
        case ast.Attribute(value) | ast.Subscript(value):
            return kept(value) or (isinstance(value, ast.Name) and value.id == "self")
    return False


def test_what_is_kept_says_so() -> None:
    sources = ("raise BUSY", "raise self.failed", "raise self.a.b", "raise self.a[1]", "raise BUSY.x[0]")
    harmless = (
        "raise",
        "raise error",
        "raise BUSY.fresh()",
        "raise self.failed.with_traceback(None)",
        "raise errors[0]",
    )
    for text in (*sources, *harmless):
        [statement] = ast.parse(text).body
        assert isinstance(statement, ast.Raise)
        assert kept(statement.exc) == (text in sources), text


@pytest.mark.parametrize("folder", ["codec", "storage", "actors", "client"])
def test_nothing_that_is_kept_is_raised_as_it_is(folder: str) -> None:
    """An exception keeps the traceback of each time that it is raised, and every frame in it: with one that
    lives on, memory grows by what clients send."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in (PACKAGE / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and kept(node.exc)
    ]
    assert found == []


def test_a_request_that_is_refused_leaves_nothing_behind() -> None:
    for _ in range(3):
        with pytest.raises(ApiError) as caught:
            check_empty(b'{"what": "a client sent"}')
        assert caught.value == NOT_EMPTY
    assert NOT_EMPTY.__traceback__ is None
