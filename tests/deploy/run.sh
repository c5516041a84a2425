#!/usr/bin/env bash
# The image, the compose file and the Kubernetes manifests, in engines of Debian's: builds the image, runs it as the
# documentation says, kills and stops it, runs the compose file, checks the manifests and runs them with podman. Needs root;
# the Docker daemon is its own, with its data in a temporary folder. It leaves nothing but the empty chains that podman makes
# in the firewall.
#
#   tests/deploy/run.sh [BUILD]      BUILD: a build folder whose compilations the image build may use again
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
build=${1:-build/release}
work=$(mktemp -d /tmp/normd-deploy.XXXXXX)
bridge=normd$$
mkdir -p build/deploy

started=$SECONDS
say() { printf '  [%3ds] %s\n' "$((SECONDS - started))" "$*"; }
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

stop() {
  local status=$?
  set +e
  if ((status != 0)); then
    for log in "$work"/*.log; do
      echo "--- ${log##*/}" >&2
      tail -n 40 "$log" >&2
    done
  fi
  if [[ -s $work/dockerd.pid ]]; then
    docker ps -aq | xargs -r docker rm -fv >/dev/null 2>&1
    docker network ls -q --filter type=custom | xargs -r docker network rm >/dev/null 2>&1
    kill "$(cat "$work/dockerd.pid")" 2>/dev/null
    for ((i = 0; i < 100; ++i)); do [[ -e $work/dockerd.pid ]] && sleep 0.1; done
  fi
  [[ -s $work/redis.pid ]] && kill "$(cat "$work/redis.pid")" 2>/dev/null
  ip link delete "$bridge" 2>/dev/null
  if [[ -f $work/played ]]; then
    podman "${podman[@]}" play kube --down "$work/single.yaml" >/dev/null 2>&1
    podman "${podman[@]}" network rm -f podman-default-kube-network >/dev/null 2>&1
  fi
  umount "$work"/podman/*/overlay "$work"/exec/netns/* 2>/dev/null
  rm -rf "$work"
  exit "$status"
}
podman=(--root "$work/podman/root" --runroot "$work/podman/run" --network-config-dir "$work/podman/networks"
        --volumepath "$work/podman/volumes" --runtime runc)
trap stop EXIT
trap 'exit 130' INT TERM

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || fail "waited in vain for $what"
    sleep 0.1
  done
}

say "base image"
mmdebstrap --quiet --variant=minbase --include=ca-certificates \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/bookworm.tar" 2>"$work/mmdebstrap.log"

say "Docker engine"
# Containers are reached by their ports on the loopback address, for which Docker has a proxy; no rules are needed.
ip link add name "$bridge" type bridge
ip addr add 172.31.77.1/24 dev "$bridge"
ip link set "$bridge" up
export DOCKER_HOST=unix://$work/docker.sock
setsid dockerd -H "$DOCKER_HOST" -p "$work/dockerd.pid" --data-root "$work/docker" --exec-root "$work/exec" \
  --iptables=false --ip6tables=false --bridge "$bridge" >"$work/dockerd.log" 2>&1 &
wait_for 30 "the Docker engine" docker version
docker import --change 'CMD ["bash"]' "$work/bookworm.tar" debian:bookworm-slim >/dev/null

say "image: what $build compiled, for the compiler in the image build"
port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
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
((size <= 40 << 20)) || fail "the image has $size bytes, want 40 MiB at most"
[[ $(inspect '{{.Config.User}}') == 65532:65532 ]] || fail "it does not run as 65532"
[[ $(inspect '{{index .Config.Labels "org.opencontainers.image.version"}}') =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] ||
  fail "no version in the labels"
[[ $(inspect '{{index .Config.Labels "org.opencontainers.image.revision"}}') == "$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)"* ]] ||
  fail "another revision in the labels"
docker run --rm --entrypoint /bin/sh normd:local -c true >/dev/null 2>&1 && fail "it has a shell"
docker run --rm --entrypoint /usr/local/bin/normctl normd:local --version >/dev/null
docker run --rm normd:local --check-config >/dev/null
say "image: $size bytes"

say "docker run, as README.md says"
line=$(sed -n '/^docker run .*normd:local/p' README.md)
[[ $line ]] || fail "README.md has no line that starts with docker run"
bash -c "$line" >/dev/null
from=$(date +%s%N)
healthy() { [[ $(docker inspect --format '{{.State.Health.Status}}' normd) == healthy ]]; }
wait_for 30 "a healthy container" healthy
say "healthy after $((($(date +%s%N) - from) / 1000000)) ms (the first check comes after 5 s)"
normctl=$root/$build/client/cli/normctl
in_container() { docker exec normd /usr/local/bin/normctl --server unix:/run/normd/normd.sock "$@"; }
"$normctl" layer create bn --num-channels 2 >/dev/null
/usr/bin/python3 - "$work/x.npy" <<'PYTHON'
import sys
import numpy
numpy.save(sys.argv[1], numpy.arange(8, dtype=numpy.float32).reshape(4, 2))
PYTHON
# The step from the host, the answers from within.
"$normctl" train bn "$work/x.npy" "$work/y.npy" >/dev/null
steps() { "$normctl" layer get bn --output json | /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)["state"]["num_batches_tracked"])'; }
in_container describe bn >"$work/describe.log"
[[ $(steps) == 1 ]] || fail "one step was sent, $(steps) are counted"
docker exec normd /usr/local/bin/normctl --server unix:/run/normd/normd.sock backup /usr/x.db >/dev/null 2>&1 &&
  fail "the root file system can be written to"

say "kill -9, and stop"
docker kill --signal KILL normd >/dev/null
docker start normd >/dev/null
wait_for 30 "the server after a kill" in_container health
[[ $(steps) == 1 ]] || fail "after a kill $(steps) steps are there, want 1"
from=$(date +%s%N)
docker stop --time 20 normd >/dev/null
[[ $(docker inspect --format '{{.State.ExitCode}}' normd) == 0 ]] || fail "SIGTERM did not end it with 0"
say "stopped after $((($(date +%s%N) - from) / 1000000)) ms"
docker rm -v normd >/dev/null
bash -c "$line" >/dev/null
wait_for 30 "a new container" in_container health
[[ $(steps) == 1 ]] || fail "a new container on the same volume has $(steps) steps, want 1"
docker rm -f normd >/dev/null

say "docker run with TLS and tokens"
mkdir "$work/normd"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -keyout "$work/normd/tls.key" -out "$work/normd/tls.crt" 2>"$work/openssl.log"
"$normctl" token tester 'admin:*' >"$work/token" 2>"$work/normd/access"
chown -R 65532 "$work/normd"
docker run -d --name normd -p 127.0.0.1:50051:50051 -v "$work/normd:/etc/normd-tls:ro" --read-only --cap-drop ALL \
  --tmpfs /var/lib/normd:uid=65532 normd:local --insecure=false --tls-cert /etc/normd-tls/tls.crt \
  --tls-key /etc/normd-tls/tls.key --access-file /etc/normd-tls/access >/dev/null
wait_for 30 "a healthy container with TLS" healthy
secure=(--server localhost:50051 --tls-ca "$work/normd/tls.crt")
"$normctl" "${secure[@]}" --token-file "$work/token" layer create bn --num-channels 2 >/dev/null
"$normctl" "${secure[@]}" layer list >"$work/refused.log" 2>&1 && fail "it answered without a token"
grep -q UNAUTHENTICATED "$work/refused.log" || fail "without a token it said: $(cat "$work/refused.log")"
"$normctl" --server localhost:50051 layer list >/dev/null 2>&1 && fail "it answered without TLS"
docker logs normd 2>&1 | grep -qF "$(cat "$work/token")" && fail "the token is in the log"
docker rm -f normd >/dev/null

say "compose"
compose=(docker-compose -f deploy/docker/compose.yaml -p normd-test)
"${compose[@]}" --profile monitoring config -q
"${compose[@]}" up -d >"$work/compose.log" 2>&1
wait_for 30 "the server of the compose file" "$normctl" health
"$normctl" layer create bn --num-channels 2 >/dev/null
"$normctl" train bn "$work/x.npy" "$work/y.npy" >/dev/null
"${compose[@]}" down >>"$work/compose.log" 2>&1
"${compose[@]}" up -d >>"$work/compose.log" 2>&1
wait_for 30 "the server of the compose file, again" "$normctl" health
[[ $(steps) == 1 ]] || fail "after compose down and up $(steps) steps are there, want 1"
"${compose[@]}" down -v >>"$work/compose.log" 2>&1

say "Kubernetes: manifests"
[[ -d build/deploy/node_modules/kubernetes-models ]] ||
  npm install --silent --no-audit --no-fund --no-save --prefix build/deploy kubernetes-models@5.1.0 yaml@2
if kubectl kustomize deploy/kubernetes/single >"$work/single.yaml" 2>"$work/kustomize.log"; then
  say "built by kustomize"
else
  # Debian's kubectl is too old for folders in kustomizations, so these are joined as they stand.
  for manifest in deploy/kubernetes/base/[!k]*.yaml deploy/kubernetes/single/state.yaml; do
    echo ---
    cat "$manifest"
  done >"$work/single.yaml"
  printf -- '---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: normd\ndata:\n  normd.toml: |\n' >>"$work/single.yaml"
  sed 's/^/    /' deploy/kubernetes/single/normd.toml >>"$work/single.yaml"
  say "kustomize itself is not tested: no kubectl of 1.21 or later"
fi
validate() { (cd build/deploy && node ../../tests/deploy/validate_manifests.mjs); }
validate <"$work/single.yaml"
tests/deploy/apply_patch.py deploy/kubernetes/tls/deployment.yaml <"$work/single.yaml" | validate
sed 's/periodSeconds/periodSecondz/' "$work/single.yaml" | validate >"$work/validate.log" 2>&1 && fail "a misspelt field passed"

say "Kubernetes: run by podman"
printf '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]\n[engine]\nruntime = "runc"\n' \
  >"$work/containers.conf"
export CONTAINERS_CONF=$work/containers.conf
docker save normd:local | podman "${podman[@]}" load -q >"$work/podman.log" 2>&1
touch "$work/played"
play() {
  podman "${podman[@]}" play kube "$@" >>"$work/podman.log" 2>&1
}
# Its port is published on the host's, 50051.
play "$work/single.yaml"
wait_for 30 "the pod" "$normctl" health
"$normctl" layer create bn --num-channels 2 >/dev/null
"$normctl" train bn "$work/x.npy" "$work/y.npy" >/dev/null
play --down "$work/single.yaml"
# podman would make the volume again, which is there.
awk 'BEGIN { RS = ORS = "---\n" } !/kind: PersistentVolumeClaim/' "$work/single.yaml" >"$work/again.yaml"
play "$work/again.yaml"
wait_for 30 "the pod, again" "$normctl" health
[[ $(steps) == 1 ]] || fail "after play kube --down and again $(steps) steps are there, want 1"
play --down "$work/again.yaml"
say "done"
