"""The package builds from the checkout and from its own source distribution, and its example runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normd
from conftest import REPOSITORY, Server

PACKAGE = REPOSITORY / "client/python"
STUBS = {f"normd/v1/{name}" for name in (
    "__init__.py", "admin_service_pb2.py", "admin_service_pb2_grpc.py", "tensor_pb2.py", "tensor_pb2.pyi",
    "resources_pb2.py", "layer_service_pb2.py", "layer_service_pb2_grpc.py", "normalization_service_pb2.py", "normalization_service_pb2_grpc.py",
    "shared_memory_service_pb2.py", "shared_memory_service_pb2_grpc.py", "snapshot_service_pb2.py",
    "snapshot_service_pb2_grpc.py")}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index",
       "--no-build-isolation", "--no-deps"]


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def listing() -> set[Path]:
    return {path for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts}


# What is in the package, apart from the generated modules.
MODULES = {f"normd/{path.relative_to(PACKAGE / 'normd')}" for path in (PACKAGE / "normd").rglob("*.py")
           if "v1" not in path.parts} | {"normd/py.typed"}


def build_wheel(source: Path, folder: Path) -> Path:
    subprocess.run([*PIP, "-w", folder, source], check=True)
    wheel, = folder.glob("normd-*.whl")
    return wheel


def build_sdist(folder: Path) -> Path:
    subprocess.run([sys.executable, "setup.py", "-q", "sdist", "--dist-dir", folder], cwd=PACKAGE, check=True)
    archive, = folder.glob("normd-*.tar.gz")
    return archive


def test_wheel_from_the_checkout(tmp_path: Path) -> None:
    before = listing()
    files = files_of(build_wheel(PACKAGE, tmp_path))
    assert STUBS | MODULES <= files
    assert listing() == before, "a build leaves the checkout clean"


def test_source_distribution_stands_alone(tmp_path: Path) -> None:
    with tarfile.open(build_sdist(tmp_path)) as tar:
        tar.extractall(tmp_path / "out")
    source, = (tmp_path / "out").iterdir()
    assert STUBS | MODULES <= files_of(build_wheel(source, tmp_path))


# Everything that can be imported, in a folder without sources, and a call.
TRY = """
import importlib, pkgutil, sys
import normd
assert normd.__path__[0].startswith(sys.prefix), normd.__path__
for module in pkgutil.walk_packages(normd.__path__, "normd."):
    importlib.import_module(module.name)
with normd.Client(sys.argv[1]) as client:
    print(client.create_layer(sys.argv[2], 3).name)
"""


@pytest.mark.parametrize("build", [build_sdist, lambda folder: build_wheel(PACKAGE, folder)], ids=["sdist", "wheel"])
def test_installed_in_an_environment_of_its_own(server: Server, layer: str, tmp_path: Path, build: Any) -> None:
    """As pip does it, but without network: what it depends on comes from Debian."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", venv], check=True)
    python = venv / "bin/python"
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index",
                    "--no-build-isolation", "--no-deps", build(tmp_path)], check=True)
    result = subprocess.run([python, "-I", "-c", TRY, server.tcp, layer], check=True, capture_output=True, text=True,
                            cwd=tmp_path)
    assert result.stdout == layer + "\n"
    # Types are for whoever uses it.
    user = tmp_path / "user.py"
    user.write_text("import normd\nreveal_type(normd.Client().infer('a', [1.0]).version)\n")
    checked = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--python-executable", python, user],
                             capture_output=True, text=True, cwd=tmp_path)
    assert 'Revealed type is "builtins.int"' in checked.stdout
    assert re.search(r'Argument 2 to "infer" .* incompatible type', checked.stdout), "list[float] is no array"


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
