"""Messages with big raw tensors, without copying the tensors more than once.

protobuf's parser copies every bytes field twice (into its arena, then into a Python object) and its serializer once more. Here
the top level of a message is scanned instead: the raw entries stay views of the bytes that came, and what remains, the *head*,
is parsed by protobuf. Joining is the way back: the head's bytes and the tensors' memory are copied once, into the message.

The scan understands what protobuf's own serializers write. Whatever else it meets (an unknown wire type, a length past the end)
it leaves to protobuf's parser, which has the last word on what is a message; so a caller cannot tell the two apart.
Encoding: https://protobuf.dev/programming-guides/encoding/
"""

import functools
from collections.abc import Sequence
from typing import TypeVar

from normserve_proto.tensors import Buffer

Message = TypeVar("Message", bytes, memoryview)

RAW_INPUT_CONTENTS = 7  # ModelInferRequest
RAW_OUTPUT_CONTENTS = 6  # ModelInferResponse

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
# Below this size, and above this number of fields, protobuf's parser in C is faster than a scan in Python: a message of a
# million tiny entries must not hold the interpreter for a second.
SMALL = 64 * 1024
MANY = 1024
# What a `Splitter` keeps: lengths of messages, templates of one length, and how much of a message besides its entries.
MOST_LENGTHS, MOST_ALIKE, MOST_HEAD_BYTES = 256, 4, 4096


def split(message: Message, field: int, small: int | None = None) -> tuple[Message | bytes, list[memoryview] | None]:
    """Separates the entries of one repeated bytes field from the rest of a message.

    Args:
        message: a serialized message.
        field: the number of a repeated bytes field, 1 to 15.
        small: the size in bytes below which a message is left whole; None for `SMALL`.

    Returns:
        The message without that field, and the field's entries in order as views of `message`. None instead of the entries
        where the message is small, has very many fields or is not understood: then the head is the whole message, and the
        entries are in it.
    """
    if len(message) < (SMALL if small is None else small):
        return message, None
    found = scan(message, field)
    if found is None:
        return message, None
    view = memoryview(message)
    return found[0], [view[start:stop] for start, stop in found[1]]


def scan(message: Buffer, field: int) -> tuple[bytes, list[tuple[int, int]]] | None:
    """The same as extents: the message without the field, and where its entries begin and end.

    Returns:
        None where the message has very many fields or is not understood.
    """
    try:
        return _scan(message, field)
    except (ValueError, IndexError):
        return None


class Template:
    """All of a message but the content of one field's entries: what the messages of one caller often have in common.

    A message's structure lies in its tags and lengths. So a message of the same length, whose bytes outside of the entries are
    the same at the same places, has the same head, and its entries at the same places.

    Args:
        message: a serialized message.
        extents: where the entries begin and end in it, as `scan` tells.
    """

    def __init__(self, message: bytes, extents: Sequence[tuple[int, int]]) -> None:
        self._extents = tuple(extents)
        starts = (0, *(stop for _, stop in extents))
        stops = (*(start for start, _ in extents), len(message))
        self._parts = tuple((message[start:stop], start) for start, stop in zip(starts, stops, strict=True) if start < stop)

    def entries(self, message: bytes) -> list[memoryview] | None:
        """Views the entries of a message of the same length; None where something else in it differs."""
        for part, offset in self._parts:
            if not message.startswith(part, offset):
                return None
        view = memoryview(message)
        return [view[start:stop] for start, stop in self._extents]


class Splitter:
    """`split` for the messages of one field, of which many are alike: what was found out about one is kept for the next.

    Args:
        field: the number of a repeated bytes field, 1 to 15.
    """

    def __init__(self, field: int) -> None:
        self._field = field
        self._templates: dict[int, list[tuple[Template, bytes]]] = {}
        self._heads: dict[int, bytes] = {}

    def split(self, message: bytes) -> tuple[bytes, list[memoryview] | None]:
        """Separates the entries from the rest, however small the message is; see `split`."""
        for template, head in self._templates.get(len(message), ()):
            entries = template.entries(message)
            if entries is not None:
                return head, entries
        found = scan(message, self._field)
        if found is None:
            return message, None
        head, extents = found
        if len(head) <= MOST_HEAD_BYTES:
            self._remember(message, head, extents)
        view = memoryview(message)
        return head, [view[start:stop] for start, stop in extents]

    def _remember(self, message: bytes, head: bytes, extents: Sequence[tuple[int, int]]) -> None:
        """Makes a template of a head that comes twice in a row; those with an id of their own never come again."""
        if self._heads.get(len(message)) != head:
            if len(self._heads) >= MOST_LENGTHS:
                self._heads.clear()
                self._templates.clear()
            self._heads[len(message)] = head
            return
        alike = self._templates.setdefault(len(message), [])
        alike.append((Template(message, extents), head))
        del alike[:-MOST_ALIKE]


def join(head: bytes, field: int, entries: Sequence[Buffer]) -> bytes:
    """Appends the entries of a repeated bytes field to a serialized message: the inverse of `split`.

    Args:
        head: a serialized message, without that field.
        field: its number, 1 to 15.
        entries: contiguous buffers of bytes.
    """
    return b"".join(parts(head, field, entries))


def parts(head: bytes, field: int, entries: Sequence[Buffer]) -> list[Buffer]:
    """Gives what `join` joins, for a message that is to stand inside another one."""
    pieces: list[Buffer] = [head]
    for entry in entries:
        pieces += (prefix(field, len(entry)), entry)
    return pieces


@functools.lru_cache(maxsize=1024)
def prefix(field: int, length: int) -> bytes:
    """Gives the bytes that stand before the value of a bytes, string or message field: its tag and its length.

    Args:
        field: the number, 1 to 15.
        length: of the value, in bytes.
    """
    return bytes([field << 3 | _LENGTH_DELIMITED]) + _varint(length)


def _scan(message: Buffer, field: int) -> tuple[bytes, list[tuple[int, int]]]:
    wanted = field << 3 | _LENGTH_DELIMITED
    view = memoryview(message)
    heads: list[memoryview] = []
    entries: list[tuple[int, int]] = []
    position = 0
    while position < len(message):
        if len(heads) + len(entries) >= MANY:
            raise ValueError("too many fields to scan")
        tag, body = _read_varint(message, position)
        start, stop = _extent(message, tag, body)
        if stop > len(message):
            raise ValueError("a field ends past the message")
        if tag == wanted:
            entries.append((start, stop))
        else:
            heads.append(view[position:stop])
        position = stop
    return b"".join(heads), entries


def _extent(message: Buffer, tag: int, body: int) -> tuple[int, int]:
    """Where the value of a field begins and ends; `body` is the position behind its tag."""
    kind = tag & 7
    if kind == _LENGTH_DELIMITED:
        length, start = _read_varint(message, body)
        return start, start + length
    if kind == _VARINT:
        return body, _read_varint(message, body)[1]
    if kind == _FIXED64:
        return body, body + 8
    if kind == _FIXED32:
        return body, body + 4
    raise ValueError(f"wire type {kind}")


def _read_varint(message: Buffer, position: int) -> tuple[int, int]:
    """The value at `position`, and the position behind it; at most five bytes, which tags and lengths never exceed."""
    value = message[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    for shift in (7, 14, 21, 28):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a varint of more than five bytes")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
