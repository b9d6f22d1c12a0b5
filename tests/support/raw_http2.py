"""HTTP/2 written byte by byte: for clients that do what no library lets them do."""

import socket
import struct
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4  # a setting
INFER = "/inference.GRPCInferenceService/ModelInfer"


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def opening(window: int = 65535) -> bytes:
    """What a client says first: the preface, and how many bytes of each answer it takes unasked."""
    return PREFACE + frame(SETTINGS, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))


def headers(path: str, stream: int) -> bytes:
    """The headers of a gRPC call, each a literal, so that no table is needed."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "server"}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    return frame(HEADERS, block, flags=END_HEADERS, stream=stream)


def data(message: bytes, stream: int) -> bytes:
    """One message of a call, and the end of what the caller sends; below HTTP/2's 16 KiB a frame."""
    return frame(DATA, b"\0" + struct.pack(">I", len(message)) + message, flags=END_STREAM, stream=stream)


def call(message: bytes, stream: int, path: str = INFER) -> bytes:
    return headers(path, stream) + data(message, stream)


def connect(address: str, source: str = "") -> socket.socket:
    """Opens a connection, from an address of this machine's own choice where none is given."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20, source_address=(source, 0) if source else None)


@dataclass(frozen=True)
class Frame:
    """A frame as it was read."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def read_frame(connection: socket.socket) -> Frame | None:
    """The next frame; None where the server has closed the connection."""
    head = _exactly(connection, 9)
    if len(head) < 9:
        return None
    kind, flags, stream = struct.unpack(">BBI", head[3:])
    return Frame(kind, flags, stream, _exactly(connection, int.from_bytes(head[:3], "big")))


def _exactly(connection: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size and (piece := connection.recv(size - len(read))):
        read += piece
    return read


def _text(value: str) -> bytes:
    assert len(value) < 127  # one byte of length
    return bytes([len(value)]) + value.encode()


def grpc_status(connection: socket.socket) -> int | None:
    """The status of the first call of a connection; None where the server closed it instead."""
    while (frame := read_frame(connection)) is not None:
        if frame.kind == HEADERS and frame.flags & END_STREAM:
            _, _, value = frame.payload.partition(b"grpc-status")  # not in a table yet
            return int(value[1 : 1 + value[0]])
    return None
