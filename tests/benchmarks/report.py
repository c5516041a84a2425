"""Makes a Markdown table, a plot and a verdict of what batch_norm_comparison printed.

report.py --runs RUN.json... --installed INSTALLED.json --accuracy ACCURACY.md --threads THREADS.md --out FOLDER [--docs FILE]

Ratios are medians over the rounds of a run; where there are several runs, the worst run's. --docs replaces what stands
between the two "results" comments of a page.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import page  # noqa: E402

OPS = ("train", "infer", "backward")
MIB = 1 << 20
FLAGS = "-O3 -ffp-contract=off -fno-math-errno -fno-trapping-math, OpenMP with bound, spinning threads"


def ratio(a: list[float], b: list[float]) -> float:
    """Median of a / b round by round: how many times faster b is than a."""
    return statistics.median(x / y for x, y in zip(a, b))


class Cell:
    """One shape, layout, thread count and operation in one run."""

    def __init__(self, record: dict) -> None:
        self.record = record
        seconds = record["seconds"]
        limits = [name for name in seconds if name.startswith("limit")]
        self.limit_name = min(limits, key=lambda name: statistics.median(seconds[name]))
        limit = seconds[self.limit_name]
        self.limit_gbs = record["bytes"] / statistics.median(limit) * 1e-9
        self.ours_ms = statistics.median(seconds["normd"]) * 1e3
        self.of_limit = {name: ratio(limit, s) for name, s in seconds.items() if name not in limits}
        peers = {name: s for name, s in seconds.items() if name in ("torch", "onednn")}
        best = min(peers, key=lambda name: statistics.median(peers[name]))
        self.over_best = ratio(peers[best], seconds["normd"])
        self.over_torch = ratio(peers["torch"], seconds["normd"]) if "torch" in peers else float("nan")


def goal_of_limit(record: dict) -> float | None:
    """The fraction of the memory limit that we want to reach."""
    tensor, inner, op = record["tensor_bytes"], record["inner"], record["op"]
    if tensor < 2 * MIB:
        return None
    if op == "infer":
        return 0.85 if inner in (49, 196) else 0.90
    if op == "backward":
        return 0.75 if inner > 1 else 0.50
    if inner == 1:
        return 0.50 if tensor > 32 * MIB else 0.65
    return 0.80 if inner >= 784 else 0.65 if inner == 196 else 0.55


def load(path: Path) -> dict[tuple, Cell]:
    cells = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        key = (record["shape"], record["layout"], record["threads"], record["op"])
        cells[key] = Cell(record) if "normd" in record.get("seconds", {}) else record
    return cells


def table(runs: list[dict[tuple, Cell]], installed: dict) -> list[str]:
    lines = [
        "| shape | layout | threads | train | infer | backward |",
        "|---|---|---|---|---|---|",
    ]
    for shape, layout, threads in dict.fromkeys(key[:3] for key in runs[0]):
        row = []
        for op in OPS:
            cells = [run[shape, layout, threads, op] for run in runs]
            ours = min(cell.of_limit["normd"] for cell in cells)
            torch = statistics.median(cell.of_limit.get("torch", float("nan")) for cell in cells)
            onednn = statistics.median(cell.of_limit["onednn"] for cell in cells)
            cell = cells[0]
            fresh = installed.get((shape, layout, op))
            factor = "" if fresh is None else f"; {fresh / cell.ours_ms:.1f}x installed"
            goal = goal_of_limit(cell.record)
            missed = " (goal %.2f)" % goal if goal is not None and ours < goal else ""
            best = min(c.over_best for c in cells)
            row.append(
                f"{cell.limit_gbs:.0f} GB/s; **{ours:.2f}**{missed} / {torch:.2f} / {onednn:.2f}; "
                f"{best:.1f}x{factor}; {cell.ours_ms:.3g} ms"
            )
        lines.append(f"| {shape} | {layout} | {threads} | " + " | ".join(row) + " |")
    return lines


def verdict(runs: list[dict[tuple, Cell]]) -> list[str]:
    """What the goals say, by kind: how many cells hold them in every run."""
    lines = ["| goal | met, in every run | worst cell |", "|---|---|---|"]
    groups: dict[str, list[tuple[bool, float, tuple]]] = {}
    for key in runs[0]:
        record = runs[0][key].record
        layout = "NCHW" if key[1] == "nchw" else "NHWC and (N,C)"
        goal = goal_of_limit(record)
        if goal is not None:
            value = min(run[key].of_limit["normd"] for run in runs)
            name = f"{layout} {key[3]}: fraction of the memory limit"
            groups.setdefault(name, []).append((value >= goal, value / goal, key))
        best = min(run[key].over_best for run in runs)
        groups.setdefault(f"{layout} {key[3]}: faster than the best warm peer", []).append((best > 1, best, key))
        if record["tensor_bytes"] < MIB and key[1] == "nc" and "torch" in record["seconds"]:
            over = min(run[key].over_torch for run in runs)
            groups.setdefault("small (N,C): 2x PyTorch's call", []).append((over >= 2, over / 2, key))
    for name, cells in groups.items():
        met = sum(ok for ok, _, _ in cells)
        worst = min(cells, key=lambda cell: cell[1])
        lines.append(f"| {name} | {met} of {len(cells)} | {' '.join(map(str, worst[2]))}: {worst[1]:.2f} of it |")
    for layout, wanted in (("nchw", (5, 1.6, 1.7)), ("nhwc", (1.7, 1.4, 1.4))):
        for op, want in zip(OPS, wanted):
            medians = [statistics.median(c.over_best for k, c in run.items() if k[1] == layout and k[3] == op) for run in runs]
            lines.append(
                f"| {layout.upper()} {op}: median over the best warm peer at least {want}x | "
                f"{'yes' if min(medians) >= want else 'no'} | {', '.join(f'{m:.2f}x' for m in medians)} |"
            )
    return lines


def plot(run: dict[tuple, Cell], path: Path) -> None:
    threads = max(key[2] for key in run)
    figure, axes = plt.subplots(len(OPS), 2, figsize=(17, 11), sharey="row")
    for row, op in enumerate(OPS):
        for column, layouts in enumerate((("nchw",), ("nhwc", "nc"))):
            axis = axes[row][column]
            keys = [k for k in run if k[1] in layouts and k[2] == threads and k[3] == op and run[k].record["tensor_bytes"] >= 2 * MIB]
            for i, (name, label) in enumerate((("normd", "normd"), ("torch", "PyTorch 1.13, warm"), ("onednn", "oneDNN 2.6"))):
                heights = [run[k].of_limit.get(name, 0) for k in keys]
                axis.bar([x + (i - 1) * 0.27 for x in range(len(keys))], heights, 0.27, label=label)
            axis.axhline(1, color="black", linewidth=0.8)
            axis.set_xticks(range(len(keys)), [k[0] for k in keys], rotation=40, ha="right", fontsize=8)
            axis.set_title(f"{op}, {' and '.join(layouts).upper()}, {threads} threads")
            axis.set_ylabel("fraction of " + ("triad" if op == "backward" else "copy"))
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--installed", type=Path, required=True)
    parser.add_argument("--accuracy", type=Path, required=True)
    parser.add_argument("--threads", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()

    runs = [load(path) for path in args.runs]
    installed = {
        (k[0], k[1], k[3]): statistics.median(r["seconds"]["torch as installed"]) * 1e3
        for k, r in load(args.installed).items()
        if "torch as installed" in r.get("seconds", {})
    }
    implementation = next(iter(runs[0].values())).record.get("implementation", "")
    text = [
        f"Machine: {page.machine()}; {FLAGS}. Implementation: {implementation}. {len(runs)} runs of interleaved rounds; ratios are the worst run's.",
        "",
        "### Goals",
        "",
        *verdict(runs),
        "",
        "### Every cell",
        "",
        "Memory limit (the best of plain and streaming copies, or triads, of the same arrays); **normd** / PyTorch / oneDNN as",
        "fractions of it, both peers with warm buffers; normd over the best of them, and over PyTorch as installed; normd's time.",
        "",
        *table(runs, installed),
        "",
        "### Accuracy",
        "",
        "Largest relative error of the variance / largest error of y over max(1, |y|), against 80-bit arithmetic.",
        "",
        args.accuracy.read_text().rstrip(),
        "",
        "### A second thread",
        "",
        "Median latency and CPU time of a training step with a pause of 2 ms after it, and what `ThreadsFor` chooses.",
        "",
        args.threads.read_text().rstrip(),
        "",
    ]
    report = "\n".join(text)
    (args.out / "performance.md").write_text(report)
    plot(runs[0], args.out / "performance.png")
    print("\n".join(verdict(runs)))
    print(f"\nWritten: {args.out / 'performance.md'} and {args.out / 'performance.png'}")
    if args.docs:
        page.put_results(args.docs, "results", report)
        print(f"Updated: {args.docs}")


if __name__ == "__main__":
    main()
