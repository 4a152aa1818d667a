"""A bounded mailbox with watermarks that overwrite without waiting.

Requests are messages: they queue, up to a bound, and are refused beyond it. What flows back (synced, applied)
is a *watermark*: only its newest value matters, so it never queues and a full mailbox can't block it. That is
why actors can't wait for each other in a circle.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

Message = TypeVar("Message")


class Mailbox(Generic[Message]):
    """One actor's inbox.

    Args:
        bound: how many messages may wait.
        due: called whenever the owner has something to do; it gets a turn then, in which it calls `take`.
    """

    def __init__(self, bound: int, due: Callable[[], None]) -> None:
        self.bound = bound
        self.refused = 0
        self.wake = due
        """Let the owner have a turn, even with nothing."""
        self._queue: list[Message] = []
        self._marks: dict[str, Message] = {}

    def put(self, message: Message) -> bool:
        """Queue a message. False (and counted) when the mailbox is full: the sender must answer for it."""
        if len(self._queue) >= self.bound:
            self.refused += 1
            return False
        self._queue.append(message)
        self.wake()
        return True

    def mark(self, name: str, message: Message, *, wake: bool = True) -> None:
        """Overwrite the watermark `name`; the owner sees its newest value at its next `take`.

        With `wake` False the owner gets no turn for it: it is seen when there is something else to do.
        """
        self._marks[name] = message
        if wake:
            self.wake()

    def take(self) -> list[Message]:
        """Everything there is: watermarks first, then messages in order."""
        taken, self._queue = self._queue, []
        if self._marks:
            taken = [*self._marks.values(), *taken]
            self._marks.clear()
        return taken

    def __len__(self) -> int:
        return len(self._queue)
