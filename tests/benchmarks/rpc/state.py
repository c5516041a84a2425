"""What durable state costs, and how it scales; tests/benchmarks/rpc.sh --state runs it."""

from __future__ import annotations

import importlib
import re
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import grpc
import page
from rpc.goals import BATCH
from rpc.processes import BenchmarkError, Result, Server, run_load

STORES = {
    "memory": [],
    "process": ["--durability", "process"],
    "periodic": ["--durability", "periodic"],
    "power": ["--durability", "power"],
}
# Many short ones: the machine changes its speed from second to second, and two windows that follow each other closely
# agree better than two long ones do.
ROUNDS = 25
SECONDS = 0.3
LAYERS = 100_000


def new_server(build: Path, logs: Path, folder: Path, name: str) -> Server:
    store = "memory" if name == "memory" else f"sqlite:{folder / name}.db"
    command = [str(build / "server/app/normd"), "--listen", "127.0.0.1:0", "--unix-socket", str(folder / f"{name}.sock")]
    return Server(f"state_{name}", [*command, "--store", store, *STORES.get(name, [])], logs)


def training_cost(build: Path, logs: Path, folder: Path) -> list[str]:
    """Steps per second by store, with one call at a time and with eight, with and without request_ids."""
    load = str(build / "tests/benchmarks/rpc/rpc_load")
    cases = [(mode, concurrency) for mode in ("raw", "sdk-async") for concurrency in (1, 8)]
    rates: dict[tuple[str, int, str], list[float]] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(new_server(build, logs, folder, name)) for name in STORES}
        for number in range(ROUNDS):
            print(f"\r  training: round {number + 1} of {ROUNDS} ", end="", flush=True)
            for mode, concurrency in cases:
                for name, server in list(servers.items())[:: 1 if number % 2 == 0 else -1]:
                    result: Result = run_load([
                        load, "--target", server.address("unix"), "--mode", mode, "--call", "normd-train",
                        "--shape", BATCH, "--concurrency", str(concurrency), "--seconds", str(SECONDS),
                    ])
                    rates.setdefault((mode, concurrency, name), []).append(result["requests_per_second"])
    print()
    lines = [
        "| [256,64] training steps, Unix socket | memory, 1/s | process | periodic | power |",
        "|---|---|---|---|---|",
    ]
    for mode, concurrency in cases:
        memory = rates[mode, concurrency, "memory"]
        client = "without request_id" if mode == "raw" else "C++ SDK, a request_id each"
        cells = [f"{statistics.median(memory):.0f}"]
        for name in list(STORES)[1:]:
            ratios = [one / base for one, base in zip(rates[mode, concurrency, name], memory)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})")
        lines.append(f"| c{concurrency}, {client} | " + " | ".join(cells) + " |")
    grouped = [
        eight / one for one, eight in zip(rates["raw", 1, "power"], rates["raw", 8, "power"])
    ]
    lines += ["", f"`power`, eight callers over one: {statistics.median(grouped):.1f}x "
                  f"({min(grouped):.1f}..{max(grouped):.1f})."]
    return lines


def generated_messages(folder: Path) -> ModuleType:
    """The messages of LayerService, generated on the spot: the benchmarks need no Python package of normd's."""
    protos = ["resources", "tensor", "layer_service"]
    subprocess.run(
        ["protoc", "-I", "proto", f"--python_out={folder}", *(f"normd/v1/{name}.proto" for name in protos)], check=True
    )
    sys.path.insert(0, str(folder))
    return importlib.import_module("normd.v1.layer_service_pb2")


def many_layers(build: Path, logs: Path, folder: Path) -> list[str]:
    """100,000 layers of 64 channels: created, listed, and loaded by the next start."""
    messages = generated_messages(folder)
    with (new_server(build, logs, folder, "layers") as server,
          grpc.insecure_channel(server.address("unix")) as channel):
        empty_kib = server.rss_kib()

        def method(name: str) -> grpc.UnaryUnaryMultiCallable:
            return channel.unary_unary(
                f"/normd.v1.LayerService/{name}",
                request_serializer=getattr(messages, f"{name}Request").SerializeToString,
                response_deserializer=getattr(messages, f"{name}Response").FromString,
            )

        create, list_layers = method("CreateLayer"), method("ListLayers")
        begin = time.monotonic()
        waiting = []
        for number in range(LAYERS):
            request = messages.CreateLayerRequest(name=f"model.layer{number:06}")
            request.config.num_channels = 64
            waiting.append(create.future(request))
            if len(waiting) >= 64:
                waiting.pop(0).result()
        for future in waiting:
            future.result()
        created = time.monotonic() - begin
        begin = time.monotonic()
        token, seen, pages = "", 0, 0
        while True:
            answer = list_layers(messages.ListLayersRequest(page_size=1000, page_token=token))
            seen, pages, token = seen + len(answer.layers), pages + 1, answer.next_page_token
            if not token:
                break
        listed = time.monotonic() - begin
        if seen != LAYERS:
            raise BenchmarkError(f"{seen} layers are listed, want {LAYERS}")
        full_kib = server.rss_kib()
    with new_server(build, logs, folder, "layers") as server:
        loaded_kib = server.rss_kib()
    found = re.search(r"message=state .*layers=(\d+) load_ms=([0-9.]+)", (logs / "state_layers.log").read_text())
    if found is None or int(found.group(1)) != LAYERS:
        raise BenchmarkError("the second start did not load every layer")
    size = (folder / "layers.db").stat().st_size
    return [
        f"{LAYERS:,} layers of 64 channels: created at {LAYERS / created:,.0f} a second, listed in {pages} pages in "
        f"{listed:.1f} s; {(full_kib - empty_kib) * 1024 / LAYERS:,.0f} bytes of memory and {size / LAYERS:,.0f} bytes of "
        f"file each; loaded in {float(found.group(2)) / 1000:.1f} s by the next start, at "
        f"{(loaded_kib - empty_kib) * 1024 / LAYERS:,.0f} bytes of memory each.",
    ]


def measure_state(build: Path, logs: Path, folder: Path) -> str:
    """The report."""
    print("==> state", flush=True)
    lines = [f"Machine: {page.machine()}. Ratios to `memory`, median (and range) of {ROUNDS} rounds.", ""]
    lines += training_cost(build, logs, folder)
    lines += ["", *many_layers(build, logs, folder), ""]
    return "\n".join(lines)
