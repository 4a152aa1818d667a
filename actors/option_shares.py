"""What each part of a node knows of the node's options: in its own words, in seconds and bytes."""

from __future__ import annotations

from ..storage.actor import StorageOptions
from .gateway.gateway import Settings
from .options import BATCH_OVERHEAD, Options
from .raft.state import RaftOptions


def storage_options(options: Options) -> StorageOptions:
    """The storage actor's."""
    return StorageOptions(segment_bytes=options.segment_bytes, min_free_bytes=options.min_free_bytes)


def raft_options(options: Options) -> RaftOptions:
    """Those of the roles' rules."""
    return RaftOptions(
        heartbeat=options.heartbeat_ms / 1000,
        election_min=options.election_min_ms / 1000,
        election_max=options.election_max_ms / 1000,
        fsync_deadline=options.fsync_deadline_ms / 1000,
        quiet_after=options.quiet_after_ms / 1000,
        max_batch_bytes=options.batch_bytes,
        uncommitted_bytes=options.uncommitted_bytes,
        log_cache_bytes=options.log_cache_bytes,
    )


def gateway_settings(options: Options) -> Settings:
    """The gateway's."""
    return Settings(
        max_payload=options.max_payload,
        max_control_line=options.max_control_line,
        max_pending=options.max_pending,
        max_connections=options.max_connections,
        max_subscriptions=options.max_subscriptions,
        jetstream=options.jetstream == "on",
        domain=options.jetstream_domain or "",
        auth_timeout=options.auth_timeout_ms / 1000,
        ping_interval=options.ping_interval_ms / 1000,
        chunk_bytes=options.batch_bytes - BATCH_OVERHEAD,
        # A quarter, so that the gateways of three nodes together don't drive a leader into refusing.
        publish_window=options.uncommitted_bytes // 4,
    )
