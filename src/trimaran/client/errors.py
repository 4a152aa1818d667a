"""What the client raises, named by what is known of the request's fate."""

from typing import Final


class NatsError(Exception):
    """Base of what this client raises."""


class ConnectFailed(NatsError):
    """No server could be reached within the time allowed."""


class Disconnected(NatsError):
    """The connection broke while an answer was awaited: the request may or may not have been carried out."""


class Closed(NatsError):
    """You closed this client."""


class ServerError(NatsError):
    """The server refused the connection or something sent on it, by an -ERR line."""


class NoResponders(NatsError):
    """Nobody listens on the subject: the request reached no one, it is safe to repeat."""


class RequestTimeout(NatsError, TimeoutError):
    """No answer in time: the request may or may not have been carried out."""


class PayloadTooLarge(NatsError, ValueError):
    """More bytes than the server's max_payload; nothing was sent."""


OUTCOME_UNKNOWN: Final = 20001
"""Trimaran's error code for what may or may not have been carried out. All others mean that it was not."""


class JetStreamError(NatsError):
    """A JetStream request was answered with an error: it was not carried out.

    Unless `err_code` is `OUTCOME_UNKNOWN`: then it may have been.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({code}/{err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description
