"""Builds the package: everything stands in pyproject.toml, but for the stubs, which protoc writes from the protos."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import BaseError

HERE = Path(__file__).resolve().parent
PROTO_FILES = [f"normd/v1/{name}.proto" for name in ("admin_service", "error_details", "tensor", "resources",
                                                     "layer_service", "normalization_service",
                                                     "shared_memory_service", "snapshot_service")]


class BuildError(BaseError):
    """Something that the build needs is not there."""


def proto_root() -> Path:
    """The folder of the protos: beside this file in a source distribution, at the top of the repository otherwise."""
    for root in (HERE / "proto", HERE.parent.parent / "proto"):
        if (root / PROTO_FILES[0]).is_file():
            return root
    raise BuildError(f"no {PROTO_FILES[0]} in {HERE / 'proto'} or {HERE.parent.parent / 'proto'}: "
                     "install from a checkout of normd (pip install ./client/python) or from a source distribution")


def generate_stubs(target: Path) -> list[str]:
    """Writes the modules normd.v1.*_pb2 and *_pb2_grpc below `target`; returns their paths."""
    protoc = shutil.which("protoc")
    plugin = shutil.which("grpc_python_plugin")
    missing = [name for name, path in (("protoc", protoc), ("grpc_python_plugin", plugin)) if path is None]
    if missing or protoc is None:
        raise BuildError(f"{' and '.join(missing)} not found on PATH, needed to generate the gRPC stubs: "
                         "install Debian's protobuf-compiler and protobuf-compiler-grpc, or their equal")
    target.mkdir(parents=True, exist_ok=True)
    command = [protoc, f"--proto_path={proto_root()}", f"--python_out={target}", f"--pyi_out={target}",
               f"--grpc_python_out={target}", f"--plugin=protoc-gen-grpc_python={plugin}", *PROTO_FILES]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise BuildError(f"protoc failed:\n{result.stderr}")
    package = target / "normd" / "v1"
    (package / "__init__.py").write_text('"""Generated from proto/normd/v1; use the package normd instead."""\n')
    return [str(path) for path in sorted(package.iterdir()) if path.suffix in (".py", ".pyi")]


class BuildWithStubs(build_py):
    """build_py, and the stubs."""

    stubs: list[str] = []

    def run(self) -> None:
        super().run()
        # An editable install imports the sources in place, so the stubs go beside them (git ignores them).
        self.stubs = generate_stubs(HERE if self.editable_mode else Path(self.build_lib))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return list(super().get_outputs(include_bytecode)) + self.stubs


class SdistWithProtos(sdist):
    """sdist, and the protos, so that it can be built away from the repository."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for name in PROTO_FILES:
            target = Path(base_dir) / "proto" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(proto_root() / name, target)


# Build outside the source tree: a checkout stays clean, and two builds at once do not meet.
with tempfile.TemporaryDirectory(prefix="normd-python-") as scratch:
    setup(cmdclass={"build_py": BuildWithStubs, "sdist": SdistWithProtos},
          options={"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}})
