"""docs/api.md lists what the packages export, with parameters; nothing public changes unnoticed."""

import inspect
import re
from pathlib import Path

import trimaran
from tests import api_page

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def names(page: str) -> list[str]:
    """Its lines without the sentences that say what each thing is: those may be reworded."""
    return [re.sub(r"^(\*\*`.*?`\*\*).*", r"\1", line) for line in page.splitlines()]


def test_the_page_is_what_the_packages_export() -> None:
    assert names(PAGE.read_text()) == names(api_page.render()), (
        "python -m tests.api_page > docs/api.md, and a line in CHANGELOG.md"
    )


def test_the_page_has_every_public_name() -> None:
    listed = set(re.findall(r"^\*\*`(\w+)", PAGE.read_text(), re.MULTILINE))
    assert set(trimaran.__all__) <= listed


def test_what_the_page_says_of_a_node_is_there() -> None:
    source = inspect.getsource(trimaran.Node)
    for name in re.findall(r"`(?:async )?(\w+)(?:\([^)]*\))?`", api_page.NODE.partition("users:")[2]):
        assert re.search(rf"self\.{name}\b|def {name}\(", source), name
