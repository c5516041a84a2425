"""What replicas on one Redis reach, with HAProxy before them and without; tests/benchmarks/rpc.sh --replicas runs it."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
import urllib.request
from contextlib import ExitStack, closing
from pathlib import Path
from socket import create_connection, socket

import page
from rpc.processes import BenchmarkError, end

REPOSITORY = Path(__file__).resolve().parents[3]
ROUNDS = 5
MOST_REPLICAS = 3
SHAPE = "256,64"
# One client each, two calls under way.
LAYERS = [f"bench.bn{i}" for i in range(6)]


def free_ports(count: int) -> list[int]:
    sockets = [socket() for _ in range(count)]
    try:
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
    finally:
        for free in sockets:
            free.close()


class Deployment:
    """Redis, replicas and the proxy that we deploy, until `with` is over."""

    def __init__(self, build: Path, logs: Path, folder: Path, replicas: int) -> None:
        self._normctl = build / "client/cli/normctl"
        self._logs, self._stack = logs, ExitStack()
        redis, proxy, metrics, *ports = free_ports(3 + 2 * replicas)
        self._metrics = ports[replicas:]
        self.replicas = [f"127.0.0.1:{port}" for port in ports[:replicas]]
        self.proxy = f"127.0.0.1:{proxy}"
        try:
            self._start("redis", redis, "redis-server", "--bind", "127.0.0.1", "--port", str(redis), "--save", "", "--dir",
                        str(folder))
            for i, address in enumerate(self.replicas):
                self._start(f"replica{i}", ports[i], str(build / "server/app/normd"), "--listen", address, "--metrics-listen",
                            f"127.0.0.1:{self._metrics[i]}", "--store", f"redis://127.0.0.1:{redis}")
            config = folder / "haproxy.cfg"
            config.write_text(self._configuration(proxy, metrics))
            self._start("haproxy", proxy, "haproxy", "-db", "-f", str(config))
            for layer in LAYERS:
                self._run_normctl(self.replicas[0], "layer", "create", layer, "--num-channels", "64")
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def steps_per_second(self, clients: list[tuple[str, str]]) -> float:
        """Of clients, each with its address and its layer, that train at the same time."""
        loads = []
        for address, layer in clients:
            command = [str(self._normctl), "--server", address, "--output", "json", "bench", "--shape", SHAPE, "--layer", layer,
                       "--train-fraction", "1", "--concurrency", "2", "--warmup", "500ms", "--duration", "2s", "--windows", "1"]
            loads.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        outputs = [load.communicate()[0] for load in loads]
        total = 0.0
        for load, output in zip(loads, outputs):
            result = json.loads(output) if load.returncode == 0 else {}
            if not result or result["total"]["errors"]:
                raise BenchmarkError(f"normctl bench failed: {output[-2000:]}")
            total += result["total"]["ok_per_second"]
        return total

    def writes(self) -> tuple[int, int]:
        """Of all replicas: those that Redis took, and those it refused, since another replica had been faster."""
        totals = {"transactions": 0, "conflicts": 0}
        for port in self._metrics:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
                text = response.read().decode()
            for name in totals:
                found = re.search(rf"^normd_store_{name}_total (\d+)$", text, re.MULTILINE)
                if found is None:
                    raise BenchmarkError(f"no normd_store_{name}_total at port {port}")
                totals[name] += int(found.group(1))
        return totals["transactions"], totals["conflicts"]

    def _configuration(self, port: int, metrics: int) -> str:
        text = (REPOSITORY / "deploy/docker/haproxy.cfg").read_text()
        servers = "\n".join(f"    server replica{i} {address}" for i, address in enumerate(self.replicas))
        for old, new in ((r"bind :50051", f"bind 127.0.0.1:{port}"), (r"bind :8405", f"bind 127.0.0.1:{metrics}"),
                         (r"    server-template .*", servers)):
            text, count = re.subn(old, new, text)
            if count != 1:
                raise BenchmarkError(f"haproxy.cfg has {old!r} {count} times, want 1")
        return text

    def _start(self, name: str, port: int, *command: str) -> None:
        log_file = self._logs / f"replicas_{name}.log"
        with log_file.open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, text=True, start_new_session=True)
        self._stack.callback(end, process)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with closing(create_connection(("127.0.0.1", port))):
                    return
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise BenchmarkError(f"{name} does not listen; its log says:\n{log_file.read_text()[-2000:]}")

    def _run_normctl(self, address: str, *arguments: str) -> None:
        done = subprocess.run([self._normctl, "--server", address, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchmarkError(f"normctl {' '.join(arguments)}: {done.stderr}")


def cell(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def measure_replicas(build: Path, logs: Path, folder: Path) -> str:
    """The report."""
    print("==> replicas", flush=True)
    direct: dict[int, list[float]] = {}
    proxied: dict[int, list[float]] = {}
    ones: dict[str, list[float]] = {"one replica": [], "two replicas": [], "two replicas, through the proxy": []}
    refused: dict[str, list[float]] = {name: [] for name in ones}
    for number in range(ROUNDS):
        print(f"\r  round {number + 1} of {ROUNDS} ", end="", flush=True)
        for count in range(1, MOST_REPLICAS + 1):
            with Deployment(build, logs, folder, count) as deployment:
                spread = [(deployment.replicas[i % count], layer) for i, layer in enumerate(LAYERS)]
                through = [(deployment.proxy, layer) for layer in LAYERS]
                cases = [(direct, spread), (proxied, through)]
                for by_count, clients in cases[:: 1 if number % 2 == 0 else -1]:
                    by_count.setdefault(count, []).append(deployment.steps_per_second(clients))
                if count != 2:
                    continue
                first, second = deployment.replicas
                for name, addresses in zip(ones, ((first, first), (first, second), (deployment.proxy, deployment.proxy))):
                    taken, conflicts = deployment.writes()
                    ones[name].append(deployment.steps_per_second([(address, LAYERS[0]) for address in addresses * 2]))
                    taken_after, conflicts_after = deployment.writes()
                    refused[name].append((conflicts_after - conflicts) / (taken_after - taken))
    print()
    lines = [
        f"Machine: {page.machine()}. Median (and range) of {ROUNDS} rounds, ratios within a round.", "",
        f"| [256,64] training steps, {len(LAYERS)} layers, a client with two calls each | spread by hand, 1/s | ratio to one "
        "replica | through HAProxy, 1/s | ratio to by hand |",
        "|---|---|---|---|---|",
    ]
    for count, rates in direct.items():
        lines.append(f"| {count} replica{'s' if count > 1 else ''} | {statistics.median(rates):.0f} | "
                     f"{cell([one / base for one, base in zip(rates, direct[1])])} | {statistics.median(proxied[count]):.0f} | "
                     f"{cell([one / base for one, base in zip(proxied[count], rates)])} |")
    lines += ["", "| One layer, four clients with two calls each | 1/s | ratio to one replica | writes that Redis refused, per one "
                  "that it took |", "|---|---|---|---|"]
    for name, per_second in ones.items():
        lines.append(f"| {name} | {statistics.median(per_second):.0f} | "
                     f"{cell([one / base for one, base in zip(per_second, ones['one replica'])])} | {cell(refused[name])} |")
    return "\n".join([*lines, ""])
