"""Named arrays in files: NumPy's .npz, and safetensors (a JSON header and bytes). Never pickle.

    arrays = load("bn.safetensors")
    save("bn.npz", arrays)
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np
import numpy.typing as npt

__all__ = ["StateFileError", "load", "save"]

Array = npt.NDArray[Any]
PathLike = Union[str, "os.PathLike[str]"]

# Little-endian, as safetensors has them. BF16 is not a type of NumPy's: it is read as float32, which holds it exactly.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}
_BFLOAT16 = "BF16"
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

# The format's own limit.
_MAX_HEADER_BYTES = 100_000_000
_PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"}


class StateFileError(ValueError):
    """A file that cannot be read or written as asked; names the file and what is wrong."""


def load(path: PathLike) -> dict[str, Array]:
    """The arrays of a .npz or .safetensors file, by name.

    Raises:
        StateFileError: the file is damaged, of another kind, or needs pickle.
        OSError: it cannot be read.
    """
    file = Path(path)
    if file.suffix == ".npz":
        return _load_npz(file)
    if file.suffix == ".safetensors":
        return _load_safetensors(file)
    raise _unknown_kind(file)


def save(path: PathLike, arrays: Mapping[str, Array]) -> None:
    """Writes arrays to a .npz or .safetensors file, replacing it as a whole: no reader sees a part of it.

    Raises:
        StateFileError: the ending is another, or safetensors has no such dtype.
        OSError: it cannot be written.
    """
    file = Path(path)
    if file.suffix not in (".npz", ".safetensors"):
        raise _unknown_kind(file)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as out:
            if file.suffix == ".npz":
                _write_npz(file, out, arrays)
            else:
                _write_safetensors(file, out, arrays)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _unknown_kind(file: Path) -> StateFileError:
    if file.suffix in _PICKLES:
        return StateFileError(
            f"{file}: may hold a pickle, which can run any code and is never read; convert it where it comes from: "
            "numpy.savez('state.npz', **{k: v.numpy() for k, v in state_dict.items()})")
    return StateFileError(f"{file}: the ending is {file.suffix!r}, want .npz or .safetensors")


def _load_npz(file: Path) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError:
        raise
    except Exception as error:  # zipfile's and numpy's own, of many kinds.
        raise StateFileError(f"{file}: cannot be read as .npz without pickle: {error}") from error


def _write_npz(file: Path, out: Any, arrays: Mapping[str, Array]) -> None:
    # Not numpy.savez, which pickles what it cannot write and has names that an array may not have.
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            try:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(  # type: ignore[no-untyped-call]
                        member, np.asarray(array), allow_pickle=False)
            except ValueError as error:
                raise StateFileError(f"{file}: array {name!r}: {error}") from error


def _load_safetensors(file: Path) -> dict[str, Array]:
    data = file.read_bytes()
    if len(data) < 8:
        raise StateFileError(f"{file}: has {len(data)} bytes, want at least 8")
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise StateFileError(f"{file}: says that its header has {header_bytes} bytes, but {len(data) - 8} follow")
    try:
        header = json.loads(data[8:8 + header_bytes].decode("utf-8"), object_pairs_hook=_without_repetitions)
    except (ValueError, RecursionError) as error:
        raise StateFileError(f"{file}: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise StateFileError(f"{file}: the header is not a JSON object")
    body = memoryview(data)[8 + header_bytes:]
    header.pop("__metadata__", None)
    arrays = {}
    spans = []
    for name, entry in header.items():
        array, begin, end = _tensor(f"{file}: tensor {name!r}", entry, body)
        arrays[name] = array
        spans.append((begin, end, name))
    # The bytes belong to one tensor each, without gaps: nothing is hidden between them.
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise StateFileError(f"{file}: tensor {name!r} begins at byte {begin}, want {position}")
        position = end
    if position != len(body):
        raise StateFileError(f"{file}: {len(body) - position} bytes behind the last tensor")
    return arrays


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands in it twice")
    return result


def _tensor(what: str, entry: Any, body: memoryview) -> tuple[Array, int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise StateFileError(f"{what}: want dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or (dtype not in _DTYPES and dtype != _BFLOAT16):
        raise StateFileError(f"{what}: dtype is {dtype!r}, want one of {', '.join([*_DTYPES, _BFLOAT16])}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise StateFileError(f"{what}: shape is {shape!r} and data_offsets {offsets!r}, want sizes")
    begin, end = offsets
    item_bytes = 2 if dtype == _BFLOAT16 else _DTYPES[dtype].itemsize
    want = math.prod(shape) * item_bytes
    if not begin <= end <= len(body) or end - begin != want:
        raise StateFileError(f"{what}: data_offsets are {begin} to {end} of {len(body)} bytes, want {want} bytes")
    if dtype == _BFLOAT16:
        bits = np.frombuffer(body[begin:end], np.dtype("<u2")).astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).reshape(shape), begin, end
    return np.frombuffer(body[begin:end], _DTYPES[dtype]).reshape(shape).copy(), begin, end


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= 32 and all(type(v) is int and 0 <= v < 2**48 for v in values)


def _write_safetensors(file: Path, out: Any, arrays: Mapping[str, Array]) -> None:
    header: dict[str, Any] = {}
    chunks = []
    position = 0
    for name, value in arrays.items():
        array = np.asarray(value)
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise StateFileError(f"{file}: tensor {name!r}: dtype is {array.dtype}, want one of "
                                 f"{', '.join(str(d) for d in _NAMES)}")
        # Not numpy.ascontiguousarray, which makes a scalar a list.
        data = array.astype(dtype, copy=False).tobytes()
        header[name] = {"dtype": _NAMES[dtype], "shape": list(array.shape),
                        "data_offsets": [position, position + len(data)]}
        chunks.append(data)
        position += len(data)
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8")
    # The tensors begin at a multiple of 8 bytes.
    encoded += b" " * (-len(encoded) % 8)
    out.write(len(encoded).to_bytes(8, "little"))
    out.write(encoded)
    for chunk in chunks:
        out.write(chunk)
