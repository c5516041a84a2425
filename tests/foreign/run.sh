#!/usr/bin/env bash
# Clients that nobody here wrote, against a normd: @grpc/grpc-js with hand-written descriptors, with the .proto files and with
# reflection, and `buf curl`. Needs Node.js 18 or newer; fetches the npm packages into build/foreign.
#
#   tests/foreign/run.sh BUILD      BUILD: a build folder, e.g. build/release
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "${1:?usage: $0 BUILD}" && pwd)
work=$root/build/foreign
mkdir -p "$work"
cp "$root"/tests/foreign/package.json "$root"/tests/foreign/*.mjs "$work"
cd "$work"
npm install --silent --no-audit --no-fund
BUF=$("$root/tests/buf.sh")
export BUF NORMD_BIN=$build/server/app/normd NORMD_PROTOS=$root/proto
exec node --test --test-concurrency=1 ./*.test.mjs
