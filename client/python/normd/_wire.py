"""Messages with a tensor in them, written and read without a copy of their own for its elements.

A message travels as bytes: grpc takes and gives nothing else. What protobuf would add is a copy into the message and
one out of it, each into fresh memory. Here protobuf sees everything but the elements:

    request    header, tags and lengths, elements: joined once                    (join)
    answer     the elements cut out as a view, the rest parsed by protobuf        (split)

Smaller messages go through protobuf whole: below 256 KiB its copies cost less than going round them does in Python,
where every microsecond of other work between two calls takes three or four, with cold caches.

Infer of [32,64,56,56] float32, 25.7 MB, over a Unix socket, client and server on two cores, takes 0.55 to 0.75 of the
time that it took with protobuf's copies, and with `out` up to a tenth less. Of what is left, nine tenths are grpc's and
the server's: grpc for Python copies a message twice on its way out and twice on its way in, and wants bytes, no
buffers. A part of their cost is fresh memory, which environment variables of glibc's spare: README.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Sequence, Union

Buffer = Union[bytes, memoryview]
# The fields to descend through, from the outermost message to the bytes; any one of the numbers at each level.
Path = tuple[frozenset[int], ...]

# A message below this many bytes goes through protobuf whole.
SPLIT_FROM = 256 << 10

# Messages with more fields than any of ours are protobuf's business: a loop in Python would be slow.
_MOST_FIELDS = 64
# The longest length that protobuf accepts.
_LONGEST = (1 << 31) - 17


class _Unusual(Exception):
    """Not written as servers write it; protobuf decides what it means, or that it means nothing."""


class _Field(NamedTuple):
    """Where a length-delimited field stands."""

    tag: int
    length: int
    start: int
    end: int


def varint(value: int) -> bytes:
    """A base-128 varint, value >= 0."""
    if value < 128:
        return bytes((value,))
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(number: int, parts: Sequence[Buffer]) -> list[Buffer]:
    """A length-delimited field whose content is the parts one after the other."""
    return [varint(number << 3 | 2) + varint(sum(map(size, parts))), *parts]


def size(part: Buffer) -> int:
    """Bytes of a part."""
    return len(part) if isinstance(part, bytes) else part.nbytes


def join(parts: Sequence[Buffer]) -> bytes:
    """The message: the one copy that is made of the elements."""
    return b"".join(parts)


def split(kind: Any, data: bytes, path: Path) -> tuple[Any, Optional[memoryview]]:
    """Parses `data` as a message of `kind`; the bytes field at `path` comes as a view of `data`, not in the message.

    The same as protobuf's parser would give: what is not plain (a field of the path given twice, groups, lengths that
    do not fit) is left to that parser, and then the view is None and the message complete.

    Raises:
        google.protobuf.message.DecodeError: this is no such message.
    """
    if len(data) < SPLIT_FROM:
        return kind.FromString(data), None
    try:
        fields = _descend(data, path)
    except _Unusual:
        fields = None
    if fields is None:
        return kind.FromString(data), None
    *containers, payload = fields
    # The lengths around it, from the inside out, get shorter by what is cut out and by what that saves in themselves.
    cut = payload.end - payload.tag
    lengths: list[bytes] = []
    for container in reversed(containers):
        lengths.insert(0, varint(container.end - container.start - cut))
        cut += container.start - container.length - len(lengths[0])
    parts: list[bytes] = []
    position = 0
    for container, length in zip(containers, lengths):
        parts += [data[position:container.length], length]
        position = container.start
    parts += [data[position:payload.tag], data[payload.end:]]
    return kind.FromString(b"".join(parts)), memoryview(data)[payload.start:payload.end]


def _descend(data: bytes, path: Path) -> Optional[list[_Field]]:
    """The fields of the path, outermost first; None if one is absent."""
    start, end, fields = 0, len(data), []
    for numbers in path:
        found = _find(data, start, end, numbers)
        if found is None:
            return None
        fields.append(found)
        start, end = found.start, found.end
    return fields


def _find(data: bytes, start: int, end: int, numbers: frozenset[int]) -> Optional[_Field]:
    """The only length-delimited field of data[start:end] with one of the numbers. All fields are looked at."""
    found, position, count = None, start, 0
    while position < end:
        count += 1
        if count > _MOST_FIELDS:
            raise _Unusual
        tag = position
        key, position = _read_varint(data, position, end, 4)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise _Unusual
        if kind == 2:
            length = position
            taken, position = _read_varint(data, position, end, 5)
            if taken > _LONGEST:
                raise _Unusual
            if number in numbers:
                if found is not None:
                    raise _Unusual
                found = _Field(tag, length, position, position + taken)
            position += taken
        elif kind == 0:
            _, position = _read_varint(data, position, end, 10)
        elif kind == 1:
            position += 8
        elif kind == 5:
            position += 4
        else:
            raise _Unusual
        if position > end:
            raise _Unusual
    return found


def _read_varint(data: bytes, position: int, end: int, longest: int) -> tuple[int, int]:
    """The value, and where it ends."""
    value = shift = 0
    for position in range(position, min(position + longest, end)):
        byte = data[position]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position + 1
        shift += 7
    raise _Unusual
