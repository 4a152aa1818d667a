"""docs/format.md can't rot: its tables have the offsets and sizes that the code packs."""

from __future__ import annotations

import dataclasses
import re
import struct
from pathlib import Path

import pytest

from trimaran import backup_file
from trimaran.actors.peers import wire
from trimaran.actors.peers.wire import FrameKind, Hello
from trimaran.codec.batch import HEADER as BATCH_HEADER
from trimaran.codec.frame import FRAME_HEADER
from trimaran.storage import contents, node, segment

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8, "8 bytes": 8}


def fields(heading: str) -> list[tuple[int, str]]:
    """(offset, type) of each field in the first table behind a mark or heading of the page."""
    rest = PAGE[PAGE.index(heading) :] + "\n\n"
    table = rest[: rest.index("\n\n", rest.index("|---"))]
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", table, re.M)
    return [(int(offset), kind.strip()) for offset, kind in rows]


@pytest.mark.parametrize(
    ("heading", "packed", "checksum"),
    [
        ("<!-- table: node header -->", node._HEADER, False),
        ("<!-- table: segment header -->", segment._SEGMENT_HEADER, True),
        ("<!-- table: frame -->", segment.FRAME, False),
        ("<!-- table: trailer -->", segment._TRAILER_HEAD, False),
        ("<!-- table: table of contents -->", contents._HEADER, True),
        ("<!-- table: section of a table of contents -->", contents._SECTION, False),
        ("<!-- table: run of a table of contents -->", contents._RUN, False),
        ("<!-- table: backup header -->", backup_file._HEADER, False),
        ("<!-- table: backup section -->", backup_file._SECTION, True),
        ("## Batch", BATCH_HEADER, False),
        ("## Peer frame", FRAME_HEADER, False),
    ],
)
def test_a_table_adds_up_to_what_is_packed(heading: str, packed: struct.Struct, checksum: bool) -> None:
    at = 0
    sizes = []
    for offset, kind in fields(heading):
        assert offset == at, (heading, kind)
        if kind not in SIZES:
            break
        sizes.append(SIZES[kind])
        at += SIZES[kind]
    letters = re.findall(r"\d*[a-wyzA-Z]", packed.format.lstrip("<"))
    assert at == packed.size + (4 if checksum else 0)
    assert sizes[: len(letters)] == [struct.calcsize(f"<{letter}") for letter in letters]


def test_the_kinds_of_records_are_those_of_the_code() -> None:
    table = PAGE[PAGE.index("### Records") : PAGE.index("How records act")]
    kinds = {int(number): name for number, name in re.findall(r"^\| (\d+) \| ([a-z ]+) \|", table, re.M)}
    assert kinds == {
        segment.BATCH: "batch",
        segment.HARD_STATE: "hard state",
        segment.TRUNCATE: "truncate suffix",
        segment.COMPACT: "compact prefix",
        segment.CREATE: "group create",
        segment.DELETE: "group delete",
        segment.TRAILER: "trailer",
    }


def test_peer_frames_are_those_of_the_code() -> None:
    table = PAGE[PAGE.index("## Peer frame") :]
    rows = re.findall(r"^\| (\d+) \| ([a-z_]+) \| (.*?) \|", table, re.M)
    assert {int(number): name for number, name, _ in rows} == {kind: kind.name.lower() for kind in FrameKind}
    for number, _, text in rows:
        kind = FrameKind(int(number))
        told = [re.sub(r" \(.*", "", field) for field in text.removeprefix("a list of: ").split(", ")]
        if kind in wire.MESSAGES:
            left_out = ("sender", "batches")
            assert told == [
                one.name for one in dataclasses.fields(wire.MESSAGES[kind]) if one.name not in left_out
            ]
        elif kind == FrameKind.HELLO:
            assert told == [field.name for field in dataclasses.fields(Hello)]


def test_every_format_of_the_page_has_a_golden_file_of_its_version() -> None:
    versions = re.findall(r"^\| \[([a-z ]+)\]\(#([a-z-]+)\).*?\| (\d+) \|", PAGE, re.M)
    golden = {path.stem for path in (Path(__file__).parents[1] / "golden").iterdir()}
    names = {
        "node header": "node",
        "table of contents": "toc",
        "block record": "block",
        "backup file": "backup",
    }
    names["peer frame"] = "peer"
    assert len(versions) == 9
    for name, anchor, version in versions:
        assert anchor == name.replace(" ", "-")
        assert f"{names.get(name, name)}-v{version}" in golden
    assert golden - {f"{names.get(name, name)}-v{version}" for name, _, version in versions} == {
        "peer-rows-v3"
    }
