"""A normalizer as a safetensors file: its state dict, and in the metadata its layer and mode.

The tensors have torch's names, so torch's load_state_dict takes them. Statistics that are kept in float64 are F64 in the file,
also where the layer is FP32: nothing is lost.
"""

import json

from google.protobuf import json_format
from normserve_proto import normalizers_pb2 as pb
from normserve_proto import tensors
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from normserve_server.errors import InvalidRequestError
from normserve_server.normalizers import messages
from normserve_server.normalizers.layer import State
from normserve_server.normalizers.records import Record

KEY = "normserve.normalizer"
MOST_HEADER = 64 * 1024  # bytes, of which a normalizer takes less than 2048
DATATYPES = {"F16": "FP16", "BF16": "BF16", "F32": "FP32", "F64": "FP64", "I64": "INT64"}


def written(record: Record) -> bytes:
    """Gives the file's content."""
    message = messages.layer_message(record.layer)
    message.mode = pb.MODE_TRAINING if record.training else pb.MODE_EVALUATION
    metadata = {KEY: json_format.MessageToJson(message, indent=None, preserving_proto_field_name=True)}
    return bytes(save(record.state, metadata))


def read(data: bytes) -> tuple[pb.Normalizer, State]:
    """Reads what `written` gave.

    Returns:
        The layer and mode, and the tensors.

    Raises:
        InvalidRequestError: it is not a safetensors file, or no snapshot of a normalizer.
    """
    length = int.from_bytes(data[:8], "little")
    if MOST_HEADER < length < len(data):  # reading it would hold up everyone
        raise InvalidRequestError(f"snapshot: the header of one has at most {MOST_HEADER} bytes, got {length}")
    try:
        found = deserialize(data)  # type: ignore[no-untyped-call]
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, ValueError) as error:
        raise InvalidRequestError(f"snapshot: no safetensors file: {error}") from None
    if KEY not in metadata:
        raise InvalidRequestError(f"snapshot: its metadata has no '{KEY}': it is not what GetSnapshot gave")
    try:
        message = json_format.Parse(metadata[KEY], pb.Normalizer())
    except json_format.ParseError as error:
        raise InvalidRequestError(f"snapshot: '{KEY}' cannot be read: {error}") from None
    return message, {name: _array(name, spec["dtype"], spec["shape"], spec["data"]) for name, spec in found}


def _array(name: str, kind: str, shape: list[int], data: bytearray) -> tensors.Array:
    if kind not in DATATYPES:
        raise InvalidRequestError(f"snapshot: '{name}' is one of {', '.join(DATATYPES)}, got {kind}")
    return tensors.decode(name, DATATYPES[kind], shape, bytes(data))
