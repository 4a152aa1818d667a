"""Which stream stores a subject: the meta state's streams, compiled, with a bounded cache of answers.

`NodeBackend` is this node as its gateway sees it: the directory, proposals, administration and frames to
others.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ..codec import Chunk
from .api import ApiRouter
from .cluster.meta_state import Assignment, MetaState
from .delivery.desk import Deliveries
from .gateway.backend import StreamRef
from .options import Options
from .peers.peers import Peers
from .peers.wire import FrameKind
from .proposals import Proposals
from .raft.outcomes import Outcome
from .stream.subjects import SubjectIndex
from .usage import Usage

CACHED_SUBJECTS: Final = 65_536
_NOT_ASKED: Final = StreamRef("", 0, ())


class StreamDirectory:
    """Subject -> stream. `update` when the meta state changed; `version` grows with each update."""

    def __init__(self) -> None:
        self.version = 0
        self._streams: SubjectIndex[StreamRef] = SubjectIndex()
        self._known: dict[tuple[int, int], StreamRef] = {}
        """(group, version of the configuration) -> what the index has of it."""
        self._answers: dict[bytes, StreamRef | None] = {}
        self._groups: dict[str, int] = {}

    def update(self, state: MetaState) -> None:
        """Streams that did not change stay as they are indexed."""
        self._answers.clear()
        self._groups = {stream.name: stream.group for stream in state.streams()}
        streams = {(stream.group, stream.version): stream for stream in state.streams()}
        for key in self._known.keys() - streams.keys():  # first: a new stream may take an old one's subjects
            for pattern in self._known.pop(key).subjects:
                self._streams.remove(pattern)
        for key in streams.keys() - self._known.keys():
            ref = self._known[key] = _ref(streams[key])
            for pattern in ref.subjects:
                self._streams.add(pattern, ref)
        self.version += 1

    def group_of(self, name: str) -> int | None:
        """The group of the stream of this name, or None."""
        return self._groups.get(name)

    def find(self, subject: bytes) -> StreamRef | None:
        """The stream that stores messages of this literal subject, or None."""
        found = self._answers.get(subject, _NOT_ASKED)
        if found is _NOT_ASKED:
            found = self._streams.find(subject)
            if len(self._answers) >= CACHED_SUBJECTS:
                self._answers.clear()
            self._answers[subject] = found
        return found


def _ref(stream: Assignment) -> StreamRef:
    subjects = stream.config.get("subjects")
    patterns = [str(each) for each in subjects] if isinstance(subjects, list) else []
    return StreamRef(
        stream.name,
        stream.group,
        tuple(pattern.encode() for pattern in patterns),
        no_ack=stream.config.get("no_ack") is True,
        atomic=stream.config.get("allow_atomic") is True,
    )


class NodeBackend:
    """`Backend`: what the gateway may ask of its node."""

    def __init__(
        self,
        node: int,
        version: str,
        options: Options,
        directory: StreamDirectory,
        proposals: Proposals,
        router: ApiRouter,
        peers: Peers,
        deliveries: Deliveries,
        usage: Usage,
    ) -> None:
        self.node_id = node
        self.node_name = options.name
        self.cluster_name = options.cluster_name
        self.version = version
        self.stream_of = directory.find
        self.exceeds = usage.exceeds
        self.api = router.ask
        self.to_consumer = deliveries.take
        self.flush_consumers = deliveries.flush
        self.listeners_changed = deliveries.listeners_changed
        self._directory = directory
        self._deliveries = deliveries
        self._proposals = proposals
        self._peers = peers

    def audit(
        self, client: Mapping[str, object], connected: float, subject: str, request: bytes, response: bytes
    ) -> None:
        self._deliveries.advisories.api(f"{self.node_id:016X}", client, connected, subject, request, response)

    def streams_version(self) -> int:
        return self._directory.version

    def propose(self, group: int, chunk: Chunk, done: Callable[[Outcome], None]) -> None:
        self._proposals.propose(group, chunk, done)

    def peers(self) -> Iterable[int]:
        return self._peers.up()

    def send_interest(self, peer: int | None, data: tuple[object, ...]) -> None:
        for each in [peer] if peer is not None else list(self._peers.up()):
            self._peers.send(each, FrameKind.INTEREST, data)

    def send_route(self, peer: int, data: bytes) -> bool:
        return self._peers.send(peer, FrameKind.ROUTE, (), data)
