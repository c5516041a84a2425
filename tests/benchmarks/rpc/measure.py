"""Measures normd's calls beside echo servers and a Python server, and judges the goals; tests/benchmarks/rpc.sh runs it.

python3 -m rpc.measure --build FOLDER [--runs N] [--quick] [--docs PAGE]
python3 -m rpc.measure --build FOLDER --soak [--soak-small N] [--soak-large N] [--docs PAGE]
python3 -m rpc.measure --build FOLDER --state [--docs PAGE]
python3 -m rpc.measure --build FOLDER --replicas [--docs PAGE]

Writes rpc.md and rpc.json (or rpc_soak.md, state.md, replicas.md) into the build folder; --docs puts the tables into a page, too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import page
from rpc.goals import Run, all_goals
from rpc.processes import BenchmarkError
from rpc.replicas import measure_replicas
from rpc.rounds import QUICK, Bench, Effort, measure_run
from rpc.soak import soak
from rpc.state import measure_state
from rpc.tables import report


def write_json(runs: list[Run], path: Path) -> None:
    """Every measurement of every round, to look closer."""
    data = [
        {
            "idle_cpu": run.idle_cpu,
            "rounds": [{measurement.label: result for measurement, result in r.items()} for r in run.rounds],
        }
        for run in runs
    ]
    path.write_text(json.dumps(data, indent=1))


def measure(bench: Bench, count: int, effort: Effort, out: Path) -> str:
    goals = all_goals()
    runs = []
    for number in range(count):
        print(f"==> RPC, run {number + 1} of {count}", flush=True)
        runs.append(measure_run(bench, goals, effort))
    write_json(runs, out / "rpc.json")
    return report(goals, runs, bench.modes, page.machine())


def publish(text: str, written: Path, docs: Path | None, name: str) -> None:
    written.write_text(text)
    print(f"{text}\nWritten: {written}")
    if docs:
        page.put_results(docs, name.replace("_", " "), text)
        print(f"Updated: {docs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, help="build folder")
    parser.add_argument("--runs", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--quick", action="store_true", help="one short run of two rounds: to see that everything works")
    parser.add_argument("--soak", action="store_true", help="whether the server's memory stays flat, instead of speed")
    parser.add_argument("--soak-small", type=int, default=10_000_000, help="small requests of the soak")
    parser.add_argument("--soak-large", type=int, default=20_000, help="requests of 8 MB of the soak")
    parser.add_argument("--state", action="store_true", help="what durable state costs, instead of speed")
    parser.add_argument("--replicas", action="store_true", help="what replicas and a proxy before them reach, instead of speed")
    parser.add_argument("--docs", type=Path, help="page that gets the tables as well")
    args = parser.parse_args()
    # Python's own way out of Ctrl-C, in which servers are ended and their folder is removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    if os.getloadavg()[0] > 0.5:
        print("warning: this machine is doing something else as well; the figures will show it", file=sys.stderr)
    logs = args.build / "rpc_logs"
    logs.mkdir(parents=True, exist_ok=True)
    name = "replicas" if args.replicas else "state" if args.state else "rpc_soak" if args.soak else "rpc"
    try:
        if args.replicas:
            with tempfile.TemporaryDirectory(prefix="normd-") as folder:
                text = measure_replicas(args.build, logs, Path(folder))
            return publish(text, args.build / f"{name}.md", args.docs, name)
        with tempfile.TemporaryDirectory(prefix="normd-") as sockets, Bench(args.build, logs, Path(sockets)) as bench:
            if args.state:
                text = measure_state(args.build, logs, Path(sockets))
            elif args.soak:
                text = soak(bench, args.soak_small, args.soak_large)
            else:
                text = measure(bench, 1 if args.quick else args.runs, QUICK if args.quick else Effort(), args.build)
    except BenchmarkError as error:
        sys.exit(f"\nerror: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted")
    publish(text, args.build / f"{name}.md", args.docs, name)


if __name__ == "__main__":
    main()
