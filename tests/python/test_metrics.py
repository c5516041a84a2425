"""Prometheus's view of a running server: what it scrapes, and that alerts, dashboard and documentation speak of it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.request
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import normd
from conftest import REPOSITORY, normd_binary, running

# Of the library that answers the scrapes, about themselves.
FOREIGN = "exposer_"
Samples = dict[str, float]


class Watched:
    """A server with metrics: a client of it, and what it says."""

    def __init__(self, client: normd.Client, url: str, log: Path) -> None:
        self.client = client
        self.url = url
        self.log = log

    def text(self) -> str:
        with urllib.request.urlopen(self.url, timeout=10) as response:
            return str(response.read().decode())

    def scrape(self) -> Samples:
        """Every sample, by its name with its labels in order."""
        samples = {}
        for line in self.text().splitlines():
            if line and not line.startswith("#"):
                series, _, value = line.rpartition(" ")
                name, _, labels = series.partition("{")
                samples[name + "{" + ",".join(sorted(filter(None, labels.rstrip("}").split(","))))] = float(value)
        return samples


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with running(tmp_path, "--metrics-listen", "127.0.0.1:0", "--log-level", "debug", "--metrics-max-layers", "2",
                 "--store", f"sqlite:{tmp_path / 'normd.db'}") as server, normd.Client(server.tcp) as client:
        url = re.search(r"message=metrics url=(\S+)", (tmp_path / "log").read_text())
        assert url is not None
        yield Watched(client, url.group(1), tmp_path / "log")


def total(samples: Samples, name: str, *labels: str) -> float:
    return sum(value for series, value in samples.items()
               if series.startswith(name + "{") and all(label in series for label in labels))


def train(client: normd.Client, layer: str, steps: int, mean: float = 0.0) -> None:
    batch = np.random.default_rng(1).normal(mean, 1, (64, 4)).astype(np.float32)
    for _ in range(steps):
        client.train_step(layer, batch)


def test_counts_are_those_of_the_calls(watched: Watched) -> None:
    client = watched.client
    for name in ("a", "b", "c"):
        client.create_layer(name, 4, preset="pytorch")
    created = watched.scrape()
    threads = [threading.Thread(target=train, args=(client, "a", 25)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    train(client, "b", 3)
    for _ in range(2):
        client.train_step("b", np.ones((4, 4), np.float32) * [[0.0], [1], [2], [3]], request_id="twice")
    for _ in range(5):
        with pytest.raises(normd.InvalidArgumentError):
            client.train_step("a", np.full((4, 4), np.nan, np.float32))
    for _ in range(7):
        with pytest.raises(normd.NotFoundError):
            client.infer("nobody", np.zeros((1, 4), np.float32))

    samples = watched.scrape()
    assert total(samples, "normd_calls_total", 'method="TrainStep"', 'code="OK"') == 105
    assert total(samples, "normd_calls_total", 'method="TrainStep"', 'code="INVALID_ARGUMENT"') == 5
    assert total(samples, "normd_calls_total", 'method="Infer"', 'code="NOT_FOUND"') == 7
    assert total(samples, "normd_calls_total", 'method="CreateLayer"') == 3
    assert total(samples, "normd_call_duration_seconds_count", 'method="TrainStep"') == 110
    assert total(samples, "normd_request_bytes_total", 'method="TrainStep"') > 103 * 64 * 4 * 4
    assert total(samples, "normd_response_bytes_total", 'method="TrainStep"') > 103 * 64 * 4 * 4
    assert total(samples, "normd_calls_in_flight") == 0
    assert total(samples, "normd_folds_total") == 104
    assert total(samples, "normd_replays_total") == 1
    assert total(samples, "normd_rejected_batches_total") == 5
    assert total(samples, "normd_layer_rejected_batches_total", 'layer="a"') == 5
    assert total(samples, "normd_layer_folds_total", 'layer="a"') == 100
    assert total(samples, "normd_layer_batches_tracked", 'layer="b"') == 4
    assert total(samples, "normd_layer_version", 'layer="b"') == client.get_layer("b").version
    # The two busiest layers only.
    assert total(samples, "normd_layers") == 3
    assert total(samples, "normd_layers_without_metrics") == 1
    assert not [series for series in samples if 'layer="c"' in series]
    def grown(name: str) -> float:
        return total(samples, name) - total(created, name)

    assert grown("normd_store_updates_total") == 104
    assert 0 < grown("normd_store_transactions_total") <= 104
    assert grown("normd_store_commit_duration_seconds_count") == grown("normd_store_transactions_total")
    assert total(samples, "process_resident_memory_bytes") > 1e6
    assert total(samples, "process_open_fds") > 5


def test_histograms_are_cumulative_and_end_at_infinity(watched: Watched) -> None:
    watched.client.create_layer("a", 4)
    train(watched.client, "a", 20)
    samples = watched.scrape()
    buckets = [(float(match.group(1)), value) for series, value in samples.items()
               if series.startswith("normd_call_duration_seconds_bucket") and 'method="TrainStep"' in series
               and (match := re.search(r'le="([^"]+)"', series))]
    counts = [count for _, count in sorted(buckets)]
    assert counts == sorted(counts)
    bounds = sorted(bound for bound, _ in buckets)
    assert (bounds[0], bounds[-2], bounds[-1]) == (50e-6, 30, float("inf"))
    assert counts[-1] == total(samples, "normd_call_duration_seconds_count", 'method="TrainStep"') == 20
    spent = total(samples, "normd_call_duration_seconds_sum", 'method="TrainStep"')
    assert 0 < spent < 20 * max(bound for bound, count in sorted(buckets)[:-1] if count < 20 or bound == 30)


def test_drift_is_that_of_the_latest_batch(watched: Watched) -> None:
    client = watched.client
    client.create_layer("a", 4, preset="pytorch")
    train(client, "a", 1)
    assert total(watched.scrape(), "normd_layer_mean_drift") == 0  # Not there: nothing to compare with.
    before = client.get_layer("a", with_state=True)
    assert before.state is not None
    batch = np.random.default_rng(2).normal([5, 0, 0, 0], [1, 3, 1, 1], (64, 4)).astype(np.float32)
    client.train_step("a", batch)
    eps = before.config.eps
    mean, var = np.asarray(before.state.running_mean), np.asarray(before.state.running_var)
    exact = batch.astype(np.float64)
    samples = watched.scrape()
    assert total(samples, "normd_layer_mean_drift", 'layer="a"') == pytest.approx(
        np.max(np.abs(exact.mean(0) - mean) / np.sqrt(var + eps)), rel=1e-9)
    assert total(samples, "normd_layer_variance_drift", 'layer="a"') == pytest.approx(
        np.max(np.abs(np.log((exact.var(0) + eps) / (var + eps)))), rel=1e-9)


def test_a_taken_port_and_a_bad_one_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = subprocess.run([normd_binary(), "--store", "memory", "--listen", "127.0.0.1:0", "--metrics-listen",
                                 address], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "metrics-listen: " in result.stderr and address in result.stderr and "in use" in result.stderr
    result = subprocess.run([normd_binary(), "--metrics-listen", "9464"], capture_output=True, text=True, timeout=30,
                            check=False)
    assert result.returncode == 1
    assert "--metrics-listen" in result.stderr


def families(text: str) -> set[str]:
    return {name for name in re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE) if not name.startswith(FOREIGN)}


def mentioned(text: str, known: set[str]) -> set[str]:
    """The metrics that a text names, as their families."""
    names = set(re.findall(r"\b(?:normd|process)_[a-z][a-z0-9_]*", text))
    stems = {name: re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    return {stem if name not in known and stem in known else name for name, stem in stems.items()}


def test_documents_name_what_there_is(watched: Watched) -> None:
    """Each metric of a scrape is documented and has a panel; alerts, panels and documentation name no other."""
    watched.client.create_layer("a", 4)
    train(watched.client, "a", 3)
    known = families(watched.text())
    assert len(known) > 30
    section = re.search(r"^## Metrics\n(.*?)^## ", (REPOSITORY / "docs/operations.md").read_text(),
                        re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = set(re.findall(r"^\| `([a-z_]+)`", section.group(1), re.MULTILINE))
    assert rows == known
    dashboard = json.loads((REPOSITORY / "deploy/grafana/normd.json").read_text())
    shown = {name for panel in dashboard["panels"] for target in panel["targets"]
             for name in mentioned(target["expr"], known)}
    assert shown == known
    alerts = (REPOSITORY / "deploy/prometheus/alerts.yaml").read_text()
    expressions = "\n".join(line for line in alerts.splitlines() if "summary:" not in line and "description:" not in line)
    assert mentioned(alerts, known) <= known
    assert len(mentioned(expressions, known)) >= 10


def test_promtool_likes_metrics_and_alerts(watched: Watched) -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None, "install Debian's package prometheus"
    watched.client.create_layer("a", 4)
    train(watched.client, "a", 3)
    ours = "\n".join(line for line in watched.text().splitlines() if FOREIGN not in line) + "\n"
    for command, text in ((["check", "metrics"], ours),
                          (["check", "config", "deploy/prometheus/prometheus.yaml"], ""),
                          (["check", "rules", "deploy/prometheus/alerts.yaml"], ""),
                          (["test", "rules", "tests/deploy/alerts_test.yaml"], "")):
        result = subprocess.run([promtool, *command], input=text, capture_output=True, text=True, cwd=REPOSITORY,
                                timeout=60, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def test_log_lines_of_a_call_name_its_trace(watched: Watched) -> None:
    client = watched.client
    client.create_layer("a", 4)
    batch = np.random.default_rng(1).normal(0, 1, (8, 4)).astype(np.float32)
    with normd.trace_context(f"00-{TRACE}-{SPAN}-01"):
        client.train_step("a", batch, request_id="step-1")
        with client.steps() as steps:
            steps.infer("a", batch).result()
    with normd.trace_context(f"00-{TRACE}-{'0' * 16}-01"):
        client.denormalize("a", batch)
    with normd.trace_context("nonsense\n"):
        client.infer("a", batch)
    lines = {match.group(1): line for line in watched.log.read_text().splitlines()
             if (match := re.search(r"message=call method=(\S+)", line))}
    assert f"request_id=step-1 trace_id={TRACE} span_id={SPAN}" in lines["TrainStep"]
    assert f"trace_id={TRACE} span_id={SPAN}" in lines["Steps.Infer"]
    for method in ("CreateLayer", "Denormalize", "Infer"):
        assert "trace_id" not in lines[method] and "span_id" not in lines[method]
    assert "request_id=" not in lines["Infer"]
