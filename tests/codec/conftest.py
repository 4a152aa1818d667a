"""Both implementations of the codec, whichever one the package has chosen for itself."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="session", params=["c", "python"])
def codec(request: pytest.FixtureRequest) -> ModuleType:
    """The batch functions of one implementation; a missing C extension fails the test, and skips nothing."""
    if request.param == "python":
        return importlib.import_module("trimaran.codec._reference_batch")
    try:
        return importlib.import_module("trimaran.codec._compiled_batch")
    except ImportError as error:
        pytest.fail(f"the C codec is not built, so it cannot be tested: {error}")
