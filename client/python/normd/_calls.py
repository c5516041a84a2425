"""The four calls that carry tensors: what they ask, apart from how it gets there.

Client sends one at a time, in band or through shared memory; Steps sends many on one stream.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Callable, Generic, NamedTuple, Optional, TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from normd import _convert, _tensors, _wire
from normd._convert import PerChannel
from normd.errors import Code, Error
from normd.types import BackwardResult, FloatArray, InferResult, Layout, Optimizer, TrainStepResult
from normd.v1 import normalization_service_pb2 as pb

R = TypeVar("R")

# The messages of answers, by method.
ANSWERS: dict[str, Any] = {name: getattr(pb, name + "Response")
                           for name in ("TrainStep", "Infer", "Denormalize", "Backward")}
# Tensor.data in the first field of an answer, which is the tensor in all four.
ANSWER_PATH: _wire.Path = (frozenset((1,)), frozenset((4,)))
_DATA = pb.InferRequest.DESCRIPTOR.fields_by_name["x"].message_type.fields_by_name["data"].number


class Input(NamedTuple):
    """A tensor of a request: its field, the caller's array, and how it travels."""

    name: str
    array: FloatArray
    dtype: np.dtype[Any]
    # The message. Without elements, unless whole() has put a few there.
    tensor: Any


@dataclass(eq=False)
class TensorCall(Generic[R]):
    """One call.

    Attributes:
        method: name of the unary method.
        request: the message, without its tensors.
        inputs: the tensors. The result is like the first and may take the place of the last.
        output: the answer's field of the result, "" if none is wanted.
        read: makes the call's value of the answer and of the result's array.
    """

    method: str
    request: Any
    inputs: tuple[Input, ...]
    output: str
    read: Callable[[Any, Optional[FloatArray]], R]

    def check_out(self, out: FloatArray) -> None:
        """Raises TypeError or ValueError if the result cannot go to `out`."""
        if not self.output:
            raise ValueError("out is given to a call that returns no tensor")
        _tensors.check_out(out, self.inputs[0].array)

    @property
    def small(self) -> bool:
        """Whether protobuf's own copies cost less than ours would save."""
        return self.inputs[0].array.nbytes < _wire.SPLIT_FROM

    def whole(self) -> Any:
        """The message with its tensors in band. For small ones: copies twice."""
        for name, array, dtype, tensor in self.inputs:
            tensor.data = array.astype(dtype, copy=False).tobytes()
            getattr(self.request, name).CopyFrom(tensor)
        return self.request

    def parts(self) -> list[_wire.Buffer]:
        """The request with its tensors in band, for _wire.join."""
        if self.small:
            return [self.whole().SerializeToString()]
        parts: list[_wire.Buffer] = [self.request.SerializeToString()]
        fields = self.request.DESCRIPTOR.fields_by_name
        for tensor in self.inputs:
            data = _wire.field(_DATA, [_tensors.elements(tensor.array, tensor.dtype)])
            parts += _wire.field(fields[tensor.name].number, [tensor.tensor.SerializeToString(), *data])
        return parts

    def value(self, data: bytes, out: Optional[FloatArray]) -> R:
        """The call's value, of an answer with its tensor in band."""
        try:
            if len(data) < _wire.SPLIT_FROM:
                return self.value_of(ANSWERS[self.method].FromString(data), None, out)
            return self.value_of(*_wire.split(ANSWERS[self.method], data, ANSWER_PATH), out)
        except DecodeError as broken:
            raise Error(Code.INTERNAL, f"the answer cannot be read: {broken}") from None

    def value_of(self, answer: Any, elements: Optional[memoryview], out: Optional[FloatArray]) -> R:
        """The same, of an answer that is parsed."""
        if not self.output or not answer.HasField(self.output):
            return self.read(answer, None)
        return self.read(answer, _tensors.to_array(getattr(answer, self.output), elements, out))


def request_id(given: Optional[str]) -> str:
    """A call's request_id: the caller's, or a new one."""
    return str(uuid.uuid4()) if given is None else given


def train_step(layer: str, x: FloatArray, layout: Layout, gamma: Optional[PerChannel], beta: Optional[PerChannel],
               omit_output: bool, skip_update: bool, given_id: Optional[str]) -> TensorCall[TrainStepResult]:
    """See Client.train_step."""
    request = train_step_request(layer, gamma, beta, omit_output, skip_update, given_id)
    return TensorCall("TrainStep", request, (_input("x", x, layout),), "" if omit_output else "y",
                      train_step_result)


def train_step_request(layer: str, gamma: Optional[PerChannel], beta: Optional[PerChannel], omit_output: bool,
                       skip_update: bool, given_id: Optional[str]) -> Any:
    """The message, without x."""
    return pb.TrainStepRequest(layer=layer, gamma=_convert.to_doubles(gamma, "gamma"),
                               beta=_convert.to_doubles(beta, "beta"), omit_output=omit_output,
                               skip_update=skip_update, request_id=request_id(given_id))


def train_step_result(answer: Any, y: Optional[FloatArray]) -> TrainStepResult:
    """The value of a TrainStepResponse."""
    return TrainStepResult(
        y=y, batch_mean=_convert.per_channel(answer.batch_mean), batch_var=_convert.per_channel(answer.batch_var),
        version=answer.version, content_hash=answer.content_hash, num_batches_tracked=answer.num_batches_tracked,
        skipped_channels=_convert.indices(answer.skipped_channels), replayed=answer.replayed)


def infer(layer: str, x: FloatArray, layout: Layout, version: int) -> TensorCall[InferResult]:
    """See Client.infer."""
    request = pb.InferRequest(layer=layer, version=version)
    return TensorCall("Infer", request, (_input("x", x, layout),), "y", _infer_result)


def denormalize(layer: str, y: FloatArray, layout: Layout, version: int) -> TensorCall[InferResult]:
    """See Client.denormalize."""
    request = pb.DenormalizeRequest(layer=layer, version=version)
    return TensorCall("Denormalize", request, (_input("y", y, layout),), "x", _infer_result)


def backward(layer: str, x: FloatArray, dy: FloatArray, layout: Layout, batch_mean: Optional[PerChannel],
             batch_var: Optional[PerChannel], frozen: bool, gamma: Optional[PerChannel],
             optimizer: Optional[Optimizer], omit_dx: bool, version: int,
             given_id: Optional[str]) -> TensorCall[BackwardResult]:
    """See Client.backward."""
    request = pb.BackwardRequest(
        layer=layer, mode=pb.BACKWARD_MODE_FROZEN if frozen else pb.BACKWARD_MODE_TRAINING,
        batch_mean=_convert.to_doubles(batch_mean, "batch_mean"),
        batch_var=_convert.to_doubles(batch_var, "batch_var"), gamma=_convert.to_doubles(gamma, "gamma"),
        omit_dx=omit_dx, version=version, request_id=request_id(given_id))
    _convert.set_optimizer(request, optimizer)
    inputs = (_input("x", x, layout), _input("dy", dy, layout))
    return TensorCall("Backward", request, inputs, "" if omit_dx else "dx", _backward_result)


def _infer_result(answer: Any, output: Optional[FloatArray]) -> InferResult:
    if output is None:
        raise Error(Code.INTERNAL, "the answer has no tensor")
    return InferResult(output=output, version=answer.version, content_hash=answer.content_hash)


def _backward_result(answer: Any, dx: Optional[FloatArray]) -> BackwardResult:
    return BackwardResult(
        dx=dx, dgamma=_convert.per_channel(answer.dgamma), dbeta=_convert.per_channel(answer.dbeta),
        gamma=_convert.per_channel(answer.gamma), beta=_convert.per_channel(answer.beta),
        version=answer.version, content_hash=answer.content_hash, replayed=answer.replayed)


def _input(name: str, given: Any, layout: Layout) -> Input:
    array = np.asarray(given)
    dtype = _tensors.wire_dtype(array.dtype, name)
    return Input(name, array, dtype, _tensors.header(dtype, array.shape, layout))
