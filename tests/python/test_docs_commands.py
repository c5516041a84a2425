"""Every command in the documentation's ```sh blocks runs: those of a page in order, in one shell, against one server.

A page has a network of its own, so that the documented address is free, and a folder of its own, which is its HOME. What
cannot run so is in ELSEWHERE, with the reason; a command that neither runs nor stands there fails, and so does an entry
that the documentation no longer has.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import REPOSITORY, normd_binary
from normd import state_files

# Longer than the commands of any page take; normctl bench measures for 17 s.
LONG = 60.0
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
PAGES = sorted({path for pattern in ("README.md", "client/**/README.md", "docs/**/*.md", "deploy/**/README*")
                for path in REPOSITORY.glob(pattern)})

# Commands that go on, on a terminal, until Ctrl-C: they get it after three seconds, and must then end with success.
UNTIL_INTERRUPTED = {"normctl top"}

MACHINE = "changes the machine"
DEPLOY = "needs a container engine; tests/deploy/run.sh runs it"
CLUSTER = "needs a cluster; tests/deploy/run.sh checks the manifests and runs them with podman"
NOTATION = "says which flags matter, not a whole command"
MINUTES = "measures for minutes, and needs the bench build"
ELSEWHERE = {
    ("README.md", "bash deploy/quickstart.sh"): "installs and builds everything",
    ("README.md", "bash tests/run.sh"): "runs this test",
    ("README.md", "deploy/install_dependencies.sh quickstart"): f"{MACHINE}; tests/run.sh and deploy/quickstart.sh run it",
    ("README.md", "cmake --preset release -DNORMD_BUILD_TESTS=OFF && cmake --build --preset release"):
        "builds for minutes; deploy/quickstart.sh builds so",
    ("README.md", "cmake --install build/release --prefix /usr/local"): MACHINE,
    ("README.md", "client/python/make_venv.sh build/venv"): "makes the environment of this test; tests/run.sh runs it",
    ("README.md", "deploy/docker/build.sh"): DEPLOY,
    ("README.md", "docker run -d --name normd -p 127.0.0.1:50051:50051 -v normd-state:/var/lib/normd --read-only "
                  "--cap-drop ALL --restart unless-stopped normd:local"): DEPLOY,
    ("README.md", "docker-compose -f deploy/docker/compose.yaml up --build --detach"): DEPLOY,
    ("README.md", "kubectl apply --kustomize deploy/kubernetes/single"): CLUSTER,
    ("client/cpp/README.md", "c++ -std=c++20 app.cc -o app $(pkg-config --cflags --libs normd)"):
        "needs an installed SDK; package_test runs it",
    ("client/cpp/README.md", "c++ -std=c++20 app.cc -o app $(pkg-config --static --cflags --libs normd)"):
        "needs an installed SDK; package_test runs it",
    ("client/cpp/README.md", "doxygen client/cpp/Doxyfile"): "writes into the build folder; doxygen_test runs it",
    ("docs/operations.md", "deploy/docker/build.sh"): DEPLOY,
    ("docs/operations.md", "docker run -d --name normd -p 127.0.0.1:50051:50051 -v normd-state:/var/lib/normd --read-only "
                           "--cap-drop ALL normd:local"): DEPLOY,
    ("docs/operations.md", "docker exec normd /usr/local/bin/normctl layer list"): DEPLOY,
    ("docs/operations.md", "docker-compose -f deploy/docker/compose.replicas.yaml up --build --detach"): DEPLOY,
    ("docs/operations.md", "docker-compose -f deploy/docker/compose.replicas.yaml restart replica1"): DEPLOY,
    ("docs/operations.md", "kubectl apply --kustomize deploy/kubernetes/single"): CLUSTER,
    ("docs/operations.md", "kubectl create secret generic normd-store --from-literal=password=\"$(openssl rand -hex 16)\""):
        CLUSTER,
    ("docs/operations.md", "kubectl apply --kustomize deploy/kubernetes/replicas"): CLUSTER,
    ("docs/operations.md", "kubectl port-forward service/normd 50051 &"): CLUSTER,
    ("docs/operations.md", "docker run --ipc shareable --shm-size 4g --name normd ... normd --shared-memory"): NOTATION,
    ("docs/operations.md", "docker run --ipc container:normd --user 65532 ... client"): NOTATION,
    ("docs/performance.md", "tests/benchmarks/run.sh"): MINUTES,
    ("docs/performance.md", "tests/benchmarks/run.sh --update-docs"): MINUTES,
    ("docs/performance.md", "build/bench/tests/benchmarks/dtype_benchmark"): MINUTES,
    ("docs/performance.md", "tests/benchmarks/rpc.sh"): MINUTES,
    ("docs/performance.md", "tests/benchmarks/rpc.sh --update-docs"): MINUTES,
    ("docs/performance.md", "tests/benchmarks/rpc.sh --quick"): MINUTES,
    ("docs/performance.md", "tests/benchmarks/rpc.sh --soak --update-docs"): MINUTES,
}


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def complete(command: str) -> bool:
    return subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True).returncode == 0


def commands(page: Path) -> list[tuple[int, str]]:
    """Line and text, without the comment at its end, of each command in the page's blocks."""
    text = page.read_text()
    found: list[tuple[int, str]] = []
    for block in FENCE.finditer(text):
        if block[2] != "sh":
            continue
        first = text.count("\n", 0, block.start(3)) + 1
        command = ""
        for number, line in enumerate(block[3].splitlines(), first):
            command = f"{command}\n{line}" if command else re.sub(r"(^|\s+)#.*$", "", line).strip()
            if command and not command.endswith("\\") and complete(command):
                found.append((number - command.count("\n"), command))
                command = ""
        assert not command, f"{name(page)}:{first}: the block ends within a command: {command}"
    return found


COMMANDS = {page: commands(page) for page in PAGES}
RUNNABLE = {page: [(line, command) for line, command in found if (name(page), command) not in ELSEWHERE]
            for page, found in COMMANDS.items()}


def write_files(folder: Path) -> None:
    """What the reader has in the folder."""
    np.save(folder / "batch.npy", np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32))
    state_files.save(folder / "resnet50.safetensors",
                     {key: value.numpy() for key, value in torch.nn.Sequential(torch.nn.BatchNorm2d(8)).state_dict().items()})


def script(page: Path, folder: Path) -> str:
    """The page as one shell script. A server in it is waited for; a page that starts none finds one, with a layer."""
    lines = ["set -eE", """trap 'echo "failed: $at" >&2' ERR""", "background=()", "at='the network'", "ip link set lo up"]
    page_commands = RUNNABLE[page]
    if not any(command.startswith("normd ") for _, command in page_commands):
        page_commands = [(0, "normd &"), (0, "normctl layer create encoder.bn1 --num-channels 2"), *page_commands]
    for line, command in page_commands:
        at = f"{name(page)}:{line}: {command}"
        if command in UNTIL_INTERRUPTED:
            stopped = f"timeout --foreground --preserve-status --signal=INT 3 {command}"
            command = f"script --quiet --return --command {shlex.quote(stopped)} /dev/null"
        lines += [f"at={shlex.quote(at)}", 'echo "+ $at" >&2', command.replace("/tmp/", f"{folder}/")]
        if command.endswith("&"):
            lines.append("background+=($!)")
        if command.startswith("normd "):
            lines.append("until normctl layer list &>/dev/null; do kill -0 $!; done")
    # What was put in the background works still: none of it ends by itself.
    lines += ["at='in the background'", 'for process in "${background[@]}"; do kill -0 "$process"; done']
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("page", [page for page in PAGES if RUNNABLE[page]], ids=name)
def test_commands(page: Path, tmp_path: Path) -> None:
    server = normd_binary().resolve()
    path = [server.parent, server.parents[2] / "client/cli", Path(sys.executable).parent]
    if any(command.startswith("buf ") for _, command in RUNNABLE[page]):
        buf = subprocess.run([REPOSITORY / "tests/buf.sh"], stdout=subprocess.PIPE, text=True, check=True)
        path.append(Path(buf.stdout.strip()).parent)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NORMD_")}
    environment |= {"PATH": ":".join([*map(str, path), os.environ["PATH"]]), "HOME": str(tmp_path),
                    "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm"}
    write_files(tmp_path)
    (tmp_path / "page.sh").write_text(script(page, tmp_path))
    # A process namespace too: with its shell everything ends that the page has left running.
    isolated = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--net", "--pid", "--fork", "--kill-child"]
    log = tmp_path / "page.log"
    with log.open("w") as output:
        done = subprocess.run([*isolated, "bash", "page.sh"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
                              stdout=output, stderr=output, timeout=LONG)
    assert done.returncode == 0, log.read_text()[-6000:]


def test_what_runs_elsewhere_is_in_the_documentation() -> None:
    documented = {(name(page), command) for page, found in COMMANDS.items() for _, command in found}
    assert set(ELSEWHERE) <= documented
    assert UNTIL_INTERRUPTED <= {command for _, command in documented}


def test_blocks_of_commands_are_marked_sh() -> None:
    other = [f"{name(page)}: {block[2]}" for page in PAGES for block in FENCE.finditer(page.read_text())
             if block[2] in ("bash", "console", "shell", "zsh")]
    assert not other, "these would not be run"
