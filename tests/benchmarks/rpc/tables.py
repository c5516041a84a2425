"""The report of the RPC benchmarks in Markdown."""

from __future__ import annotations

import statistics

from rpc.goals import IDLE_CPU_LIMIT, Beside, Goal, Kernel, Run, Side, median
from rpc.processes import Result


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def verdict(goal: Goal, medians: list[float]) -> str:
    limit = goal.at_least if goal.at_least is not None else goal.at_most
    if limit is None:
        return "-"
    worst = goal.worst(medians)
    return "met" if goal.met(worst) else f"not met: {worst / limit:.2f} of the limit"


def goal_table(goals: list[Goal], runs: list[Run], modes: list[str]) -> list[str]:
    lines = ["| goal | wanted | median of each run | all rounds | verdict |", "|---|---|---|---|---|"]
    for goal in goals:
        medians = [median(goal, run) for run in runs if goal.values(run)]
        if not medians:
            missing = {need.mode for need in goal.needs if isinstance(need, Side)} - set(modes)
            lines.append(f"| {goal.title} | {goal.wanted} | | | not measured: rpc_load has no {', '.join(missing)} |")
            continue
        values = [value for run in runs for value in goal.values(run)]
        lines.append(
            f"| {goal.title} | {goal.wanted} | {', '.join(map(number, medians))} | "
            f"{number(min(values))}..{number(max(values))} | {verdict(goal, medians)} |"
        )
    idle = [run.idle_cpu["normd"] for run in runs]
    met = "met" if max(idle) < IDLE_CPU_LIMIT else f"not met: {max(idle) / IDLE_CPU_LIMIT:.2f} of the limit"
    cpu = ", ".join(f"{value:.3f}" for value in idle)
    lines.append(f"| idle normd after the load: CPU | < {IDLE_CPU_LIMIT:g} | {cpu} | | {met} |")
    return lines


def measurement_table(goals: list[Goal], runs: list[Run]) -> list[str]:
    lines = ["| load | requests/s | p50 us | p99 us | requests in each round, at least |", "|---|---|---|---|---|"]
    for measurement in dict.fromkeys(need for goal in goals for need in goal.needs):
        results = [r[measurement] for run in runs for r in run.rounds if measurement in r]
        if not results:
            continue
        label = measurement.label
        if isinstance(measurement, Kernel):
            label += f", {results[0]['threads']} threads"
        if isinstance(measurement, Beside):
            label += f" (which got {middle([result['beside'] for result in results], 'requests_per_second')} requests/s)"
        columns = (middle(results, key) for key in ("requests_per_second", "p50_us", "p99_us"))
        lines.append(f"| {label} | {' | '.join(columns)} | {min(result['requests'] for result in results)} |")
    return lines


def middle(results: list[Result], key: str) -> str:
    return number(statistics.median(result[key] for result in results)) if key in results[0] else ""


def report(goals: list[Goal], runs: list[Run], modes: list[str], machine: str) -> str:
    rounds, many = len(runs[0].rounds), "s" if len(runs) > 1 else ""
    return "\n".join(
        [
            f"Machine: {machine}, shared by client and server. {len(runs)} run{many} of {rounds} interleaved rounds.",
            "A goal is met if every run's median meets it.",
            "",
            *goal_table(goals, runs, modes),
            "",
            "Medians of all rounds of all runs; raw client unless another one is named:",
            "",
            *measurement_table(goals, runs),
            "",
        ]
    )
