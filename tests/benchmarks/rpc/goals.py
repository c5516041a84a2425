"""What is measured, and what must come of it: the loads of a round, and the goals as ratios between them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rpc.processes import Result

# float32, channels first; 256 B, 1 KB, 64 KB and so on. An MB of 8 and of 32 has 2^20 bytes, that of 25.7 has 10^6.
SMALL = "1,64"
KILOBYTE = "4,64"
BATCH = "256,64"
LARGE = "32,64,32,32"
ACTIVATION = "32,64,56,56"
LARGEST = "32,64,64,64"

SIZES = {SMALL: "[1,64]", KILOBYTE: "1 KB", BATCH: "[256,64]", LARGE: "8 MB", ACTIVATION: "25.7 MB", LARGEST: "32 MB"}
TRANSPORTS = {"unix": "Unix socket", "tcp": "TCP"}
SHM = "sdk-shm"


@dataclass(frozen=True)
class Side:
    """One load on one server: one side of a ratio, or several."""

    call: str
    shape: str
    concurrency: int = 1
    transport: str = "unix"
    mode: str = "raw"
    # Of a normd with --batch-scheduling.
    batch: bool = False

    @property
    def server(self) -> str:
        return self.call.split("-")[0] + ("-batch" if self.batch else "")

    @property
    def label(self) -> str:
        client = "" if self.mode == "raw" else f", {self.mode}"
        batch = ", --batch-scheduling" if self.batch else ""
        return f"{self.call} {SIZES[self.shape]}, {TRANSPORTS[self.transport]}, c{self.concurrency}{client}{batch}"


@dataclass(frozen=True)
class Kernel:
    """The kernel of a call, in its own process."""

    operation: str
    shape: str

    @property
    def label(self) -> str:
        return f"kernel alone, {self.operation} {SIZES[self.shape]}"


@dataclass(frozen=True)
class Beside:
    """A small load, measured while a large one goes on in another process."""

    small: Side
    large: Side

    @property
    def label(self) -> str:
        return f"{self.small.label}, beside {self.large.label}"


Measurement = Side | Kernel | Beside
Round = dict[Measurement, Result]


@dataclass
class Run:
    """Interleaved rounds, and what the servers cost when they were over."""

    rounds: list[Round] = field(default_factory=list)
    # CPU seconds of an idle second, by server.
    idle_cpu: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """A number of each round, whose median must be at least, or at most, a limit. No limit: only of interest."""

    title: str
    needs: tuple[Measurement, ...]
    value: Callable[[Round], float]
    at_least: float | None = None
    at_most: float | None = None

    def values(self, run: Run) -> list[float]:
        """Of those rounds in which everything was measured."""
        return [self.value(r) for r in run.rounds if all(need in r for need in self.needs)]

    @property
    def wanted(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def worst(self, medians: list[float]) -> float:
        return max(medians) if self.at_most is not None else min(medians)


def rate_goal(title: str, ours: Side, theirs: Side, at_least: float | None) -> Goal:
    def value(r: Round) -> float:
        return float(r[ours]["requests_per_second"] / r[theirs]["requests_per_second"])

    return Goal(title, (theirs, ours), value, at_least=at_least)


def python_goals(title: str, what: str, concurrency: int, shape: str, at_least: float) -> list[Goal]:
    """Over both transports; normd and Python are compared on the same one."""
    goals = []
    for transport, name in TRANSPORTS.items():
        ours = Side(f"normd-{what}", shape, concurrency, transport)
        theirs = Side(f"torch-{what}", shape, concurrency, transport)
        goals.append(rate_goal(f"{title}, {name}, c{concurrency}: over Python", ours, theirs, at_least))
    return goals


def sdk_goals(shape: str, concurrency: int) -> list[Goal]:
    """No goals of ours, but what a user of the SDK gets of all this."""
    raw = Side("normd-infer", shape, concurrency)
    goals = []
    for mode in ("sdk-sync", "sdk-async"):
        title = f"{SIZES[shape]} infer, Unix socket, c{concurrency}: {mode} of the raw client"
        goals.append(rate_goal(title, Side("normd-infer", shape, concurrency, mode=mode), raw, None))
    return goals


def echo_goals() -> list[Goal]:
    ours = Side("normd-infer", LARGE)
    raw, protobuf = Side("echo-raw", LARGE), Side("echo-protobuf", LARGE)
    stub = Side("echo-protobuf", LARGE, mode="stub")
    return [
        rate_goal("8 MB infer, Unix socket, c1: of the raw echo", ours, raw, 0.85),
        rate_goal("8 MB infer, Unix socket, c1: over the echo with protobuf at both ends", ours, stub, 1.4),
        rate_goal("8 MB infer, Unix socket, c1: over the echo with protobuf in the server only", ours, protobuf, None),
        *sdk_goals(LARGE, 1),
    ]


def activation_goals() -> list[Goal]:
    ping = Side("normd-infer", SMALL)
    goals = []
    for what, in_band, shared in (("infer", 4, 50), ("train", 3.5, 35)):
        goals += python_goals(f"25.7 MB {what}, in band", what, 1, ACTIVATION, in_band)
        shm = Side(f"normd-{what}", ACTIVATION, mode=SHM)
        python = Side(f"torch-{what}", ACTIVATION)
        goals.append(rate_goal(f"25.7 MB {what}, shared memory, c1: over Python", shm, python, shared))
        kernel = Kernel(what, ACTIVATION)

        def value(r: Round, shm: Side = shm, kernel: Kernel = kernel) -> float:
            return float(r[shm]["p50_us"] / (r[kernel]["p50_us"] + 1.5 * r[ping]["p50_us"]))

        title = f"25.7 MB {what}, shared memory, c1: p50 over (kernel + 1.5 x ping)"
        goals.append(Goal(title, (ping, kernel, shm), value, at_most=1.0))
    return goals


def small_goals() -> list[Goal]:
    ours = Side("normd-infer", SMALL, 8)
    echo, raw = Side("echo-protobuf", SMALL, 8), Side("echo-raw", SMALL, 8)
    return [
        rate_goal("[1,64] infer, Unix socket, c8: of the bare callback echo", ours, echo, 0.85),
        rate_goal("[1,64] infer, Unix socket, c8: of the raw echo", ours, raw, None),
        *python_goals("[1,64] infer", "infer", 8, SMALL, 7),
        *sdk_goals(SMALL, 8),
        *python_goals("[256,64] train", "train", 8, BATCH, 5),
    ]


def open_inference_goals() -> list[Goal]:
    goals = []
    for shape, concurrency in ((SMALL, 8), (BATCH, 8), (LARGE, 1)):
        ours = Side("normd-open-inference", shape, concurrency)
        title = f"{SIZES[shape]} infer, Unix socket, c{concurrency}: the Open Inference Protocol of our own Infer"
        goals.append(rate_goal(title, ours, Side("normd-infer", shape, concurrency), 0.9))
    return goals


def batch_goals() -> list[Goal]:
    """No goals: what --batch-scheduling is worth."""
    loads = (Side("normd-infer", SMALL), Side("normd-infer", SMALL, 8), Side("normd-infer", LARGE),
             Side("normd-infer", ACTIVATION, mode=SHM))
    return [rate_goal(f"{usual.label}: with --batch-scheduling over without", replace(usual, batch=True), usual, None)
            for usual in loads]


def fairness_goals() -> list[Goal]:
    quiet = Side("normd-infer", KILOBYTE)
    goals = []
    for streams in (1, 2):
        busy = Beside(quiet, Side("normd-infer", LARGEST, streams))

        def value(r: Round, busy: Beside = busy) -> float:
            return float(r[busy]["p99_us"] / r[quiet]["p99_us"])

        title = f"1 KB infer, Unix socket, c1, beside 32 MB infer at c{streams}: p99 over its quiet p99"
        goals.append(Goal(title, (quiet, busy), value, at_most=10))
    return goals


def all_goals() -> list[Goal]:
    return [*echo_goals(), *activation_goals(), *small_goals(), *open_inference_goals(),
            *batch_goals(), *fairness_goals()]


IDLE_CPU_LIMIT = 0.02


def median(goal: Goal, run: Run) -> float:
    return statistics.median(goal.values(run))
