#!/usr/bin/env bash
# Fuzzes the C codec with libFuzzer, under the address and undefined-behaviour sanitizers:
#
#     fuzz/run.sh                          each target for a minute
#     fuzz/run.sh batch -runs=10000000     one target; what follows it goes to libFuzzer
#
# Targets are the files fuzz/*.c with a corpus. Needs clang and its runtime (Debian: clang libclang-rt-14-dev;
# CLANG names another one). Starts from fuzz/corpus; inputs that reach new code are kept in build/fuzz/TARGET, and
# an input that fails is written to build/fuzz and named at the end: give it to the program there to see it again.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=(batch protocol block wal)
if [ $# -gt 0 ]; then
    targets=("$1")
    shift
fi
if [ $# -eq 0 ]; then
    set -- -max_total_time=60
fi

for target in "${targets[@]}"; do
    mkdir -p "build/fuzz/$target"
    options=(-max_len=4096 -print_final_stats=1 -verbosity=0 "-artifact_prefix=build/fuzz/$target-")
    if [ -f "fuzz/$target.dict" ]; then
        options+=("-dict=fuzz/$target.dict")
    fi
    "${CLANG:-clang}" -g -O2 -std=gnu11 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Icsrc \
        "fuzz/$target.c" csrc/batch.c csrc/crc32c.c csrc/protocol.c csrc/stream.c csrc/wal.c -o "build/fuzz/fuzz-$target"
    printf '== %s\n' "$target"
    "build/fuzz/fuzz-$target" "${options[@]}" "$@" "build/fuzz/$target" "fuzz/corpus/$target"
done
