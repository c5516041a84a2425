"""NumPy arrays <-> tensors on the wire."""

from __future__ import annotations

import math
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt

# Any to mypy: see pyproject.toml.
from normd.v1 import tensor_pb2
from normd.errors import Code, Error
from normd.types import FloatArray, Layout

# NumPy has no bfloat16: its bits, in a dtype that is mistaken for no other. For normd.torch.
BFLOAT16_BITS: np.dtype[Any] = np.dtype([("bfloat16", "<i2")])
_DTYPES: dict[np.dtype[Any], int] = {np.dtype("<f2"): tensor_pb2.DATA_TYPE_FLOAT16,
                                     np.dtype("<f4"): tensor_pb2.DATA_TYPE_FLOAT32,
                                     np.dtype("<f8"): tensor_pb2.DATA_TYPE_FLOAT64,
                                     BFLOAT16_BITS: tensor_pb2.DATA_TYPE_BFLOAT16}
_NUMPY_DTYPES: dict[int, np.dtype[Any]] = {value: key for key, value in _DTYPES.items()}
_NATIVE_DTYPES: dict[int, np.dtype[Any]] = {value: key.newbyteorder("=") for key, value in _DTYPES.items()}
_LAYOUTS = {"channels_first": tensor_pb2.LAYOUT_CHANNELS_FIRST, "channels_last": tensor_pb2.LAYOUT_CHANNELS_LAST}


def wire_dtype(dtype: np.dtype[Any], what: str) -> np.dtype[Any]:
    """The little-endian form of an element type that travels; `what` names the array in error messages."""
    found: np.dtype[Any] = dtype.newbyteorder("<")
    if found not in _DTYPES:
        raise TypeError(f"{what} has dtype {dtype}, want float16, float32 or float64: convert it with .astype()")
    return found


def header(dtype: np.dtype[Any], shape: tuple[int, ...], layout: Layout) -> Any:
    """A Tensor message without elements."""
    if layout not in _LAYOUTS:
        raise ValueError(f"layout is {layout!r}, want 'channels_first' or 'channels_last'")
    return tensor_pb2.Tensor(dtype=_DTYPES[dtype], shape=shape, layout=_LAYOUTS[layout])


def elements(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    """The elements as they travel; a view of a contiguous little-endian array, a copy of any other."""
    rows = np.ascontiguousarray(array.astype(dtype, copy=False))
    # By way of NumPy: a memoryview casts neither records nor what is empty.
    return rows.reshape(-1).view(np.uint8).data


def check_out(out: Any, like: FloatArray) -> None:
    """Raises TypeError or ValueError unless a result like `like` can be written to `out`."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is a {type(out).__name__}, want a numpy.ndarray")
    native = like.dtype.newbyteorder("=")
    if out.dtype != native:
        raise TypeError(f"out has dtype {out.dtype}, want {native}")
    if out.shape != like.shape:
        raise ValueError(f"out has shape {out.shape}, want {like.shape}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out is not C-contiguous and writable")


def to_array(tensor: Any, data: Optional[memoryview], out: Optional[FloatArray] = None) -> FloatArray:
    """The elements of an answer, copied once, to `out` or to a writable array of their own.

    That copy takes about 5 % of a call's time. Without it the array would be a view of a bytes object, which is
    read-only, and users write to results: torch's in-place ReLU does.
    """
    dtype, shape = _NUMPY_DTYPES.get(tensor.dtype), tuple(tensor.shape)
    source: Union[bytes, memoryview] = tensor.data if data is None else data
    if dtype is None or len(source) != math.prod(shape) * dtype.itemsize:
        raise Error(Code.INTERNAL, f"the answer's tensor does not make sense: dtype {tensor.dtype}, shape {shape}, "
                                   f"{len(source)} bytes")
    array: FloatArray = np.frombuffer(source, dtype).reshape(shape)
    if out is None:
        return array.astype(_NATIVE_DTYPES[tensor.dtype])
    if out.shape != shape or out.dtype != _NATIVE_DTYPES[tensor.dtype]:
        raise Error(Code.INTERNAL, f"the answer's tensor has shape {shape} and dtype {dtype}, want {out.shape} and "
                                   f"{out.dtype}")
    copy_elements(out, array)
    return out


def copy_elements(to: FloatArray, source: FloatArray) -> None:
    """to[...] = source, for arrays that differ in strides and byte order at most."""
    if to.dtype.fields is not None:
        # NumPy copies records one by one.
        to, source = to.view("<i2"), _bits(source)
    np.copyto(to, source)


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Records of one number as that number, whatever the strides."""
    field: npt.NDArray[Any] = array["bfloat16"]
    return field
