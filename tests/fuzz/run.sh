#!/usr/bin/env bash
# Builds the fuzzers with Clang and runs them. What they find is kept in build/fuzz/corpus for the next run; an input that
# fails is left in build/fuzz as crash-*: fix it, and add it to tests/fuzz/regressions.
#
#   tests/fuzz/run.sh [seconds]     30 by default
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
seconds=${1:-30}

cmake --preset fuzz >/dev/null
cmake --build --preset fuzz --target split_message_fuzz split_message_seeds
mkdir -p build/fuzz/seeds build/fuzz/corpus
build/fuzz/tests/fuzz/split_message_seeds build/fuzz/seeds
UBSAN_OPTIONS=print_stacktrace=1 build/fuzz/tests/fuzz/split_message_fuzz -max_total_time="$seconds" -max_len=4096 \
  -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix=build/fuzz/ \
  build/fuzz/corpus build/fuzz/seeds tests/fuzz/regressions
