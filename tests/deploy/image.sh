#!/usr/bin/env bash
# Builds the image, with what the build folder compiled, and looks into it. A part of run.sh.
set -euo pipefail
# shellcheck source=tests/deploy/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

say "image: what $build compiled, for the compiler in the image build"
port=$(free_port)
redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --daemonize yes --dir "$work" \
  --pidfile "$work/redis.pid" --logfile "$work/redis.log"
wait_for 10 Redis redis-cli -p "$port" ping
# LANG as in the Dockerfile: ccache hashes it.
export LANG=C.UTF-8 CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros
rm -rf build/image # Only what the compiler is asked for gets into Redis.
cmake --preset release -B build/image -DNORMD_BUILD_TESTS=OFF >"$work/compile.log"
CCACHE_REMOTE_STORAGE=redis://127.0.0.1:$port CCACHE_RESHARE=1 \
  cmake --build build/image --target normd normctl >>"$work/compile.log"

say "image: build"
DOCKER_BUILDKIT=0 deploy/docker/build.sh --network host --build-arg "CCACHE_REMOTE_STORAGE=redis://127.0.0.1:$port" \
  >"$work/image.log" 2>&1
grep -E 'Hits:|Misses:' "$work/image.log" | head -n 2

say "image: what is in it"
inspect() { docker image inspect --format "$1" normd:local; }
size=$(inspect '{{.Size}}')
((size <= 40000000)) || fail "the image has $size bytes, want 40,000,000 at most"
[[ $(inspect '{{.Config.User}}') == 65532:65532 ]] || fail "it does not run as 65532"
[[ $(inspect '{{index .Config.Labels "org.opencontainers.image.version"}}') =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] ||
  fail "no version in the labels"
[[ $(inspect '{{index .Config.Labels "org.opencontainers.image.revision"}}') == "$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)"* ]] ||
  fail "another revision in the labels"
docker run --rm --entrypoint /bin/sh normd:local -c true >/dev/null 2>&1 && fail "it has a shell"
docker run --rm --entrypoint /usr/local/bin/normctl normd:local --version >/dev/null
docker run --rm normd:local --check-config >/dev/null
say "image: $size bytes"
