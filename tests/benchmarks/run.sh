#!/usr/bin/env bash
# Installs what is missing, builds the benchmarks, and compares the kernels with PyTorch, oneDNN and the memory's limit.
# Every result is checked against the float64 reference before it is timed. Writes performance.md and performance.png into
# build/bench; takes about 15 minutes.
#
#   tests/benchmarks/run.sh [--runs N] [--update-docs]
#
# --runs N         how often everything is measured, 3 by default: a goal counts as met if every run meets it
# --update-docs    puts the results into docs/performance.md as well
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
runs=3
docs=()
while (($# > 0)); do
  case "$1" in
    --runs)
      runs=${2:?--runs needs a number}
      shift 2
      ;;
    --update-docs)
      docs=(--docs docs/performance.md)
      shift
      ;;
    *)
      echo "usage: $0 [--runs N] [--update-docs] (got '$1')" >&2
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
cmake --build build/bench --target batch_norm_comparison accuracy_comparison threads_benchmark dtype_benchmark
programs=build/bench/tests/benchmarks
out=build/bench

echo "==> accuracy"
"$programs/accuracy_comparison" | tee "$out/accuracy.md"
echo "==> threads"
GOMP_SPINCOUNT=2000 "$programs/threads_benchmark" | tee "$out/threads.md"
echo "==> PyTorch as installed"
"$programs/batch_norm_comparison" --torch-as-installed --rounds 3 >"$out/installed.json"
measured=()
for ((run = 1; run <= runs; ++run)); do
  echo "==> comparison, run $run of $runs"
  OMP_PROC_BIND=true OMP_WAIT_POLICY=active "$programs/batch_norm_comparison" --rounds 5 >"$out/run$run.json"
  measured+=("$out/run$run.json")
done
/usr/bin/python3 tests/benchmarks/report.py --runs "${measured[@]}" --installed "$out/installed.json" \
  --accuracy "$out/accuracy.md" --threads "$out/threads.md" --out "$out" "${docs[@]}"
