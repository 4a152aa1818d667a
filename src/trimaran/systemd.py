"""What systemd wants to hear of a service with `Type=notify` (or `notify-reload`); see sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

logger = logging.getLogger(__name__)


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell the service manager, if there is one: `READY=1`, `STOPPING=1`. False: nobody was told."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.sendto(state.encode(), address)
    except OSError as error:
        logger.info("systemd was not told %s: %s", state.partition("\n")[0], error)
        return False
    return True


def reloading() -> str:
    """The state of a service that reads its configuration again; `READY=1` ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
