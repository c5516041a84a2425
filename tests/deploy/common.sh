# What the parts of the deployment test share; run.sh, which starts the engine and runs them in order, exports the variables.
# shellcheck shell=bash
: "${root:?run tests/deploy/run.sh, which runs this}" "${build:?}" "${work:?}" "${started:?}"
normctl=$root/$build/client/cli/normctl
# Podman's storage goes with the temporary folder. (run.sh and kubernetes.sh use it.)
# shellcheck disable=SC2034
podman=(--root "$work/podman/root" --runroot "$work/podman/run" --network-config-dir "$work/podman/networks"
        --volumepath "$work/podman/volumes" --runtime runc)

say() { printf '  [%3ds] %s\n' "$((EPOCHSECONDS - started))" "$*"; }
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || fail "waited in vain for $what"
    sleep 0.1
  done
}

# free_port: a TCP port of the loopback address that nobody uses.
free_port() {
  /usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# json EXPRESSION: what a Python expression makes of the JSON object "it" on standard input.
json() { /usr/bin/python3 -c 'import json, sys; it = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }

# steps LAYER: how many training steps the server at localhost:50051 has counted.
steps() { "$normctl" layer get "$1" --output json | json 'it["state"]["num_batches_tracked"]'; }

# train_once: a layer "bn" of two channels, and one step.
train_once() {
  "$normctl" layer create bn --num-channels 2 >/dev/null
  "$normctl" train bn "$work/x.npy" "$work/y.npy" >/dev/null
}

# engines NAME...: images of Redis, HAProxy and Prometheus under the names that compose files have for those of Docker Hub.
engines() {
  local name
  docker image inspect engines >/dev/null 2>&1 ||
    DOCKER_BUILDKIT=0 docker build --network host -t engines - <tests/deploy/engines.Dockerfile >"$work/engines.log" 2>&1
  for name in "$@"; do
    case $name in
      prom/*) printf 'FROM engines\nENTRYPOINT ["prometheus"]\n' | DOCKER_BUILDKIT=0 docker build -q -t "$name" - >>"$work/engines.log" 2>&1 ;;
      *) docker tag engines "$name" ;;
    esac
  done
}
