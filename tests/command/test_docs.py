"""The documentation: its links lead somewhere, and what it calls by name exists."""

import re
from pathlib import Path

import pytest

from trimaran.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_subcommands_in_examples_exist(page: Path) -> None:
    for block in re.findall(r"```\n(.*?)```", page.read_text(), re.DOTALL):
        for command in re.findall(r"(?:^|[/ ])trimaran ([a-z]\w*)", block, re.MULTILINE):
            assert command in COMMANDS


def test_architecture_names_only_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in re.findall(r"`((?:actors|storage|codec|csrc|src)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path
