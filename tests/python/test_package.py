"""The package builds from the checkout and from its own source distribution, and its example runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import normd
from conftest import REPOSITORY, Server

PACKAGE = REPOSITORY / "client/python"
STUBS = {f"normd/v1/{name}" for name in (
    "__init__.py", "tensor_pb2.py", "tensor_pb2.pyi", "resources_pb2.py", "layer_service_pb2.py",
    "layer_service_pb2_grpc.py", "normalization_service_pb2.py", "normalization_service_pb2_grpc.py",
    "shared_memory_service_pb2.py", "shared_memory_service_pb2_grpc.py", "snapshot_service_pb2.py",
    "snapshot_service_pb2_grpc.py")}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index",
       "--no-build-isolation", "--no-deps"]


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def listing() -> set[Path]:
    return {path for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts}


def test_wheel_from_the_checkout(tmp_path: Path) -> None:
    before = listing()
    subprocess.run([*PIP, "-w", tmp_path, PACKAGE], check=True)
    wheel, = tmp_path.glob("normd-*.whl")
    assert STUBS | {"normd/py.typed", "normd/client.py", "normd/torch.py"} <= files_of(wheel)
    assert listing() == before, "a build leaves the checkout clean"


def test_source_distribution_stands_alone(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path], cwd=PACKAGE, check=True)
    archive, = tmp_path.glob("normd-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "out")
    source, = (tmp_path / "out").iterdir()
    subprocess.run([*PIP, "-w", tmp_path, source], check=True)
    wheel, = tmp_path.glob("normd-*.whl")
    assert STUBS <= files_of(wheel)


def test_missing_protoc_is_named(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "setup.py", "-q", "build", "--build-base", tmp_path], cwd=PACKAGE,
                            env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode != 0
    assert "protoc and grpc_python_plugin not found on PATH" in result.stderr


def test_client_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import normd; normd.Client('127.0.0.1:1').close()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_example(client: normd.Client, server: Server, tmp_path: Path) -> None:
    sample = tmp_path / "x.npy"
    command = [sys.executable, PACKAGE / "examples/digits.py", "--server", server.tcp, "--epochs", "3", "--seed", "1",
               "--sample-out", sample]
    for _ in range(2):  # The second time, the layers are there already.
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        accuracies = [float(value) for value in re.search(r"test accuracy +([\d.]+)% +([\d.]+)%\n", output).groups()]
        assert min(accuracies) > 93
        assert accuracies[0] == accuracies[1]
        assert float(re.search(r"running statistics: (\S+)", output).group(1)) < 1e-9
        assert float(re.search(r"gamma and beta: +(\S+)", output).group(1)) < 1e-9
    layers = list(client.list_layers("digits.", with_state=True))
    assert [layer.name for layer in layers] == ["digits.bn1", "digits.bn2"]
    assert layers[0].state.num_batches_tracked == 3 * 23
    assert client.infer("digits.bn1", np.load(sample)).output.shape == (4, 16, 8, 8)


@pytest.mark.parametrize("arguments, message", [(["--epochs", "0"], "want at least 1"),
                                                (["--server", "127.0.0.1:1"], "UNAVAILABLE")])
def test_digits_example_says_what_is_wrong(arguments: list[str], message: str) -> None:
    command = [sys.executable, PACKAGE / "examples/digits.py", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0 and message in result.stderr and "Traceback" not in result.stderr
