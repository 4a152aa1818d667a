"""The commands that ask a cluster: what they leave behind, and what they print."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from trimaran.client import NoResponders
from trimaran.commands import Failure, asking
from trimaran.commands import backup as backup_module
from trimaran.commands import cluster as cluster_module
from trimaran.commands.backup import backup
from trimaran.commands.cluster import cluster

ANSWER = {
    "cluster": "00000000000000aa",
    "protocol": 3,
    "nodes": [
        {
            "name": "a-node-in-berlin",
            "id": "0123456789abcdef",
            "address": "a-node-in-berlin.example.com:6222",
            "state": "member",
            "reachable": True,
            "protocol": 3,
            "replicas": 1,
            "leads": 1,
            "needed_by": ["ORDERS"],
        }
    ],
}


def test_nothing_is_cut_short_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "ask", lambda servers, question: ANSWER)
    shown = CliRunner().invoke(cluster, ["info"]).output
    for text in ("a-node-in-berlin", "0123456789abcdef", "a-node-in-berlin.example.com:6222", "needed by"):
        assert text in shown


def test_no_majority_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaderless:
        async def administer(self, subject: str) -> None:
            raise NoResponders(f"no responders on {subject}")

    @asynccontextmanager
    async def connected(*servers: str, request_timeout: float) -> AsyncIterator[Leaderless]:
        yield Leaderless()

    monkeypatch.setattr(asking, "connect", connected)
    done = CliRunner().invoke(cluster, ["info"])
    assert done.exit_code and "have no majority, or that server belongs to no cluster yet" in done.output


def test_a_backup_that_was_not_made_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(servers: object, question: object) -> None:
        assert (tmp_path / "saved.part").exists()
        raise Failure("there is no stream X")

    monkeypatch.setattr(backup_module, "ask", refuse)
    done = CliRunner().invoke(backup, [str(tmp_path / "saved"), "--stream", "X"])
    assert done.exit_code == 1 and "there is no stream X" in done.output
    assert not list(tmp_path.iterdir())
