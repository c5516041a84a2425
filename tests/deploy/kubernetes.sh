#!/usr/bin/env bash
# The Kubernetes manifests: built by kustomize, checked against the API's schemas, and the single server run by podman. What only a
# cluster does (scheduling, rollouts, probes, policies) is not tested. A part of run.sh.
set -euo pipefail
# shellcheck source=tests/deploy/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

say "Kubernetes: manifests"
[[ -d build/deploy/node_modules/kubernetes-models ]] ||
  npm install --silent --no-audit --no-fund --no-save --prefix build/deploy kubernetes-models@5.1.0 yaml@2
# configmap NAME FILE, and joined FILE...: manifests as they stand.
configmap() {
  printf -- '---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\ndata:\n  %s: |\n' "$1" "${2##*/}"
  sed 's/^/    /' "$2"
}
joined() {
  local manifest
  for manifest in "$@"; do
    echo ---
    cat "$manifest"
  done
}
base=(deploy/kubernetes/base/[!k]*.yaml)
if kubectl kustomize deploy/kubernetes/single >"$work/single.yaml" 2>"$work/kustomize.log"; then
  kubectl kustomize deploy/kubernetes/tls >"$work/tls.yaml"
  kubectl kustomize deploy/kubernetes/replicas >"$work/replicas.yaml"
  say "built by kustomize"
else
  # Debian's kubectl is too old for folders in kustomizations, so these are joined as they stand.
  over=deploy/kubernetes/replicas
  { joined "${base[@]}" deploy/kubernetes/single/state.yaml && configmap normd deploy/kubernetes/single/normd.toml; } >"$work/single.yaml"
  tests/deploy/apply_patch.py deploy/kubernetes/tls/deployment.yaml <"$work/single.yaml" >"$work/tls.yaml"
  { joined "${base[@]}" "$over"/{network_policy,proxy,redis,replicas}.yaml &&
    configmap normd "$over/normd.toml" && configmap normd-proxy "$over/haproxy.cfg"; } |
    tests/deploy/apply_patch.py "$over/deployment.yaml" | tests/deploy/apply_patch.py "$over/service.yaml" >"$work/replicas.yaml"
  say "kustomize itself is not tested: no kubectl of 1.21 or later"
fi
validate() { (cd build/deploy && node ../../tests/deploy/validate_manifests.mjs); }
for overlay in single tls replicas; do
  say "$overlay: $(validate <"$work/$overlay.yaml")"
done
sed 's/periodSeconds/periodSecondz/' "$work/replicas.yaml" | validate >"$work/validate.log" 2>&1 && fail "a misspelt field passed"
cmp deploy/docker/haproxy.cfg deploy/kubernetes/replicas/haproxy.cfg ||
  fail "deploy/kubernetes/replicas/haproxy.cfg is not the copy of deploy/docker/haproxy.cfg that it is meant to be"
# The settings, as normd reads them.
for overlay in single replicas; do
  docker run --rm -v "$root/deploy/kubernetes/$overlay/normd.toml:/etc/normd/normd.toml:ro" normd:local --check-config >/dev/null ||
    fail "normd does not take deploy/kubernetes/$overlay/normd.toml"
done

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
train_once
play --down "$work/single.yaml"
# podman would make the volume again, which is there.
awk 'BEGIN { RS = ORS = "---\n" } !/kind: PersistentVolumeClaim/' "$work/single.yaml" >"$work/again.yaml"
play "$work/again.yaml"
wait_for 30 "the pod, again" "$normctl" health
[[ $(steps bn) == 1 ]] || fail "after play kube --down and again $(steps bn) steps are there, want 1"
play --down "$work/again.yaml"
