"""Three replicas behind HAProxy with the configuration that we deploy (deploy/docker/haproxy.cfg)."""

from __future__ import annotations

import re
import signal
import subprocess
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

import normd
from conftest import REPOSITORY, await_port, free_ports, normd_binary
from trainers import RETRY, Trainers

REPLICAS = 3
CLIENTS = 8
LAYERS = 6
# For the next thing to happen: every client has got through several times.
SOME_STEPS = 10 * CLIENTS


class Program:
    """A program that listens on one port, whenever it runs."""

    def __init__(self, folder: Path, name: str, port: int, *command: str | Path) -> None:
        self._log = folder / f"{name}.log"
        self._command = command
        self.port = port

    def start(self) -> None:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, text=True)
        await_port(self.port, self.process, self._log)

    def end(self, by: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(by)
        assert self.process.wait(timeout=30) == (0 if by is signal.SIGTERM else -by), self._log.read_text()[-4000:]


class Deployment:
    """Everything, and where to reach it. Ends with the stack."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        redis, follower, sentinel, proxy, metrics, *ports = free_ports(5 + 2 * REPLICAS)
        self.master = self._redis("master", redis)
        self._redis("follower", follower, "--replicaof", f"127.0.0.1 {redis}", "--repl-diskless-sync-delay", "0")
        self._until(follower, ("info", "replication"), "master_link_status:up")
        config = folder / "sentinel.conf"
        config.write_text(f"port {sentinel}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {redis} 1\n"
                          "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n")
        self._start("sentinel", sentinel, "redis-server", config, "--sentinel")
        self._until(sentinel, ("sentinel", "master", "main"), "num-slaves\n1")
        store = f"redis+sentinel://127.0.0.1:{sentinel}/main?timeout-ms=500"
        self.replicas = [self._start(f"replica{i}", ports[i], normd_binary(), "--listen", f"127.0.0.1:{ports[i]}",
                                     "--metrics-listen", f"127.0.0.1:{ports[REPLICAS + i]}", "--store", store)
                         for i in range(REPLICAS)]
        self._metrics = ports[REPLICAS:]
        (folder / "haproxy.cfg").write_text(configuration(proxy, metrics, ports[:REPLICAS]))
        self.proxy = self._start("haproxy", proxy, "haproxy", "-db", "-f", folder / "haproxy.cfg")
        self.target = f"127.0.0.1:{proxy}"

    def steps_since_start(self, layer: str) -> list[int]:
        """Of each replica."""
        return [sum(int(float(value)) for value in re.findall(
            rf'^normd_layer_folds_total{{layer="{re.escape(layer)}"}} (\S+)$', self._text(port), re.MULTILINE))
            for port in self._metrics]

    def _text(self, port: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            return str(response.read().decode())

    def _start(self, name: str, port: int, *command: str | Path) -> Program:
        program = Program(self._folder, name, port, *command)
        program.start()
        self._stack.callback(lambda: (program.process.kill(), program.process.wait()))
        return program

    def _redis(self, name: str, port: int, *flags: str) -> Program:
        folder = self._folder / name
        folder.mkdir()
        return self._start(f"redis-{name}", port, "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                           "--dir", folder, *flags)

    def _until(self, port: int, command: tuple[str, ...], text: str) -> None:
        ask = ["redis-cli", "-p", str(port), *command]
        deadline = time.monotonic() + 30
        while text not in subprocess.run(ask, check=True, capture_output=True, text=True).stdout.replace("\r", ""):
            assert time.monotonic() < deadline, f"{ask} never says {text!r}"
            time.sleep(0.02)


def configuration(port: int, metrics: int, replicas: list[int]) -> str:
    """What we deploy, but for addresses."""
    text = (REPOSITORY / "deploy/docker/haproxy.cfg").read_text()
    servers = "\n".join(f"    server replica{i + 1} 127.0.0.1:{replica}" for i, replica in enumerate(replicas))
    for old, new in ((r"bind :50051", f"bind 127.0.0.1:{port}"), (r"bind :8405", f"bind 127.0.0.1:{metrics}"),
                     (r"    server-template replica 3 .*", servers)):
        text, count = re.subn(old, new, text)
        assert count == 1, f"haproxy.cfg has {old!r} {count} times"
    return text


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with ExitStack() as stack:
        yield Deployment(tmp_path_factory.mktemp("deployment"), stack)


@contextmanager
def training(deployment: Deployment, name: str) -> Iterator[Trainers]:
    """At the end every acknowledged step of layers with such names has been counted once, and no other."""
    layers = [f"{name}{i}" for i in range(LAYERS)]
    answered: dict[str, list[float]] = {layer: [] for layer in layers}

    def step(client: normd.Client, number: int) -> None:
        layer, value = layers[number % LAYERS], float(number % 11)
        client.train_step(layer, np.array([[value]]))
        answered[layer].append(value)

    with normd.Client(deployment.target, timeout=60, retry=RETRY) as client:
        for layer in layers:
            client.create_layer(layer, 1, preset="standard_scaler")
        trainers = Trainers(deployment.target, CLIENTS, step)
        try:
            trainers.await_more_steps(SOME_STEPS)
            yield trainers
            trainers.await_more_steps(SOME_STEPS)
        finally:
            trainers.finish()
        for layer, values in answered.items():
            state = client.get_layer(layer).state
            assert state is not None
            assert state.num_batches_tracked == state.sample_count[0] == len(values)
            np.testing.assert_allclose(state.running_mean[0], np.mean(values), rtol=1e-12)
            np.testing.assert_allclose(state.running_var[0], np.var(values), rtol=1e-9)


def test_a_layer_is_trained_by_one_replica_and_layers_are_spread(deployment: Deployment) -> None:
    layers = [f"net.bn{i}" for i in range(30)]
    with ExitStack() as stack:
        clients = [stack.enter_context(normd.Client(deployment.target, timeout=60)) for _ in range(3)]
        for layer in layers:
            clients[0].create_layer(layer, 1)
            for client in clients:
                client.train_step(layer, np.ones((2, 1)))
    homes = []
    for layer in layers:
        steps = deployment.steps_since_start(layer)
        assert sorted(steps) == [0] * (REPLICAS - 1) + [len(clients)], (layer, steps)
        homes.append(steps.index(len(clients)))
    assert set(homes) == set(range(REPLICAS))


def test_large_tensors_pass(deployment: Deployment) -> None:
    x = np.random.default_rng(1).standard_normal((32, 64, 56, 56), dtype=np.float32)
    with normd.Client(deployment.target, timeout=60) as client:
        client.create_layer("large", 64)
        step = client.train_step("large", x)
        assert step.y is not None and step.y.shape == x.shape
        np.testing.assert_allclose(step.y.mean((0, 2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(step.y.std((0, 2, 3)), 1, atol=1e-4)


def test_a_rolling_restart_fails_no_call(deployment: Deployment) -> None:
    with training(deployment, "rolling") as trainers:
        for replica in deployment.replicas:
            replica.end(signal.SIGTERM)
            trainers.await_more_steps(SOME_STEPS)
            replica.start()
            trainers.await_more_steps(SOME_STEPS)


def test_kills_of_replicas_proxy_and_master_lose_nothing_and_repeat_nothing(deployment: Deployment) -> None:
    with training(deployment, "kills") as trainers:
        for replica in deployment.replicas:
            replica.end()
            trainers.await_more_steps(SOME_STEPS)
            replica.start()
            trainers.await_more_steps(SOME_STEPS)
        deployment.proxy.end()
        deployment.proxy.start()
        trainers.await_more_steps(SOME_STEPS)
        deployment.master.end()
        began = time.monotonic()
        trainers.await_more_steps(CLIENTS)
        print(f"steps again {time.monotonic() - began:.1f} s after the master was killed")
