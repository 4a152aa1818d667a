"""What every test with real nodes leaves behind is found in that test."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_garbage_for_others() -> Iterator[None]:
    """nats-py forgets the connection of a server that died, and only the collector closes it.

    Its warning then belongs to the test that killed the server, which allows it, and not to whatever test
    runs when the collector happens to come by.
    """
    yield
    gc.collect()
