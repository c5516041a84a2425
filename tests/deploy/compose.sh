#!/usr/bin/env bash
# One server by compose.yaml, with Prometheus: it keeps its state, is scraped, and our alerts are loaded. Grafana, which is not
# in Debian, does not start: tests/python/test_metrics.py checks its dashboard against the metrics. A part of run.sh.
set -euo pipefail
# shellcheck source=tests/deploy/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
engines prom/prometheus:v2.53.4

say "compose: one server and Prometheus"
PROMETHEUS_PORT=$(free_port)
export PROMETHEUS_PORT
compose=(docker-compose -f deploy/docker/compose.yaml -p normd-test)
"${compose[@]}" --profile monitoring config -q
"${compose[@]}" --profile monitoring up -d normd prometheus >"$work/compose.log" 2>&1
wait_for 30 "the server of the compose file" "$normctl" health
train_once

prometheus() { curl -sfG "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/$1" "${@:2}"; }
# The first scrape comes within scrape_interval, 15 s.
counted() {
  [[ $(prometheus query --data-urlencode 'query=sum(normd_calls_total{job="normd",method="TrainStep",code="OK"})' |
    json 'it["data"]["result"][0]["value"][1]') == 1 ]]
}
wait_for 40 "the training step in Prometheus" counted
[[ $(prometheus targets | json '[(t["labels"]["instance"], t["health"]) for t in it["data"]["activeTargets"]]') == "[('normd:9464', 'up')]" ]] ||
  fail "Prometheus sees other targets: $(prometheus targets)"
rules=$(prometheus rules | json 'sorted(r["name"] for g in it["data"]["groups"] for r in g["rules"] if r["health"] != "err")')
wanted=$(/usr/bin/python3 -c 'import re, sys; print(sorted(re.findall(r"- alert: (\w+)", sys.stdin.read())))' <deploy/prometheus/alerts.yaml)
[[ $rules == "$wanted" ]] || fail "Prometheus has the rules $rules, want $wanted"
say "compose: Prometheus has scraped the step and loaded every rule"

"${compose[@]}" --profile monitoring down >>"$work/compose.log" 2>&1
"${compose[@]}" up -d >>"$work/compose.log" 2>&1
wait_for 30 "the server of the compose file, again" "$normctl" health
[[ $(steps bn) == 1 ]] || fail "after compose down and up $(steps bn) steps are there, want 1"
"${compose[@]}" down -v >>"$work/compose.log" 2>&1
