"""The one place where C or Python is chosen: both modules have the same functions with the same results."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from ._built import check_built


def _choose() -> Literal["c", "python"]:
    if os.environ.get("TRIMARAN_PURE_PYTHON") == "1":
        return "python"
    if find_spec("._native", __package__) is not None:
        # If it can't be imported, that error is shown: a broken build is not a missing one.
        from ._native import lib

        check_built(getattr(lib, "TRI_BUILT_FROM", None))
        return "c"
    warnings.warn(
        "Trimaran's C codec was not built: the Python codec is used, correct but hundreds of times slower."
        " With a C compiler, install again: pip install --force-reinstall --no-cache-dir",
        RuntimeWarning,
        stacklevel=2,
    )
    return "python"


IMPLEMENTATION: Literal["c", "python"] = _choose()

if IMPLEMENTATION == "c":
    from ._compiled_batch import (
        check_chunk,
        crc32c,
        decode_batch,
        read_header,
        seal_batch,
        split_batches,
        verify_batch,
        walk_batch,
    )
else:
    from ._reference_batch import (
        check_chunk,
        crc32c,
        decode_batch,
        read_header,
        seal_batch,
        split_batches,
        verify_batch,
        walk_batch,
    )

if TYPE_CHECKING or IMPLEMENTATION == "python":  # two classes of one shape: the checkers see one
    from ._reference_batch import OpenBatch
else:
    from ._compiled_batch import OpenBatch

__all__ = [
    "IMPLEMENTATION",
    "OpenBatch",
    "check_chunk",
    "crc32c",
    "decode_batch",
    "read_header",
    "seal_batch",
    "split_batches",
    "verify_batch",
    "walk_batch",
]
