"""Protocol buffers' wire format (protobuf.dev/programming-guides/encoding), as far as SentencePiece models need it."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message. `start`: where its value begins, counted from the start of the message."""

    number: int
    value: int
    data: bytes
    start: int

    @property
    def float32(self) -> float:
        """The value of a field of type float."""
        return struct.unpack("<f", self.data)[0]


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message, in order.

    Raises:
        ValueError: it is not a message: cut off, or of a wire type that does not exist.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind, start, value = tag & 7, at, 0
        if kind == VARINT:
            value, at = varint(message, at)
        elif kind == BYTES:
            length, start = varint(message, at)
            at = start + length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {start}")
        if at > len(message):
            raise ValueError(f"cut off at byte {len(message)}")
        yield Field(tag >> 3, value, message[start:at], start)


def varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError(f"cut off at byte {len(message)}")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"an endless number at byte {at}")
