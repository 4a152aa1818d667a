"""Every full block's index is settled here, as only that of large blocks is outside of tests."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def settled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trimaran.actors.stream.blocks.SETTLED_BYTES", 1)
        yield
