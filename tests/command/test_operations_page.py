"""docs/operations.md names every alarm: lines of the log from WARNING on, reasons of /healthz, exit codes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from trimaran.actors import node, vitals
from trimaran.actors.options import settings
from trimaran.commands import log as log_command
from trimaran.commands import node as node_command
from trimaran.storage import errors
from trimaran.storage.errors import StorageError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text()
ALARMING = {"warning", "error", "critical", "exception"}
TOLD_ELSEWHERE = {
    "%s",  # the reason that the line carries is on the page
    "snapshot at index %d",  # tracebacks beside "state machine ... failed"
    "group %d, index %d",
    "a node raised",  # of simulated nodes, for their tests
}


def first_column(section: str) -> list[str]:
    """What a section's table has in its first column, one entry for each `quoted` text."""
    body = PAGE.split(f"### {section}\n")[1].split("\n### ")[0].split("\n## ")[0]
    rows = [line.split("|")[1] for line in body.splitlines() if line.startswith("| ")]
    return [quoted for row in rows[1:] for quoted in re.findall(r"`([^`]+)`", row)]


def alarms() -> Iterator[str]:
    """The format of every line that the program logs as WARNING or worse."""
    for folder in ("actors", "storage", "src/trimaran/commands"):
        for path in (ROOT / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and call.func.attr in ALARMING
                    and isinstance(call.func.value, ast.Name)
                    and call.func.value.id == "logger"
                    and isinstance(call.args[0], ast.Constant)
                ):
                    yield str(call.args[0].value)


def is_named(line: str, names: list[str]) -> bool:
    """Whether one of the names, whose dots stand for anything, is in the line."""
    plain = re.sub(r"%[-\d.]*[a-z]", "", line).lower()
    return any(
        re.search(".*".join(re.escape(part.strip(" :")) for part in name.lower().split("...") if part), plain)
        for name in names
    )


def test_every_alarm_of_the_log_is_on_the_page() -> None:
    names = first_column("Lines in the log")
    found = set(alarms()) - TOLD_ELSEWHERE
    assert len(found) > 20
    assert sorted(line for line in found if not is_named(line, names)) == []


def test_every_line_on_the_page_is_an_alarm() -> None:
    lines = [re.sub(r"%[-\d.]*[a-z]", "", line).lower() for line in alarms()]
    lines += ["no link to", "connection of node refused"]  # said once aloud: `logger.log`
    unknown = [
        name for name in first_column("Lines in the log") if not any(is_named(each, [name]) for each in lines)
    ]
    assert unknown == []


def reasons() -> Iterator[str]:
    """What `/healthz` may say: the texts of the functions that decide it, with dots for what is filled in."""
    tree = ast.parse(Path(vitals.__file__).read_text())
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in ("health", "_group_reason"):
            for text in ast.walk(ast.Module(function.body[1:], [])):
                if (
                    isinstance(text, ast.Constant)
                    and isinstance(text.value, str)
                    and " " in text.value.strip()
                ):
                    yield text.value


def test_every_reason_of_healthz_is_on_the_page() -> None:
    names = first_column("What `/healthz` says")
    found = [reason for reason in reasons() if not reason.startswith(": waiting")]
    assert len(found) > 6
    assert [reason for reason in found if not is_named(reason, names)] == []


def test_every_exit_code_is_on_the_page() -> None:
    """Each once, and each error of storage by its name."""
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, StorageError)
    ]
    named = {each.exit_code: each.__name__ for each in kinds if "exit_code" in vars(each)}
    codes = {node.NodeRemoved.exit_code, log_command.EXIT_DAMAGED, 0, *named}
    codes |= {value for name, value in vars(node_command).items() if name.startswith("EXIT_")}
    body = PAGE.split("### Exit codes\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", body, re.MULTILINE)
    assert sorted(int(code) for code, _ in rows) == sorted(codes)
    assert {int(code): name for code, name in rows if int(code) in named} == named


def test_every_option_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(--[a-z-]+)`", PAGE.split("## Options worth a thought")[1].split("\n## ")[0]))
    assert named and named <= {f"--{each.flag}" for each in settings()}
