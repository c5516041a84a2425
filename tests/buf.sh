#!/usr/bin/env bash
# Prints where buf is, which lints the protos and calls like curl; fetches it first if it is missing.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/tools
buf=$tools/node_modules/.bin/buf
[[ -x $buf ]] || npm install --silent --no-save --prefix "$tools" @bufbuild/buf@1.75.0 >&2
echo "$buf"
