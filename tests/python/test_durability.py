"""State that survives the server: kills at any moment, restarts, retries across both."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import normd
from conftest import normd_binary, redis, running

# The long variant: NORMD_KILLS=200 python3 -m pytest tests/python/test_durability.py
KILLS = int(os.environ.get("NORMD_KILLS", "20"))
ACTORS = 6
LAYERS = 2


@pytest.fixture(params=["process", "power", "periodic", "redis"])
def flags(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """Of servers that use the same state, one after the other."""
    if request.param == "redis":
        with redis(tmp_path) as location:
            yield ["--store", location]
        return
    yield ["--store", f"sqlite:{tmp_path / 'state' / 'normd.db'}", "--durability", request.param]


def test_everything_is_there_after_a_kill(flags: list[str], tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    # The client goes through the kill, too.
    with normd.Client(f"unix:{tmp_path / 'normd.sock'}", timeout=60) as client:
        with running(tmp_path, *flags, end=signal.SIGKILL):
            client.create_layer("net.bn1", 3, preset="pytorch")
            client.create_layer("net.gone", 3)
            client.delete_layer("net.gone")
            step = client.train_step("net.bn1", x, request_id="step 1")
            before = client.get_layer("net.bn1")
        with running(tmp_path, *flags, end=signal.SIGKILL):
            after = client.get_layer("net.bn1")
            assert (after.version, after.content_hash, after.uid) == (before.version, before.content_hash, before.uid)
            assert after.content_hash == step.content_hash
            assert after.state is not None
            np.testing.assert_array_equal(after.state.running_mean, 0.1 * x.mean(axis=0, dtype=np.float64))
            assert [layer.name for layer in client.list_layers()] == ["net.bn1"]
            # A retry from before the kill, and the same id with another content.
            assert client.train_step("net.bn1", x, request_id="step 1").replayed
            with pytest.raises(normd.InvalidArgumentError, match="was used before"):
                client.train_step("net.bn1", x + 1, request_id="step 1")
            assert client.get_layer("net.bn1").version == before.version


class Actors:
    """Threads that train on shared layers and repeat each step, by its request_id, until it is acknowledged."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._hashes: dict[tuple[str, int], str] = {}
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(actor,)) for actor in range(ACTORS)]
        # Of the acknowledged steps, by layer.
        self.values: list[list[float]] = [[] for _ in range(LAYERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Waits until every step that was begun is acknowledged."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._check()

    def total(self) -> int:
        return sum(map(len, self.values))

    def await_steps(self, count: int) -> None:
        """Waits until so many more are acknowledged."""
        with self._changed:
            want = self.total() + count
            assert self._changed.wait_for(lambda: self._failures or self.total() >= want, timeout=60)
        self._check()

    def _check(self) -> None:
        if self._failures:
            raise self._failures[0]

    def _run(self, actor: int) -> None:
        try:
            step = 0
            with normd.Client(self._target, timeout=60, retry=normd.RetryPolicy(max_attempts=1)) as client:
                while not self._stop.is_set():
                    name, value = f"shared{step % LAYERS}", float(actor * 1000 + step % 7)
                    result = self._train(client, name, value, f"actor {actor} step {step}")
                    with self._changed:
                        self.values[step % LAYERS].append(value)
                        # One version never has two contents, whoever hears of it and whenever.
                        known = self._hashes.setdefault((name, result.version), result.content_hash)
                        assert known == result.content_hash
                        self._changed.notify_all()
                    step += 1
        except BaseException as error:
            with self._changed:
                self._failures.append(error)
                self._changed.notify_all()

    def _train(self, client: normd.Client, name: str, value: float, request_id: str) -> normd.TrainStepResult:
        while True:
            try:
                return client.train_step(name, np.array([[value]]), request_id=request_id)
            except normd.UnavailableError:
                # There is none, or it is on its way.
                time.sleep(0.001)


def test_kills_lose_nothing_and_repeat_nothing(flags: list[str], tmp_path: Path) -> None:
    """The server is killed again and again in the middle of training; a pooled layer counts every value."""
    kills = KILLS if "process" in flags else max(3, KILLS // 5)
    rng = random.Random(20251125)
    actors = Actors(f"unix:{tmp_path / 'normd.sock'}")
    for kill in range(kills):
        with running(tmp_path, *flags, end=signal.SIGKILL) as server:
            if kill == 0:
                with normd.Client(server.unix, timeout=60) as client:
                    for layer in range(LAYERS):
                        client.create_layer(f"shared{layer}", 1, preset="standard_scaler")
                actors.start()
            # Some go on until the journal of steps has been taken into the database.
            actors.await_steps(rng.randint(1, rng.choice((100, 700))))
            # Into the middle of a step: any moment will do.
            time.sleep(rng.uniform(0, 0.005))
    with running(tmp_path, *flags, end=signal.SIGKILL) as server, normd.Client(server.unix, timeout=60) as client:
        actors.finish()
        for layer in range(LAYERS):
            state = client.get_layer(f"shared{layer}").state
            values = actors.values[layer]
            assert state is not None and values
            assert state.sample_count[0] == len(values)
            assert state.num_batches_tracked == len(values)
            np.testing.assert_allclose(state.running_mean[0], sum(values) / len(values), rtol=1e-12)
        print(f"{kills} kills, {actors.total()} steps")


def test_a_clean_stop_leaves_no_log_behind(tmp_path: Path) -> None:
    path = tmp_path / "normd.db"
    with running(tmp_path, "--store", f"sqlite:{path}") as server, normd.Client(server.unix, timeout=60) as client:
        client.create_layer("a", 1)
        for _ in range(3):
            client.train_step("a", np.array([[1.0], [2.0]]))
    assert [file.name for file in tmp_path.glob("normd.db*")] == [path.name]


def test_a_second_server_and_a_bad_file_are_refused(flags: list[str], tmp_path: Path) -> None:
    def refused(store: str) -> str:
        command = [str(normd_binary()), "--listen", "127.0.0.1:0", "--store", store]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and done.stdout == ""
        return done.stderr

    if not flags[1].startswith("redis"):
        with running(tmp_path, *flags):
            assert "another process uses it" in refused(flags[1])
    bad = tmp_path / "bad.db"
    bad.write_bytes(b"x" * 5000)
    assert "file is not a database" in refused(f"sqlite:{bad}")
    assert bad.read_bytes() == b"x" * 5000
