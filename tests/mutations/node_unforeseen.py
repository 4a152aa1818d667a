"""Bugs of whole nodes that nobody tuned for: written down before anybody tried whether they are found."""

from __future__ import annotations

from .node_bugs import bug
from .plant import Bug

NODE_UNFORESEEN: tuple[Bug, ...] = (
    bug(
        "a replica is read before it has applied what the leader said",
        "actors.reads:Reads.barrier",
        "await group.wait_applied(await self._index(number))",
        "await self._index(number)",
    ),
    bug(
        "a snapshot that came is named before its files are synced",
        "storage.files:GroupFiles.adopt",
        "await self.sync([file.name for file in manifest.files])",
        "pass",
    ),
    bug(
        "what moved away is given up without asking a majority",
        "actors.cluster.hosting:Hosting._release_dormant",
        "await self._confirm()",
        "pass",
    ),
    bug(
        "an answer to an earlier process is taken for one to this process",
        "actors.node:Node._build_groups",
        "self.proposals = Proposals(self.groups, self.peers, self._draw_number())",
        "self.proposals = Proposals(self.groups, self.peers, 1)",
    ),
    bug(
        "a late report of a group's members takes the place of a newer one",
        "actors.cluster.meta:MetaMachine._settled",
        "if at < group.settled_at:",
        "if False:",
    ),
    bug(
        "batches are applied while a snapshot takes their place",
        "actors.replica.snapshots:Snapshots._finish",
        "async with self.changing, group.applier.exclusive:",
        "async with self.changing:",
    ),
)
