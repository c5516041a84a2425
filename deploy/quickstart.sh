#!/usr/bin/env bash
# From nothing to a network that trains with its batch normalization on a server: installs what is missing, builds
# normd, starts it on a free port, trains a small CNN on handwritten digits twice (torch's BatchNorm2d and ours), and
# asks the trained layer with normctl. Leaves nothing running. Options go to client/python/examples/digits.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
say() { printf '\n\033[1m==> %s\033[0m\n' "$*"; }

say "1/5 Dependencies"
deploy/install_dependencies.sh quickstart

say "2/5 Building normd and normctl (release)"
mkdir -p build
cmake --preset release -DNORMD_BUILD_TESTS=OFF -B build/quickstart >build/quickstart.log 2>&1 || {
  cat build/quickstart.log >&2
  exit 1
}
cmake --build build/quickstart --target normd normctl

say "3/5 Installing the Python package into build/quickstart/venv"
client/python/make_venv.sh build/quickstart/venv

say "4/5 Training on a server of our own"
scratch=$(mktemp -d)
server=
cleanup() {
  [[ -z $server ]] || { kill "$server" && wait "$server"; } 2>/dev/null || true
  rm -rf "$scratch"
}
trap cleanup EXIT
build/quickstart/server/app/normd --listen 127.0.0.1:0 --store "sqlite:$scratch/normd.db" --log-level warn >"$scratch/address" &
server=$!
until address=$(sed -n 's/^normd listening on //p' "$scratch/address") && [[ -n $address ]]; do
  kill -0 "$server" 2>/dev/null || { echo "normd did not start" >&2; exit 1; }
  sleep 0.05
done
echo "normd listens on $address"
build/quickstart/venv/bin/python client/python/examples/digits.py --server "$address" --sample-out "$scratch/x.npy" "$@"

say "5/5 The same layers, asked with normctl"
normctl=(build/quickstart/client/cli/normctl --server "$address")
set -x
"${normctl[@]}" layer list
"${normctl[@]}" describe digits.bn1
"${normctl[@]}" infer digits.bn1 "$scratch/x.npy" "$scratch/y.npy"
{ set +x; } 2>/dev/null

kill "$server"
wait "$server"
server=
say "Done; normd has stopped. Next: README.md"
