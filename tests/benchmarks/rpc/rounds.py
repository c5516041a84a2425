"""Measures a run: interleaved rounds over all servers, then the servers at rest."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rpc.goals import SHM, Beside, Goal, Kernel, Measurement, Round, Run, Side
from rpc.processes import Load, Result, Server, run_load


@dataclass(frozen=True)
class Effort:
    """How long everything is measured."""

    rounds: int = 5
    seconds: float = 2.5
    warm_up: float = 0.5
    # Of the small calls whose p99 counts; fewer if they take longer than max_seconds.
    samples: int = 10_000
    max_seconds: float = 40
    idle_seconds: float = 10


QUICK = Effort(rounds=2, seconds=0.5, warm_up=0.2, samples=1000, max_seconds=5, idle_seconds=3)


class Bench:
    """The programs and the servers of a measurement; the servers run until `with` is over."""

    def __init__(self, build: Path, logs: Path, sockets: Path) -> None:
        self._build = build
        self._logs = logs
        self._sockets = sockets
        self._programs = build / "tests/benchmarks/rpc"
        list_modes = [str(self._programs / "rpc_load"), "--list-modes"]
        self.modes = subprocess.run(list_modes, capture_output=True, text=True, check=True).stdout.split()
        self._servers: dict[str, Server] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def server(self, name: str) -> Server:
        """Of "normd", "normd-batch", "echo" or "torch"; started when it is first asked for."""
        if name not in self._servers:
            socket = str(self._sockets / f"{name}.sock")
            env: dict[str, str] = {}
            if name.startswith("normd"):
                command = [str(self._build / "server/app/normd"), "--listen", "127.0.0.1:0", "--unix-socket", socket]
                command += ["--store", "memory"]
                command += ["--shared-memory"] if SHM in self.modes else []
                command += ["--batch-scheduling"] if name == "normd-batch" else []
            elif name == "echo":
                command = [str(self._programs / "echo_server"), "--unix-socket", socket]
            else:
                script = Path(__file__).with_name("torch_server.py")
                command = ["/usr/bin/python3", str(script), "--unix-socket", socket]
                env = {"PYTHONPATH": str(self._programs / "generated")}
            self._servers[name] = self._stack.enter_context(Server(name, command, self._logs, env))
        return self._servers[name]

    def load_command(self, side: Side, *options: object) -> list[str]:
        target = self.server(side.server).address(side.transport)
        return [
            str(self._programs / "rpc_load"), "--target", target, "--mode", side.mode, "--call", side.call,
            "--shape", side.shape, "--concurrency", str(side.concurrency), *map(str, options),
        ]

    def kernel_command(self, kernel: Kernel, seconds: float) -> list[str]:
        program = str(self._programs / "kernel_time")
        return [program, "--operation", kernel.operation, "--shape", kernel.shape, "--seconds", str(seconds)]

    def can(self, measurement: Measurement) -> bool:
        return not isinstance(measurement, Side) or measurement.mode in self.modes

    def measure(self, measurement: Measurement, effort: Effort, samples: int = 0) -> Result:
        if isinstance(measurement, Kernel):
            # normd sets it for itself.
            return run_load(self.kernel_command(measurement, effort.seconds / 2), {"GOMP_SPINCOUNT": "2000"})
        timing = ["--warm-up", effort.warm_up, "--seconds", effort.seconds]
        if isinstance(measurement, Side):
            options = [*timing, "--min-requests", samples, "--max-seconds", max(effort.max_seconds, effort.seconds)]
            return run_load(self.load_command(measurement, *options))
        endless = ["--warm-up", effort.warm_up, "--seconds", 3600, "--max-seconds", 3600]
        with Load(self.load_command(measurement.large, *endless)) as background:
            background.wait_until_started()
            result = self.measure(measurement.small, effort, samples)
            result["beside"] = background.stop()
        return result

    def idle_cpu(self, name: str, seconds: float) -> float:
        """CPU seconds that a server without calls uses in a second."""
        server = self.server(name)
        before, start = server.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (server.cpu_seconds() - before) / (time.monotonic() - start)


def measure_run(bench: Bench, goals: list[Goal], effort: Effort) -> Run:
    measurements = list(dict.fromkeys(need for goal in goals for need in goal.needs if bench.can(need)))
    # Those whose p99 counts, and the loads beside which it does.
    exact = {m.small for m in measurements if isinstance(m, Beside)}
    exact_or_beside = [m for m in measurements if isinstance(m, Beside) or m in exact]
    for name in {m.server for m in measurements if isinstance(m, Side)}:
        bench.server(name)
    run = Run()
    for number in range(effort.rounds):
        results: Round = {}
        # There and back, so that no side is always the later one.
        for i, measurement in enumerate(measurements if number % 2 == 0 else reversed(measurements)):
            print(f"\r  round {number + 1} of {effort.rounds}, {i + 1} of {len(measurements)} ", end="", flush=True)
            samples = effort.samples if measurement in exact_or_beside else 0
            results[measurement] = bench.measure(measurement, effort, samples)
        run.rounds.append(results)
    print("\r  all rounds are over; the idle servers        ", flush=True)
    # The last calls' threads go to sleep first.
    time.sleep(2)
    run.idle_cpu["normd"] = bench.idle_cpu("normd", effort.idle_seconds)
    return run
