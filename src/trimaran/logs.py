"""How log lines look: one event is one line, whatever a client or a peer managed to get into it.

Two forms, both on stderr. Human: time, level, logger, message, then what the event carries as key=value.
JSON: the same as one object. Control characters, line ends and the characters that reorder text are
escaped, so that nothing from outside can forge a line or drive a terminal.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final, Literal, TextIO

__all__ = ["HumanFormatter", "JsonFormatter", "announce", "configure", "escape"]

ROOT: Final = "trimaran"

_FORGERS: Final = {
    *range(0x20),  # control characters, line ends among them
    *range(0x7F, 0xA0),  # delete and the second set of control characters
    0x2028,  # line separator
    0x2029,  # paragraph separator
    *range(0x202A, 0x202F),  # embedding and override of direction
    *range(0x2066, 0x206A),  # isolation of direction
    *range(0xD800, 0xE000),  # lone surrogates, which no encoding takes
}
_ESCAPES: Final = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _FORGERS} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}

_OWN_ATTRIBUTES: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_LEVEL_WORDS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}


def escape(text: str) -> str:
    """`text` on one line and without power over a terminal."""
    return text.translate(_ESCAPES)


def timestamp(record: logging.LogRecord) -> str:
    """UTC with milliseconds, as in `2026-01-31T12:00:00.123Z`."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def extras(record: logging.LogRecord) -> dict[str, object]:
    """What the caller gave as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}


class HumanFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO  trimaran.node: message key=value`; tracebacks follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        level = _LEVEL_WORDS.get(record.levelname, record.levelname)
        pairs = "".join(f" {key}={value}" for key, value in extras(record).items())
        line = f"{timestamp(record)} {level:<5} {record.name}: {escape(record.getMessage() + pairs)}"
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
            line += "".join(f"\n    {escape(part)}" for part in traceback.split("\n"))
        return line


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, logger, message, then what the event carries."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event.update((key, value) for key, value in extras(record).items() if key not in event)
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)  # ASCII only, so every forger is escaped


def configure(
    form: Literal["human", "json"], level: str, *, name: str = "", stream: TextIO | None = None
) -> logging.Handler:
    """Send the package's log to `stream` (stderr). Replaces what an earlier call set up.

    Args:
        form: the `--log-format`.
        level: the `--log-level`.
        name: the node's name, carried by every JSON event, which may end up far from its origin.
        stream: where lines go.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter())
    if name and form == "json":
        handler.addFilter(_Named(name))
    root = logging.getLogger(ROOT)
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    root.propagate = False
    return handler


def announce(message: str) -> None:
    """Log `message` at any level: for the few lines that other programs wait for."""
    logger = logging.getLogger(ROOT)
    logger.handle(logger.makeRecord(ROOT, logging.INFO, __file__, 0, message, (), None))


class _Named(logging.Filter):
    """Adds the node's name to every event."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def filter(self, record: logging.LogRecord) -> bool:
        record.node = self._name
        return True
