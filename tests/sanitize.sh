#!/usr/bin/env bash
# The codec's tests with its C built for the address and undefined-behaviour sanitizers (gcc, Linux).
# Arguments go to pytest; without any: the tests of tests/codec that run the C of this process. Uses .venv, see
# .ci/run; builds below build/sanitized.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/.venv/bin/python
target=$PWD/build/sanitized
rm -rf "$target"
mkdir -p "$target"
cp -rL src/trimaran "$target/"
rm -f "$target"/trimaran/codec/_native*

# As setup.py does it, but for the flags: the environment need not have the setuptools that it wants.
"$python" -c 'import runpy, sys; runpy.run_path("csrc/build.py")["ffi"].emit_c_code(sys.argv[1])' "$target/_native.c"
"${CC:-cc}" -shared -fPIC -std=gnu11 -O1 -g -fno-omit-frame-pointer -pthread \
    -fsanitize=address,undefined -fno-sanitize-recover=all \
    -Icsrc -I"$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
    "$target/_native.c" csrc/*.c -o "$target/trimaran/codec/_native.abi3.so"

# Python's own allocator would hide a read behind a bytes object: malloc puts a red zone around each.
# What the interpreter itself keeps until its end is no leak of ours.
export LD_PRELOAD="$("${CC:-cc}" -print-file-name=libasan.so) $("${CC:-cc}" -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONMALLOC=malloc PYTHONPATH=$target
"$python" -c 'import trimaran.codec as codec; assert "sanitized" in codec.__file__ and codec.IMPLEMENTATION == "c"'
if [ $# -eq 0 ]; then
    set -- tests/codec -k 'not [python] and not test_batch_backend and not test_c_sources and not test_built'
fi
# The sanitizer writes to the file descriptor, so only Python's own output is captured.
exec "$python" -m pytest -q --capture=sys -p no:cacheprovider "$@"
