"""Limits of the account that has the streams, as nats-server's configuration names them.

    accounts { A { users [...], jetstream { max_mem: 64MB, max_file: 1GB, max_streams: 10 } } }

They are no part of any log: whoever leads the meta group, or a stream, refuses what is beyond them before it
is proposed, so replicas have nothing to decide. All nodes are to be configured alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from .errors import api_error

if TYPE_CHECKING:
    from .config import StreamConfig

__all__ = ["EXCEEDED", "UNLIMITED", "AccountLimits", "Held"]


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What an account may have; -1 is as much as there is. The fields are those of `$JS.API.INFO`."""

    max_memory: int = -1
    """Bytes of all replicas of memory streams, stored or reserved by their `max_bytes`."""
    max_storage: int = -1
    max_streams: int = -1
    max_consumers: int = -1
    """Of each stream, as in the reference."""
    max_ack_pending: int = -1
    memory_max_stream_bytes: int = -1
    """The highest `max_bytes` of one memory stream."""
    storage_max_stream_bytes: int = -1
    max_bytes_required: bool = False
    """Whether each stream needs a `max_bytes`."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @property
    def count_bytes(self) -> bool:
        """Whether it matters how much is stored."""
        return self.max_memory >= 0 or self.max_storage >= 0

    def most_bytes(self, storage: str) -> int:
        """Of all streams of a kind of storage; -1: as many as there is room for."""
        return self.max_memory if storage == "memory" else self.max_storage

    def check_number(self, streams: int) -> None:
        """One more stream besides so many. Raises ApiError."""
        if 0 <= self.max_streams <= streams:
            raise api_error(10027)

    def check_stream(self, config: StreamConfig) -> None:
        """A stream's configuration by itself. Raises ApiError."""
        if self.max_bytes_required and config.max_bytes <= 0:
            raise api_error(10113)
        memory = config.storage == "memory"
        most = self.memory_max_stream_bytes if memory else self.storage_max_stream_bytes
        if 0 < most < config.max_bytes:
            raise api_error(10122)
        if 0 < self.max_consumers < config.max_consumers:
            raise api_error(10026)

    def check_reserved(self, config: StreamConfig, others: Mapping[str, int]) -> None:
        """What a stream may grow to, besides what others of each kind of storage may. Raises ApiError."""
        most = self.most_bytes(config.storage)
        reserved = others[config.storage] + config.max_bytes * config.num_replicas
        if config.max_bytes > 0 and 0 <= most < reserved:
            raise api_error(10028 if config.storage == "memory" else 10047)

    def consumers_of(self, config: StreamConfig) -> int:
        """How many consumers a stream may have; 0: as many as there are."""
        limits = [limit for limit in (config.max_consumers, self.max_consumers) if limit > 0]
        return min(limits, default=0)


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of replicas, by the kind of storage that their streams asked for, and consumers of leaders."""

    memory: int = 0
    file: int = 0
    consumers: int = 0

    def of(self, storage: str) -> int:
        return self.memory if storage == "memory" else self.file


UNLIMITED: Final = AccountLimits()
EXCEEDED: Final = api_error(10002)
