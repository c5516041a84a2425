#!/usr/bin/env bash
# docker run as README.md says, on the image of image.sh: what it keeps, how it stops, TLS and tokens. A part of run.sh.
set -euo pipefail
# shellcheck source=tests/deploy/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

say "docker run, as README.md says"
line=$(sed -n '/^docker run .*normd:local/p' README.md)
[[ $line ]] || fail "README.md has no line that starts with docker run"
bash -c "$line" >/dev/null
from=$(date +%s%N)
healthy() { [[ $(docker inspect --format '{{.State.Health.Status}}' normd) == healthy ]]; }
wait_for 30 "a healthy container" healthy
say "healthy after $((($(date +%s%N) - from) / 1000000)) ms (the first check comes after 5 s)"
in_container() { docker exec normd /usr/local/bin/normctl --server unix:/run/normd/normd.sock "$@"; }
# The step from the host, the answers from within.
train_once
in_container describe bn >"$work/describe.log"
[[ $(steps bn) == 1 ]] || fail "one step was sent, $(steps bn) are counted"
docker exec normd /usr/local/bin/normctl --server unix:/run/normd/normd.sock backup /usr/x.db >/dev/null 2>&1 &&
  fail "the root file system can be written to"

say "kill -9, and stop"
docker kill --signal KILL normd >/dev/null
docker start normd >/dev/null
wait_for 30 "the server after a kill" in_container health
[[ $(steps bn) == 1 ]] || fail "after a kill $(steps bn) steps are there, want 1"
from=$(date +%s%N)
docker stop --time 20 normd >/dev/null
[[ $(docker inspect --format '{{.State.ExitCode}}' normd) == 0 ]] || fail "SIGTERM did not end it with 0"
say "stopped after $((($(date +%s%N) - from) / 1000000)) ms"
docker rm -v normd >/dev/null
bash -c "$line" >/dev/null
wait_for 30 "a new container" in_container health
[[ $(steps bn) == 1 ]] || fail "a new container on the same volume has $(steps bn) steps, want 1"
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
