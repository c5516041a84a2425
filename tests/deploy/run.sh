#!/usr/bin/env bash
# The image, the compose files and the Kubernetes manifests, in engines of Debian's. This script starts the engines, makes what
# the parts need, and runs those in order:
#   image.sh        builds the image as the documentation says, measures it, looks into it
#   docker.sh       docker run: persistence, kill -9, SIGTERM, TLS and tokens
#   compose.sh      one server, with a real Prometheus that scrapes it and loads our alerts
#   replicas.sh     three servers on Redis behind HAProxy, of which each is killed and restarted
#   kubernetes.sh   the manifests against the API's schemas, and run by podman
# Needs root; the Docker daemon is its own, with its data in a temporary folder. It leaves nothing but the empty chains that
# podman makes in the firewall.
#
#   tests/deploy/run.sh [BUILD [PART...]]   BUILD: a build folder whose compilations the image build may use again;
#                                           PART: image and these alone, such as "replicas"
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
build=${1:-build/release}
parts=("${@:2}")
((${#parts[@]})) || parts=(docker compose replicas kubernetes)
for part in "${parts[@]}"; do
  [[ $part =~ ^(docker|compose|replicas|kubernetes)$ ]] ||
    { echo "usage: $0 [BUILD [docker|compose|replicas|kubernetes ...]] (got '$part')" >&2 && exit 2; }
done
work=$(mktemp -d /tmp/normd-deploy.XXXXXX)
bridge=normd$$
started=$EPOCHSECONDS
export root build work started
mkdir -p build/deploy
# shellcheck source=tests/deploy/common.sh
. tests/deploy/common.sh

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
    CONTAINERS_CONF=$work/containers.conf podman "${podman[@]}" play kube --down "$work/single.yaml" >/dev/null 2>&1
    podman "${podman[@]}" network rm -f podman-default-kube-network >/dev/null 2>&1
  fi
  umount "$work"/podman/*/overlay "$work"/exec/netns/* 2>/dev/null
  rm -rf "$work"
  exit "$status"
}
trap stop EXIT
trap 'exit 130' INT TERM

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

/usr/bin/python3 - "$work/x.npy" <<'PYTHON'
import sys
import numpy
numpy.save(sys.argv[1], numpy.arange(8, dtype=numpy.float32).reshape(4, 2))
PYTHON
for part in image "${parts[@]}"; do
  bash "tests/deploy/$part.sh"
  say "$part: done"
done
