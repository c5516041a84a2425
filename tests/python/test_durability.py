"""State that survives the server: kills at any moment, restarts, retries across both."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import normd
from conftest import normd_binary

# The long variant: NORMD_KILLS=200 python3 -m pytest tests/python/test_durability.py
KILLS = int(os.environ.get("NORMD_KILLS", "20"))
ACTORS = 6
LAYERS = 2


class Normd:
    """A server on a Unix socket that can be killed and started again on the same state."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.target = f"unix:{folder / 'normd.sock'}"
        self._command = [str(normd_binary()), "--listen", "", "--unix-socket", str(folder / "normd.sock"), *flags]
        self._log = folder / "log"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("normd listening on"), self._log.read_text()[-4000:]

    def end(self, how: signal.Signals) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.send_signal(how)
        assert self._process.wait(timeout=60) == (0 if how is signal.SIGTERM else -how)
        self._process.stdout.close()
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)


@pytest.fixture(params=["process", "power", "periodic"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Normd]:
    server = Normd(tmp_path, "--store", f"sqlite:{tmp_path / 'state' / 'normd.db'}", "--durability", request.param)
    server.start()
    yield server
    server.close()


def test_everything_is_there_after_a_kill(durable: Normd) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    with normd.Client(durable.target, timeout=60) as client:
        client.create_layer("net.bn1", 3, preset="pytorch")
        client.create_layer("net.gone", 3)
        client.delete_layer("net.gone")
        step = client.train_step("net.bn1", x, request_id="step 1")
        before = client.get_layer("net.bn1")
        durable.end(signal.SIGKILL)
        durable.start()
        after = client.get_layer("net.bn1")
        assert (after.version, after.content_hash, after.uid) == (before.version, before.content_hash, before.uid)
        assert after.content_hash == step.content_hash
        np.testing.assert_array_equal(after.state.running_mean, 0.1 * x.mean(axis=0, dtype=np.float64))
        assert [layer.name for layer in client.list_layers()] == ["net.bn1"]
        # A retry from before the kill, and the same id with another content.
        assert client.train_step("net.bn1", x, request_id="step 1").replayed
        with pytest.raises(normd.InvalidArgumentError, match="was used before"):
            client.train_step("net.bn1", x + 1, request_id="step 1")
        assert client.get_layer("net.bn1").version == before.version


def test_kills_lose_nothing_and_repeat_nothing(durable: Normd, request: pytest.FixtureRequest) -> None:
    """Actors train with retries while the server is killed again and again; a pooled layer counts every value."""
    kills = KILLS if "process" in request.node.name else max(3, KILLS // 5)
    rng = random.Random(20251125)
    retry = normd.RetryPolicy(max_attempts=100_000, initial_backoff=0.005, max_backoff=0.02)
    stop = threading.Event()
    acknowledged = [[0] * LAYERS for _ in range(ACTORS)]
    sums = [[0.0] * LAYERS for _ in range(ACTORS)]
    hashes: dict[tuple[str, int], str] = {}
    failures: list[BaseException] = []

    def act(actor: int) -> None:
        try:
            with normd.Client(durable.target, timeout=120, retry=retry) as client:
                step = 0
                while not stop.is_set():
                    layer = step % LAYERS
                    value = float(actor * 1000 + step % 7)
                    result = client.train_step(f"shared{layer}", np.array([[value]]))
                    acknowledged[actor][layer] += 1
                    sums[actor][layer] += value
                    # One version never has two contents, whoever hears of it and whenever.
                    known = hashes.setdefault((f"shared{layer}", result.version), result.content_hash)
                    assert known == result.content_hash
                    step += 1
        except BaseException as error:
            failures.append(error)

    with normd.Client(durable.target, timeout=60) as client:
        for layer in range(LAYERS):
            client.create_layer(f"shared{layer}", 1, preset="standard_scaler")
    actors = [threading.Thread(target=act, args=(actor,)) for actor in range(ACTORS)]
    for thread in actors:
        thread.start()
    for _ in range(kills):
        # No synchronisation: any moment will do.
        time.sleep(rng.uniform(0.02, 0.15))
        durable.end(signal.SIGKILL)
        durable.start()
    stop.set()
    for thread in actors:
        thread.join()
    assert not failures, failures[0]

    with normd.Client(durable.target, timeout=60) as client:
        for layer in range(LAYERS):
            state = client.get_layer(f"shared{layer}").state
            want = sum(per_actor[layer] for per_actor in acknowledged)
            assert want > 0
            assert state.sample_count[0] == want
            assert state.num_batches_tracked == want
            total = sum(per_actor[layer] for per_actor in sums)
            np.testing.assert_allclose(state.running_mean[0], total / want, rtol=1e-12)


def test_a_clean_stop_leaves_no_log_behind(tmp_path: Path) -> None:
    path = tmp_path / "normd.db"
    server = Normd(tmp_path, "--store", f"sqlite:{path}")
    server.start()
    with normd.Client(server.target, timeout=60) as client:
        client.create_layer("a", 1)
    server.end(signal.SIGTERM)
    assert path.exists() and not path.with_name("normd.db-wal").exists()


def test_a_second_server_and_a_bad_file_are_refused(durable: Normd, tmp_path: Path) -> None:
    def refused(store: str) -> str:
        command = [str(normd_binary()), "--listen", "127.0.0.1:0", "--store", store]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and done.stdout == ""
        return done.stderr

    assert "another process uses it" in refused(f"sqlite:{tmp_path / 'state' / 'normd.db'}")
    bad = tmp_path / "bad.db"
    bad.write_bytes(b"x" * 5000)
    assert "file is not a database" in refused(f"sqlite:{bad}")
    assert bad.read_bytes() == b"x" * 5000
