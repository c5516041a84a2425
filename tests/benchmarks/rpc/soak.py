"""Whether the server's memory stays flat over many requests."""

from __future__ import annotations

import statistics
import threading
from dataclasses import dataclass, field

import page
from rpc.goals import KILOBYTE, LARGE, SMALL, Side
from rpc.processes import BenchmarkError, Load, Result, Server
from rpc.rounds import Bench

# The first tenth fills pools and logs; from then on nothing may grow.
GROWTH_LIMIT = 0.02


@dataclass
class Tenths:
    """What the server held while the requests went on, by tenth of them."""

    rss_kib: list[list[int]] = field(default_factory=lambda: [[] for _ in range(10)])

    def add(self, done: float, rss_kib: int) -> None:
        """`done`: the part of the requests that were answered, 0 to 1."""
        self.rss_kib[min(int(done * 10), 9)].append(rss_kib)

    def mib(self, tenth: int) -> float:
        if not self.rss_kib[tenth]:
            raise BenchmarkError("too few requests to see every tenth of them; ask for more")
        return statistics.median(self.rss_kib[tenth]) / 1024

    @property
    def growth(self) -> float:
        return self.mib(9) / self.mib(1) - 1

    @property
    def peak_mib(self) -> float:
        return max(max(tenth, default=0) for tenth in self.rss_kib) / 1024


class Phase:
    """Loads that run at the same time, each with an equal part of the requests."""

    def __init__(self, bench: Bench, title: str, sides: list[Side], requests: int) -> None:
        self.title = title
        self.tenths = Tenths()
        self.results: list[Result] = []
        self._requests = requests
        self._server = bench.server("normd")
        self._done = [0] * len(sides)
        self._errors: list[Exception] = []
        self._lock = threading.Lock()
        each = requests // len(sides)
        options = ["--requests", each, "--progress", max(each // 1000, 1), "--warm-up", 0]
        self._loads = [Load(bench.load_command(side, *options)) for side in sides]

    def run(self) -> None:
        threads = [threading.Thread(target=self._follow, args=(i,), daemon=True) for i in range(len(self._loads))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for load in self._loads:
                load.__exit__()
        print()
        if self._errors:
            raise self._errors[0]

    def _follow(self, index: int) -> None:
        try:
            for event in self._loads[index].events():
                with self._lock:
                    if event["event"] == "progress":
                        self._done[index] = event["requests"]
                        self._sample(self._server)
                    elif event["event"] == "result":
                        self.results.append(event)
        except Exception as error:  # The thread that waits for us raises it.
            self._errors.append(error)

    def _sample(self, server: Server) -> None:
        done = sum(self._done) / self._requests
        rss_kib = server.rss_kib()
        self.tenths.add(done, rss_kib)
        print(f"\r  {self.title}: {done:4.0%}, {rss_kib / 1024:.1f} MiB ", end="", flush=True)


def soak(bench: Bench, small: int, large: int) -> str:
    """The report. Small requests are inferences and training steps, half and half; the latter with a request_id each."""
    steps = Side("normd-train", KILOBYTE, 4, mode="sdk-async")
    phases = [
        ("small: infer [1,64] and train [4,64]", [Side("normd-infer", SMALL, 4), steps], small),
        ("8 MB infer", [Side("normd-infer", LARGE, 1)], large),
    ]
    lines = [
        f"Machine: {page.machine()}. Resident memory of one server, median of each tenth of the requests.",
        "",
        "| load | requests | requests/s | second tenth, MiB | last tenth, MiB | growth | peak, MiB | within 2 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, sides, requests in phases:
        print(f"==> soak, {requests} requests", flush=True)
        phase = Phase(bench, title, sides, requests)
        phase.run()
        tenths = phase.tenths
        rate = requests / max(result["seconds"] for result in phase.results)
        verdict = "met" if abs(tenths.growth) <= GROWTH_LIMIT else "not met"
        lines.append(
            f"| {title} | {requests} | {rate:.0f} | {tenths.mib(1):.1f} | {tenths.mib(9):.1f} | {tenths.growth:+.2%} | "
            f"{tenths.peak_mib:.1f} | {verdict} |"
        )
    return "\n".join([*lines, ""])
