#!/usr/bin/env bash
# Installs what is missing, builds, and measures normd's calls beside the least that gRPC does (echo servers) and beside a
# Python server of grpcio and PyTorch, all on this machine. One answer of every load is checked before it is timed.
# Writes rpc.md (verdicts and figures) and rpc.json (every round) into build/bench; takes about 35 minutes.
#
#   tests/benchmarks/rpc.sh [--runs N] [--quick] [--update-docs]
#   tests/benchmarks/rpc.sh --soak [--soak-small N] [--soak-large N] [--update-docs]
#   tests/benchmarks/rpc.sh --state [--update-docs]
#   tests/benchmarks/rpc.sh --replicas [--update-docs]
#
# --runs N         how often everything is measured, 3 by default: a goal counts as met if every run meets it
# --quick          one short run, about a minute: shows that everything works, but its figures mean little
# --soak           instead: whether the server's memory stays flat; writes rpc_soak.md. About 15 minutes
# --soak-small N   small requests of the soak, 10 million by default
# --soak-large N   requests of 8 MB of the soak, 20,000 by default
# --state          instead: what durable state costs; writes state.md. About 3 minutes
# --replicas       instead: what replicas on one Redis reach, with HAProxy and without; writes replicas.md. About 2 minutes
# --update-docs    puts the tables into docs/performance.md (--state: docs/state.md, --replicas: docs/operations.md) as well
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
options=()
page=docs/performance.md
update=
while (($# > 0)); do
  case "$1" in
    --runs | --soak-small | --soak-large)
      options+=("$1" "${2:?$1 needs a number}")
      shift 2
      ;;
    --quick | --soak)
      options+=("$1")
      shift
      ;;
    --state)
      options+=("$1")
      page=docs/state.md
      shift
      ;;
    --replicas)
      options+=("$1")
      page=docs/operations.md
      shift
      ;;
    --update-docs)
      update=1
      shift
      ;;
    *)
      echo "usage: $0 [--runs N] [--quick] [--soak [--soak-small N] [--soak-large N]] [--state] [--replicas]" \
        "[--update-docs] (got '$1')" >&2
      exit 2
      ;;
  esac
done

deploy/install_dependencies.sh bench
mkdir -p build
cmake --preset bench >build/bench.configure.log 2>&1 || {
  cat build/bench.configure.log >&2
  exit 1
}
cmake --build build/bench --target normd normctl echo_server kernel_time rpc_load
[[ -z $update ]] || options+=(--docs "$page")
PYTHONPATH=tests/benchmarks exec /usr/bin/python3 -m rpc.measure --build build/bench "${options[@]}"
