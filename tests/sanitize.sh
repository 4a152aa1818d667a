#!/usr/bin/env bash
# The codec's tests with its C built for the address and undefined-behaviour sanitizers (gcc, Linux).
# Arguments go to pytest; the default is tests/codec. Uses .venv, see .ci/run; builds below build/sanitized.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/.venv/bin/python
target=$PWD/build/sanitized
rm -rf "$target"
mkdir -p "$target"
cp -rL src/trimaran "$target/"
rm -f "$target"/trimaran/codec/_native*.so

flags='-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1'
CFLAGS=$flags LDFLAGS=$flags "$python" setup.py -q build_ext --force \
    --build-lib "$target" --build-temp "$target/objects" 2>&1 | grep -E ' (error|warning): ' || true
ls "$target"/trimaran/codec/_native*.so

# Python's own allocator would hide a read behind a bytes object: malloc puts a red zone around each.
# What the interpreter itself keeps until its end is no leak of ours.
export LD_PRELOAD="$(cc -print-file-name=libasan.so) $(cc -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONMALLOC=malloc PYTHONPATH=$target
"$python" -c 'import trimaran.codec as codec; assert "sanitized" in codec.__file__ and codec.IMPLEMENTATION == "c"'
# The sanitizer writes to the file descriptor, so only Python's own output is captured.
exec "$python" -m pytest -q --capture=sys -p no:cacheprovider "${@:-tests/codec}"
