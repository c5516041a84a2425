#!/usr/bin/env bash
# Three servers on Redis behind HAProxy, by compose.replicas.yaml: each part of it is killed and started again while clients
# train, and every step that was answered is counted once. HAProxy and Redis are Debian's, under the names of Docker Hub's. Grafana
# is not in Debian: tests/python/test_metrics.py checks its dashboard against the metrics. A part of run.sh.
set -euo pipefail
# shellcheck source=tests/deploy/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
engines haproxy:2.6 redis:7.0

NORMD_STORE_PASSWORD=$(openssl rand -hex 16)
compose=(docker-compose -f deploy/docker/compose.replicas.yaml -p normd-replicas)
"${compose[@]}" config -q >"$work/unset.log" 2>&1 && fail "it starts without a password"
grep -q 'choose a password' "$work/unset.log" || fail "without a password it said: $(cat "$work/unset.log")"
export NORMD_STORE_PASSWORD

say "replicas: three servers, Redis and HAProxy"
"${compose[@]}" --profile monitoring config -q
"${compose[@]}" up -d >"$work/replicas.log" 2>&1
wait_for 30 "the servers behind the proxy" "$normctl" health
replicas=(replica1 replica2 replica3)
container() { docker ps -aqf "label=com.docker.compose.project=normd-replicas" -f "label=com.docker.compose.service=$1"; }
in_replica() { docker exec "$(container "$1")" /usr/local/bin/normctl "${@:2}"; }
# serving COUNT: as many replicas are up as the proxy sees it.
serving() {
  local address
  address=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(container proxy)")
  [[ $(curl -s "http://$address:8405/metrics" |
    grep -cE '^haproxy_server_status\{.*state="UP"\} 1$') == "$1" ]]
}
wait_for 30 "three replicas at the proxy" serving 3

# Each trainer has a layer of its own and counts the answers; the fourth shares that of the first.
layers=(a b c a)
for layer in a b c; do "$normctl" layer create "$layer" --num-channels 2 >/dev/null; done
train_until() {
  local count=0
  while [[ ! -e $work/enough ]]; do
    local id=$1-$RANDOM$RANDOM$RANDOM until=$((SECONDS + 40))
    # The client's four attempts take less than a second, in which a container does not start: then the step is said again.
    until "$normctl" train "$2" "$work/x.npy" "$work/y$1.npy" --request-id "$id" >/dev/null; do
      ((SECONDS < until)) || { touch "$work/failed" && return 1; }
      echo "$id" >>"$work/repeated"
    done
    count=$((count + 1))
    echo "$count" >"$work/count.$1.new" && mv "$work/count.$1.new" "$work/count.$1"
  done
}
# begin and finish: trainers work in between; finish wants every answered step to be counted once.
declare -A counted=([a]=0 [b]=0 [c]=0)
begin() {
  rm -f "$work/enough" "$work/repeated" "$work"/count.*
  trainers=()
  for i in "${!layers[@]}"; do
    echo 0 >"$work/count.$i"
    train_until "$i" "${layers[i]}" 2>>"$work/trainers.log" &
    trainers+=($!)
  done
  progress
}
progressed() {
  local i
  [[ ! -e $work/failed ]] || return 0
  for i in "${!layers[@]}"; do (($(cat "$work/count.$i") >= before[i] + 3)) || return 1; done
}
# progress: every trainer gets three more answers.
progress() {
  local i
  before=()
  for i in "${!layers[@]}"; do before+=("$(cat "$work/count.$i")"); done
  wait_for 40 "three steps of every trainer" progressed
  [[ ! -e $work/failed ]] || fail "a step failed: $(tail -n 1 "$work/trainers.log")"
}
finish() {
  local i layer total=0
  touch "$work/enough"
  wait "${trainers[@]}" || fail "a step failed: $(tail -n 1 "$work/trainers.log")"
  for i in "${!layers[@]}"; do counted[${layers[i]}]=$((counted[${layers[i]}] + $(cat "$work/count.$i"))); done
  for layer in a b c; do
    [[ $(steps "$layer") == "${counted[$layer]}" ]] ||
      fail "$(steps "$layer") steps of $layer are counted, ${counted[$layer]} were answered"
    total=$((total + counted[$layer]))
  done
  say "$1: $total steps answered so far, each counted once"
}

begin
say "replicas: docker kill of one, and of the proxy"
docker kill "$(container replica2)" >/dev/null
progress
docker kill "$(container proxy)" >/dev/null
docker start "$(container proxy)" >/dev/null
progress
docker start "$(container replica2)" >/dev/null
wait_for 30 "the replica that was killed" in_replica replica2 health
wait_for 30 "three replicas at the proxy" serving 3
progress
finish "after the kills"

: >"$work/trainers.log"
begin
say "replicas: a rolling restart"
for replica in "${replicas[@]}"; do
  docker stop --time 20 "$(container "$replica")" >/dev/null
  [[ $(docker inspect --format '{{.State.ExitCode}}' "$(container "$replica")") == 0 ]] || fail "$replica did not end with 0"
  progress
  docker start "$(container "$replica")" >/dev/null
  wait_for 30 "$replica" in_replica "$replica" health
  wait_for 30 "three replicas at the proxy" serving 3
  progress
done
[[ ! -e $work/repeated ]] || fail "a call failed during the rolling restart: $(cat "$work/trainers.log")"
finish "after the rolling restart"

for replica in "${replicas[@]}"; do
  in_replica "$replica" layer get a --output json >"$work/$replica.json"
  [[ $(json 'it["state"]["num_batches_tracked"]' <"$work/$replica.json") == "${counted[a]}" ]] || fail "$replica has another count"
done
docker logs "$(container redis)" 2>&1 | grep -qF "$NORMD_STORE_PASSWORD" && fail "the password is in the log of Redis"
docker top "$(container redis)" -eo pid,args >"$work/redis.top"
grep -q redis-server "$work/redis.top" || fail "no redis-server is in $(cat "$work/redis.top")"
grep -qF "$NORMD_STORE_PASSWORD" "$work/redis.top" && fail "the password is in the list of processes"

say "replicas: down and up"
"${compose[@]}" down >>"$work/replicas.log" 2>&1
"${compose[@]}" up -d >>"$work/replicas.log" 2>&1
wait_for 30 "the servers, again" "$normctl" health
for layer in a b c; do
  [[ $(steps "$layer") == "${counted[$layer]}" ]] || fail "after down and up $layer has $(steps "$layer") steps, want ${counted[$layer]}"
done
"${compose[@]}" down -v >>"$work/replicas.log" 2>&1
