#!/usr/bin/env bash
# Installs what is missing, builds and runs every test: lint, C++ (under AddressSanitizer+UBSan; under ThreadSanitizer where
# threads meet; as released what those do not show), Python with the judges (ONNX, PyTorch, torchvision, scikit-learn),
# clients of others in JavaScript, the container image with Docker, compose and Kubernetes manifests, and the fuzzers for half
# a minute.
#
#   tests/run.sh            everything
#   tests/run.sh --quick    without the deployment, the sanitizers and the fuzzers, and so all C++ tests as released
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

quick=
case "${1:-}" in
  "") ;;
  --quick) quick=1 ;;
  *)
    echo "usage: $0 [--quick] (got '$1')" >&2
    exit 2
    ;;
esac

# ccache hashes the language, too, and the image build has this one.
export LANG=C.UTF-8
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1 CCACHE_SLOPPINESS=pch_defines,time_macros
export CTEST_OUTPUT_ON_FAILURE=1 CLICOLOR_FORCE=0
started=$SECONDS
say() { printf '\n==> [%3ds] %s\n' "$((SECONDS - started))" "$*"; }

# build_and_test <preset> [cmake's arguments...]
build_and_test() {
  say "C++ $1: build"
  cmake --preset "$@" >"build/$1.configure.log" 2>&1 || {
    cat "build/$1.configure.log" >&2
    exit 1
  }
  # Every twentieth line shows that it goes on; a failure shows the end of everything.
  NINJA_STATUS='[%f/%t %es] ' cmake --build --preset "$1" | tee "build/$1.build.log" |
    awk 'NR % 20 == 0 { print; fflush() }' || {
    tail -n 60 "build/$1.build.log" >&2
    exit 1
  }
  say "C++ $1: tests"
  ctest --preset "$1" --parallel 2
}

say "Dependencies"
deploy/install_dependencies.sh test
mkdir -p build

say "Lint"
tests/lint.sh

build_and_test release "-DNORMD_TESTS_ONCE=$([[ $quick ]] && echo OFF || echo ON)"

say "Python: package, judges, quickstart example"
client/python/make_venv.sh build/venv
build/venv/bin/python -m mypy --strict --config-file client/python/pyproject.toml client/python/normd client/python/examples
NORMD_BIN=$root/build/release/server/app/normd build/venv/bin/python -m pytest -q \
  --numprocesses 2 --dist loadfile tests/python

say "Clients of others: grpc-js, buf curl, h2load"
tests/foreign/run.sh build/release

if [[ -z $quick ]]; then
  say "Deployment: image, compose, Kubernetes"
  deploy/install_dependencies.sh deploy
  tests/deploy/run.sh build/release
  build_and_test asan
  build_and_test tsan
  say "Fuzzing: wire messages beside protobuf's parser, 30 s"
  tests/fuzz/run.sh 30 2>build/fuzz.log || {
    tail -n 60 build/fuzz.log >&2
    exit 1
  }
  tail -n 5 build/fuzz.log
fi

say "All tests passed"
