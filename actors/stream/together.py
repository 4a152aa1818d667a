"""Messages that are stored together or not at all (ADR-50): what would become of them, before it does.

A whole batch is one entry of the log, so it is applied at one place of it on every replica, and nothing of it
is anywhere before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ...codec.block import accounted_size
from . import headers
from .errors import MAXIMUM_BYTES, MAXIMUM_MESSAGES, MAXIMUM_PER_SUBJECT, ROLLUP_INVALID
from .expiry import parse_ttl
from .results import refused
from .subjects import subject_matches

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import StreamConfig
    from .duplicates import Duplicates
    from .store import MessageStore

__all__ = ["ATOMIC_SINCE", "Together"]

ATOMIC_SINCE: Final = 4
"""The protocol of nodes that know such entries."""

_NOT_SUPPORTED: Final = {headers.COUNTER: 10168, headers.SCHEDULE: 10188}


class Together:
    """Checks the messages of one batch in their order, each as if those before it were stored.

    Args:
        last_of: the sequence of the newest message whose subject a pattern matches; 0: there is none.
    """

    def __init__(
        self,
        config: StreamConfig,
        store: MessageStore,
        duplicates: Duplicates,
        last_of: Callable[[bytes], int],
    ) -> None:
        self._config = config
        self._store = store
        self._duplicates = duplicates
        self._last_of = last_of
        self._count = 0
        self._subjects: Counter[bytes] = Counter()
        self._ids: set[bytes] = set()
        self._added = 0
        """Messages that the stream would have more, where one of a subject may take another's place."""
        self._grown = 0
        """Bytes that it would have more."""

    def refusal(
        self, subject: bytes, block: bytes, payload: bytes, asked: Mapping[bytes, bytes]
    ) -> int | None:
        """The result that refuses the batch for this message, or None."""
        refusal = self._headers(subject, asked, len(block) + len(payload))
        if refusal is None and self._config.discard == "new":
            size = accounted_size(len(subject), len(block), len(payload))
            refusal = self._room(subject, size, rolls_up=bool(asked.get(headers.ROLLUP)))
        self._count += 1
        self._subjects[subject] += 1
        return refusal

    def _headers(self, subject: bytes, asked: Mapping[bytes, bytes], size: int) -> int | None:
        config = self._config
        expected = asked.get(headers.EXPECTED_STREAM)
        if expected and expected != config.name.encode():
            return refused(10060)
        ttl = asked.get(headers.TTL)
        if ttl and not config.allow_msg_ttl and parse_ttl(ttl) is not None:
            return refused(10166)
        for header, err_code in _NOT_SUPPORTED.items():
            if asked.get(header):
                return refused(err_code)
        if asked.get(headers.EXPECTED_LAST_MSG_ID):
            return refused(10177)
        if self._is_known(asked.get(headers.MSG_ID, b"")):
            return refused(10201)
        if 0 < config.max_msg_size < size:
            return refused(10054)
        answer = self._expectations(subject, asked) or self._rollup(asked)
        if answer is None and ttl and parse_ttl(ttl) is None:
            return refused(10165)
        return answer

    def _is_known(self, message_id: bytes) -> bool:
        if not message_id:
            return False
        known = message_id in self._ids or self._duplicates.get(message_id) is not None
        self._ids.add(message_id)
        return known

    def _expectations(self, subject: bytes, asked: Mapping[bytes, bytes]) -> int | None:
        last = asked.get(headers.EXPECTED_LAST_SEQUENCE)
        if last:
            held = self._store.last + self._count
            if headers.parse_sequence(last) != held:
                return refused(10071, held)
            if self._count:
                return refused(10164)
        of_subject = asked.get(headers.EXPECTED_LAST_SUBJECT_SEQUENCE)
        pattern = asked.get(headers.EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT)
        if of_subject:
            wanted = (pattern or subject).decode(errors="replace")
            if any(subject_matches(wanted, each.decode(errors="replace")) for each in self._subjects):
                return refused(10164)
            held = self._last_of(pattern or subject)
            if headers.parse_sequence(of_subject) != held:
                return refused(10071, held)
        elif pattern:
            return refused(10193)
        return None

    def _rollup(self, asked: Mapping[bytes, bytes]) -> int | None:
        rollup = asked.get(headers.ROLLUP)
        if not rollup:
            return None
        if not self._config.allow_rollup_hdrs or self._config.deny_purge:
            return refused(10111)
        return None if rollup.lower() in (b"sub", b"all") else refused(10111, ROLLUP_INVALID)

    def _room(self, subject: bytes, size: int, *, rolls_up: bool) -> int | None:
        """With "discard new": whether there is room for one more."""
        config, store = self._config, self._store
        before = self._subjects[subject]
        replaces = 0 < config.max_msgs_per_subject <= store.count_of(subject) + before
        if replaces and config.discard_new_per_subject and not rolls_up:
            return refused(10077, MAXIMUM_PER_SUBJECT)
        if 0 < config.max_msgs <= store.messages + self._added and not replaces:
            return refused(10077, MAXIMUM_MESSAGES)
        freed = store.first_size_of(subject) if replaces and not before else 0
        if 0 < config.max_bytes < store.size + self._grown - freed + size:
            return refused(10077, MAXIMUM_BYTES)
        self._added += not replaces
        self._grown += size - freed
        return None
