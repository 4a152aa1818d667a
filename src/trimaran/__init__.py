"""Trimaran: a replicated, durable message stream. Three hulls, one boat: three replicas, one log.

As a program: `trimaran node`, `trimaran demo`. Inside a Trio program: `open_node`, `open_cluster`, and from a
node `open_group` (your own state machine) and `open_stream`.
"""

__version__ = "0.1.0"

from .actors.embedded import (
    ApiRefused,
    GroupHandle,
    Published,
    Session,
    StreamHandle,
    Unanswered,
    open_cluster,
    open_group,
    open_node,
    open_stream,
)
from .actors.node import Node, NodeFailed
from .actors.options import Options
from .actors.raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown
from .actors.replica.group import NotDone
from .actors.replica.user_machine import StateMachine, refused
from .actors.setting import BadOption
from .actors.world import World

__all__ = [
    # nodes
    "Node",
    "Options",
    "World",
    "open_node",
    "open_cluster",
    # groups and streams
    "GroupHandle",
    "Published",
    "Session",
    "StateMachine",
    "StreamHandle",
    "open_group",
    "open_stream",
    "refused",
    # how a proposal ends
    "Applied",
    "NotApplied",
    "NotDone",
    "Outcome",
    "Reason",
    "Unknown",
    # errors
    "ApiRefused",
    "BadOption",
    "NodeFailed",
    "Unanswered",
]
