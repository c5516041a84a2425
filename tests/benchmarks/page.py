"""What the reports of all benchmarks share: the machine's description, and the places for results in a page."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def machine() -> str:
    """CPU, cores and compiler, in one line."""
    cpu = re.search(r"Model name:\s*(.*)", subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout)
    gcc = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return f"{cpu.group(1) if cpu else platform.processor()}, {len(os.sched_getaffinity(0))} cores; {gcc}"


def put_results(page: Path, name: str, report: str) -> None:
    """Replaces what stands between the comments "NAME: begin" and "NAME: end" of a page, which has one of each."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{page}: has no place for '{name}'")
    head, rest = text.split(begin)
    page.write_text(f"{head}{begin}\n{report}\n{end}{rest.split(end)[1]}")
