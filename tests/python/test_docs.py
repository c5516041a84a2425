"""Every block of Python in the documentation runs: those of a file in order, in one namespace, against one server.

A block may use names that a reader has, such as a policy or an environment: `given` lists them. Loops that would go on
for ever are ended by those things. An address in the text stands for the server's.
"""

from __future__ import annotations

import io
import re
import subprocess
import threading
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import normd
from conftest import REPOSITORY, Server, running
from test_sb3 import FLAT, Environments

# Longer than the blocks of any file take.
LONG = 60.0
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILES = sorted(path for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("client/**/*.md"),
                                 *REPOSITORY.glob("docs/**/*.md")] if BLOCK.search(path.read_text()))


class Enough(Exception):
    """The block has shown what it shows."""


class AFewTimes:
    """True so often, False once, and again."""

    def __init__(self, times: int) -> None:
        self.times, self.left = times, times

    def __bool__(self) -> bool:
        self.left = self.times if self.left == 0 else self.left - 1
        return self.left > 0


class Cache(dict[str, Any]):
    """Takes in what a watch tells, and ends the watch."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) == 3:
            raise Enough


class Environment:
    """Of Gym's old kind."""

    observation_space = FLAT

    def reset(self) -> np.ndarray:
        return np.ones((1, 3))

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        return np.random.default_rng(0).standard_normal((1, 3)), 0.0, False, {}


class Dataset:
    def read_into(self, x: np.ndarray) -> None:
        x[...] = 1


def given() -> dict[str, Any]:
    """What the reader has."""
    rng = np.random.default_rng(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    return {"__name__": "__main__", "env": Environment(), "policy": lambda observations: None, "training": AFewTimes(5),
            "cache": Cache(), "dataset": Dataset(), "file": io.BytesIO(), "model": model,
            "observations": rng.standard_normal((8, 17)), "make_vec_env": lambda: Environments(FLAT),
            "batches": [rng.standard_normal((4, 8, 6, 6)) for _ in range(5)]}


def write_files() -> None:
    """What the reader has in the folder."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=reader", "-keyout", "ca.key",
                    "-out", "ca.pem"], check=True, capture_output=True)
    Path("trainer.token").write_text("normd_token\n")
    np.save("activations.npy", np.random.default_rng(0).standard_normal((100, 8, 6, 6)))
    arrays = {name: np.ones(8, np.float32) for name in ("scale", "bias", "mean", "var")}
    node = helper.make_node("BatchNormalization", ["x", *arrays], ["y"], name="bn1")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:],
                              [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)]), "in.onnx")


def blocks(path: Path, server: Server) -> Iterator[Any]:
    """Compiled, with the lines of the file."""
    text = path.read_text()
    for found in BLOCK.finditer(text):
        source = found[1].replace("127.0.0.1:50051", server.tcp).replace("unix:/run/normd/normd.sock", server.unix)
        yield compile("\n" * text.count("\n", 0, found.start(1)) + source, str(path), "exec")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path, "--store", f"sqlite:{tmp_path / 'normd.db'}", "--shared-memory") as started:
        yield started


@pytest.mark.filterwarnings("error::normd.TransportWarning")
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_blocks(own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_files()
    names = given()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for code in blocks(path, own_server):
                try:
                    exec(code, names)
                except Enough:
                    pass
        except BaseException as failure:
            failures.append(failure)

    # In a thread, since a block that waits for what never comes must not end the test run.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(LONG)
    assert not reader.is_alive(), "a block does not end"
    if failures:
        raise failures[0]
    for value in names.values():
        if isinstance(value, normd.Client):
            value.close()


def test_the_files_are_there() -> None:
    found = {str(path.relative_to(REPOSITORY)) for path in FILES}
    assert {"README.md", "client/python/README.md", "docs/cookbook.md"} <= found
