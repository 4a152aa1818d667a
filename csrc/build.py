"""Build description of the C codec: every header here is the specification, every .c file its body.

The headers are fed to cffi as they are, without their preprocessor lines, so that there is no second
copy of a declaration. Constants are therefore enums, not defines.
"""

from pathlib import Path
from zlib import crc32

from cffi import FFI

HERE = Path("csrc")
HEADERS = ["crc32c.h", "batch.h", "protocol.h", "stream.h", "syncer.h", "uring.h", "wal.h"]

headers = [HERE / name for name in HEADERS if (HERE / name).exists()]
declarations = "\n".join(
    line for header in headers for line in header.read_text().splitlines() if not line.startswith("#")
)

# What it was built from: codec/_built.py compares, so that nobody runs one of older sources unawares.
sources = sorted([*HERE.glob("*.c"), *HERE.glob("*.h"), HERE / "build.py"])
built_from = f"enum {{ TRI_BUILT_FROM = {crc32(b''.join(path.read_bytes() for path in sources)) >> 1} }};"

ffi = FFI()
ffi.cdef(f"{declarations}\n{built_from}")
ffi.set_source(
    "trimaran.codec._native",
    "\n".join([*(f'#include "{header.name}"' for header in headers), built_from]),
    sources=[str(path) for path in sorted(HERE.glob("*.c"))],
    include_dirs=[str(HERE)],
    depends=[str(header) for header in headers],
    extra_compile_args=["-O3", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    optional=True,  # without a compiler the pure-Python codec is used, and says so
)
