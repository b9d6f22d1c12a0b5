"""NormalizerService's calls as pure functions; the counterpart of `requests`.

What changes a normalizer carries an id that the client makes, so that whatever is sent again is answered and not done twice.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Final

from normserve_proto import normalizers_pb2 as pb
from normserve_proto import tensor_field
from normserve_proto.tensors import Array

from normserve import normalizer_messages as messages
from normserve import requests, torch_tensors
from normserve.errors import InvalidArgumentError
from normserve.layers import STATE_VERSION, Applied, Layer, NormalizerInfo, RunningNormLayer, StateDict
from normserve.requests import Call, Steps
from normserve.tensor_messages import joined

_INPUT = 2  # ApplyNormalizerRequest.input, ObserveNormalizerRequest.input
_OUTPUT = 1  # ApplyNormalizerResponse.output


class Keep(Enum):
    """The type of KEEP, which says that a value is to stay as it is, where None is a value."""

    KEEP = "KEEP"

    def __repr__(self) -> str:
        return self.name


KEEP: Final = Keep.KEEP


def create(name: str, layer: Layer, *, training: bool, request_id: str) -> Call[NormalizerInfo]:
    """Makes a normalizer; see `Normalizer.create`."""
    normalizer = messages.normalizer(layer, training)
    request = pb.CreateNormalizerRequest(normalizer_id=name, normalizer=normalizer, request_id=request_id or _new_id())
    return Call(requests.CREATE_NORMALIZER, request.SerializeToString(), _read_info)


def restore(name: str, snapshot: bytes, *, request_id: str) -> Call[NormalizerInfo]:
    """Makes a normalizer of a snapshot; see `Normalizer.restore`."""
    if not isinstance(snapshot, bytes | bytearray | memoryview):
        raise InvalidArgumentError(f"snapshot: wanted bytes, got {type(snapshot).__name__}")
    if not len(snapshot):
        raise InvalidArgumentError("snapshot: wanted a safetensors file's bytes, got none")
    request = pb.CreateNormalizerRequest(normalizer_id=name, snapshot=bytes(snapshot), request_id=request_id or _new_id())
    return Call(requests.CREATE_NORMALIZER, request.SerializeToString(), _read_info)


def get(name: str) -> Call[NormalizerInfo]:
    """Asks for a normalizer."""
    request = pb.GetNormalizerRequest(name=messages.resource_name(name))
    return Call(requests.GET_NORMALIZER, request.SerializeToString(), _read_info)


def list_all(page_size: int) -> Steps[tuple[NormalizerInfo, ...]]:
    """Asks for all normalizers, page by page."""
    found: list[NormalizerInfo] = []
    token = ""
    while True:
        page = yield _page(page_size, token)
        found += map(messages.info, page.normalizers)
        token = page.next_page_token
        if not token:
            return tuple(found)


def update(
    name: str, *, momentum: float | Keep | None, clip: float | Keep | None, training: bool | None, etag: str
) -> Steps[NormalizerInfo]:
    """Changes a normalizer, after having asked what layer it has; see `Normalizer.update`."""
    changes = {key: value for key, value in (("momentum", momentum), ("clip", clip)) if value is not KEEP}
    if not changes and training is None:
        raise InvalidArgumentError(f"normalizer '{name}': nothing to change: wanted momentum, clip or training")
    present: NormalizerInfo = yield get(name)
    changed: NormalizerInfo = yield _update(present, changes, training, etag)
    return changed


def delete(name: str, *, etag: str, missing_ok: bool) -> Call[None]:
    """Deletes a normalizer."""
    request = pb.DeleteNormalizerRequest(name=messages.resource_name(name), etag=etag, allow_missing=missing_ok)
    return Call(requests.DELETE_NORMALIZER, request.SerializeToString(), lambda _: None)


def apply(name: str, array: Array, *, training: bool | None, request_id: str) -> Call[Applied]:
    """Normalizes, and reads the normalized array and the sequence."""
    head = pb.ApplyNormalizerRequest(
        name=messages.resource_name(name), mode=messages.mode(training), request_id=request_id or _new_id()
    )
    return Call(requests.APPLY_NORMALIZER, joined(head.SerializeToString(), _INPUT, "input", array), _read_applied)


def apply_output(name: str, array: Array, *, training: bool | None, request_id: str) -> Call[Array]:
    """Normalizes, and reads the normalized array."""
    call = apply(name, array, training=training, request_id=request_id)
    return Call(call.method, call.request, lambda response: _read_applied(response).output)


def observe(name: str, array: Array, *, request_id: str) -> Call[int]:
    """Updates the statistics, and reads the sequence."""
    head = pb.ObserveNormalizerRequest(name=messages.resource_name(name), request_id=request_id or _new_id())
    request = joined(head.SerializeToString(), _INPUT, "input", array)
    return Call(
        requests.OBSERVE_NORMALIZER, request, lambda response: pb.ObserveNormalizerResponse.FromString(response).sequence
    )


def get_state_dict(name: str) -> Call[StateDict]:
    """Asks for the state."""
    request = pb.GetStateDictRequest(name=messages.resource_name(name))
    return Call(requests.GET_STATE_DICT, request.SerializeToString(), _read_state_dict)


def load_state_dict(name: str, state: Mapping[str, Any], *, etag: str, request_id: str) -> Call[NormalizerInfo]:
    """Puts a state in place of the present one; see `Normalizer.load_state_dict`."""
    request = pb.LoadStateDictRequest(
        name=messages.resource_name(name),
        tensors=messages.named_tensors(state),
        version=_version(state),
        etag=etag,
        request_id=request_id or _new_id(),
    )
    return Call(requests.LOAD_STATE_DICT, request.SerializeToString(), _read_info)


def get_snapshot(name: str) -> Call[bytes]:
    """Asks for all of a normalizer as one file."""
    request = pb.GetSnapshotRequest(name=messages.resource_name(name))
    return Call(
        requests.GET_SNAPSHOT, request.SerializeToString(), lambda response: pb.Snapshot.FromString(response).safetensors
    )


def _new_id() -> str:
    return os.urandom(16).hex()


def _page(page_size: int, token: str) -> Call[pb.ListNormalizersResponse]:
    request = pb.ListNormalizersRequest(page_size=page_size, page_token=token)
    return Call(requests.LIST_NORMALIZERS, request.SerializeToString(), pb.ListNormalizersResponse.FromString)


def _update(
    present: NormalizerInfo, changes: Mapping[str, float | None], training: bool | None, etag: str
) -> Call[NormalizerInfo]:
    field = messages.field_of(present.layer)
    known = {"clip"} if isinstance(present.layer, RunningNormLayer) else {"momentum"}
    for name in changes.keys() - known:
        raise InvalidArgumentError(f"normalizer '{present.name}' has no {name}: it is a {type(present.layer).__name__}")
    normalizer = messages.normalizer(replace(present.layer, **dict[str, Any](changes)), training)
    normalizer.name, normalizer.etag = messages.resource_name(present.name), etag
    request = pb.UpdateNormalizerRequest(normalizer=normalizer)
    paths = {"momentum": (f"{field}.momentum", f"{field}.cumulative"), "clip": (f"{field}.clip",)}
    for name in changes:
        request.update_mask.paths.extend(paths[name])
    if training is not None:
        request.update_mask.paths.append("mode")
    return Call(requests.UPDATE_NORMALIZER, request.SerializeToString(), _read_info)


def _version(state: Mapping[str, Any]) -> int:
    """Tells a state's version; as in PyTorch, one that does not say has the first."""
    if isinstance(state, StateDict):
        return STATE_VERSION
    return torch_tensors.version_of(state) or 1


def _read_info(response: bytes) -> NormalizerInfo:
    return messages.info(pb.Normalizer.FromString(response))


def _read_applied(response: bytes) -> Applied:
    head, tensor, data = tensor_field.split(response, _OUTPUT)
    message = pb.ApplyNormalizerResponse.FromString(head)
    output = tensor_field.decode("output", message.output if tensor is None else tensor, data)
    return Applied(output, message.sequence)


def _read_state_dict(response: bytes) -> StateDict:
    return messages.state_dict(pb.StateDict.FromString(response))
