"""What is read without protobuf's copy is what protobuf reads, whatever the bytes."""

from __future__ import annotations

import random
from typing import Any, Iterator

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from normd import _calls, _wire
from normd.v1 import normalization_service_pb2 as pb
from normd.v1 import tensor_pb2

ANSWERS = {name: getattr(pb, name + "Response") for name in ("TrainStep", "Infer", "Denormalize", "Backward")}
# What protobuf says of a group's end without its start, either way.
pytestmark = pytest.mark.filterwarnings("ignore:Unexpected end-group tag")
STEPS_PATH: _wire.Path = (frozenset((3, 4, 5, 6)), *_calls.ANSWER_PATH)


@pytest.fixture(autouse=True)
def split_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_wire, "SPLIT_FROM", 0)


def tensor_of(message: Any, path: _wire.Path) -> Any:
    """The tensor that the path leads to; None if it is absent."""
    for numbers in path[:-1]:
        fields = [field for field, _ in message.ListFields() if field.number in numbers]
        if not fields:
            return None
        message = getattr(message, fields[0].name)
    return message


def check(kind: Any, data: bytes, path: _wire.Path) -> bool:
    """Compares with the generated parser; whether the data was cut out."""
    try:
        want = kind.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            _wire.split(kind, data, path)
        return False
    got, view = _wire.split(kind, data, path)
    if view is not None:
        tensor = tensor_of(got, path)
        assert tensor.data == b""
        tensor.data = bytes(view)
    # As bytes, where unknown fields stand too and NaN is itself.
    assert got.SerializeToString() == want.SerializeToString()
    return view is not None


def field(number: int, kind: int, content: bytes) -> bytes:
    return _wire.varint(number << 3 | kind) + content


def delimited(number: int, content: bytes) -> bytes:
    return field(number, 2, _wire.varint(len(content)) + content)


def random_fields(draw: random.Random, depth: int = 0) -> bytes:
    """Fields as a careless or hostile writer gives them: any order, repeated, unknown, lengths written long."""
    parts = []
    for _ in range(draw.randrange(7)):
        number = draw.choice((1, 1, 2, 3, 4, 4, 5, 6, 7, 15, 16, 1000))
        choice = draw.randrange(12)
        if choice < 4 and depth < 3:
            parts.append(delimited(number, random_fields(draw, depth + 1)))
        elif choice < 8:
            parts.append(delimited(number, draw.randbytes(draw.choice((0, 1, 3, 8, 127, 128, 300)))))
        elif choice == 8:
            parts.append(field(number, 0, _wire.varint(draw.getrandbits(draw.choice((1, 7, 8, 40, 64))))))
        elif choice == 9:
            parts.append(field(number, *draw.choice(((1, draw.randbytes(8)), (5, draw.randbytes(4))))))
        elif choice == 10:
            parts.append(field(number, 3, random_fields(draw, depth + 1)) + field(number, 4, b""))
        else:
            content = draw.randbytes(20)
            parts.append(field(number, 2, b"\x94\x80\x80\x00" + content))
    return b"".join(parts)


def plausible(draw: random.Random) -> Iterator[tuple[Any, bytes, _wire.Path]]:
    """Answers as a server writes them."""
    shape = [draw.getrandbits(draw.randrange(1, 60))] * draw.randrange(5)
    tensor = tensor_pb2.Tensor(dtype=draw.randrange(6), shape=shape, layout=draw.randrange(3),
                               data=draw.randbytes(draw.choice((0, 1, 100, 127, 128, 20000))))
    doubles = [draw.random() for _ in range(draw.choice((0, 3, 40)))]
    infer = pb.InferResponse(y=tensor, version=draw.getrandbits(40), content_hash="ab" * 32)
    train = pb.TrainStepResponse(y=tensor, batch_mean=doubles, batch_var=doubles, version=7, skipped_channels=[1, 2])
    backward = pb.BackwardResponse(dx=tensor, dgamma=doubles, dbeta=doubles, replayed=True)
    for message in (infer, train, backward):
        yield type(message), message.SerializeToString(), _calls.ANSWER_PATH
    for step in (pb.StepsResponse(id=5, infer=infer), pb.StepsResponse(id=-1, train_step=train),
                 pb.StepsResponse(backward=backward), pb.StepsResponse(id=3, status=pb.CallStatus(code=5))):
        yield pb.StepsResponse, step.SerializeToString(), STEPS_PATH


def test_answers_of_servers_are_split() -> None:
    draw = random.Random(1)
    for _ in range(300):
        for kind, data, path in plausible(draw):
            has_data = (tensor := tensor_of(kind.FromString(data), path)) is not None and bool(tensor.data)
            assert check(kind, data, path) == has_data


def test_mutated_answers() -> None:
    draw = random.Random(2)
    cut_out = 0
    for _ in range(400):
        for kind, data, path in plausible(draw):
            mutated = bytearray(data)
            for _ in range(draw.randrange(1, 4)):
                position = draw.randrange(min(len(mutated), draw.choice((8, 40, 1 << 20))) or 1)
                choice = draw.randrange(4)
                if choice == 0:
                    mutated[position:position + 1] = bytes((draw.randrange(256),))
                elif choice == 1:
                    del mutated[position:position + draw.choice((1, 2, 50))]
                elif choice == 2:
                    mutated[position:position] = draw.randbytes(draw.choice((1, 2, 9)))
                else:
                    mutated += data[:draw.randrange(len(data) + 1)]
            cut_out += check(kind, bytes(mutated), path)
    assert cut_out > 100


def test_random_fields() -> None:
    draw = random.Random(3)
    cut_out = 0
    for _ in range(20000):
        kind = draw.choice((*ANSWERS.values(), pb.StepsResponse))
        path = STEPS_PATH if kind is pb.StepsResponse else _calls.ANSWER_PATH
        cut_out += check(kind, random_fields(draw), path)
    assert cut_out > 100


TENSOR = tensor_pb2.Tensor(dtype=1, shape=[2], data=b"12345678").SerializeToString()


@pytest.mark.parametrize("name, data, split", [
    ("tensor last", field(2, 0, b"\x07") + delimited(1, TENSOR), True),
    ("elements before shape", delimited(1, delimited(4, b"12345678") + field(1, 0, b"\x01")), True),
    ("tensor twice: merged", delimited(1, TENSOR) + delimited(1, TENSOR), False),
    ("elements twice: the last", delimited(1, TENSOR + delimited(4, b"other")), False),
    ("elements of another type: unknown", delimited(1, field(4, 0, b"\x05")), False),
    ("a length written long", field(1, 2, bytes((0x80 | len(TENSOR), 0x80, 0x00)) + TENSOR), True),
    ("a length written too long", field(1, 2, bytes((0x80 | len(TENSOR), *[0x80] * 4, 0x00)) + TENSOR), False),
    ("a length beyond the end", delimited(1, TENSOR)[:-1], False),
    ("elements beyond their tensor", field(1, 2, b"\x05") + TENSOR, False),
    ("a negative length", field(1, 2, b"\xff\xff\xff\xff\x0f") + TENSOR, False),
    ("a varint without end", delimited(1, TENSOR) + field(2, 0, b"\xff" * 11), False),
    ("field 0", delimited(1, TENSOR) + delimited(0, b""), False),
    ("a group", delimited(1, TENSOR) + field(9, 3, b"") + field(9, 4, b""), False),
    ("a group without end", delimited(1, TENSOR) + field(9, 3, b""), False),
    ("wire type 6", delimited(1, TENSOR) + field(9, 6, b""), False),
    ("text that is no UTF-8", delimited(1, TENSOR) + delimited(3, b"\xff"), False),
    ("many fields", field(2, 0, b"\x01") * 200 + delimited(1, TENSOR), False),
    ("nothing", b"", False),
], ids=lambda value: value if isinstance(value, str) else None)
def test_cases(name: str, data: bytes, split: bool) -> None:
    assert check(pb.InferResponse, data, _calls.ANSWER_PATH) == split


@pytest.mark.parametrize("array", [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.arange(24, dtype=np.float64).reshape(2, 3, 4).T,
    np.arange(6, dtype=">f4").reshape(2, 3), np.arange(6, dtype=np.float16).reshape(2, 3)[::-1, ::2],
    np.zeros((0, 3), np.float32), np.float64(3), np.broadcast_to(np.float32(2), (3, 5))],
    ids=lambda array: f"{array.dtype}{array.shape}")
def test_requests_are_what_protobuf_writes(array: Any) -> None:
    call = _calls.backward("net.bn", array, array, "channels_last", [1, 2], [3, 4], False, None, None, False, 0, "mine")
    tensor = tensor_pb2.Tensor(dtype={2: 3, 4: 1, 8: 2}[array.dtype.itemsize], shape=array.shape, layout=2,
                               data=array.astype(array.dtype.newbyteorder("<")).tobytes())
    want = pb.BackwardRequest(layer="net.bn", x=tensor, dy=tensor, mode=pb.BACKWARD_MODE_TRAINING, batch_mean=[1, 2],
                              batch_var=[3, 4], request_id="mine")
    assert pb.BackwardRequest.FromString(_wire.join(call.parts())) == want


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, (1 << 31) - 1, (1 << 63) - 1])
def test_varint(value: int) -> None:
    message = pb.InferRequest(version=value)
    assert message.SerializeToString() == (b"\x18" + _wire.varint(value) if value else b"")
