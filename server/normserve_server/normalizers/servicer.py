"""`normserve.v1.NormalizerService`: from messages to operations, and back."""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from google.protobuf import empty_pb2
from normserve_proto import normalization_pb2, tensors
from normserve_proto import normalizers_pb2 as pb
from normserve_proto.tensors import Array

from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError, OverloadedError
from normserve_server.inline import is_small
from normserve_server.interceptors import Codec
from normserve_server.metrics import Metrics
from normserve_server.normalizers import changes, messages, operations, snapshots, tables
from normserve_server.normalizers.database import Operation
from normserve_server.normalizers.layer import SINCE_COUNTED, State
from normserve_server.normalizers.operations import StaleError, Updated
from normserve_server.normalizers.records import Record
from normserve_server.normalizers.store import RETRY_AFTER_MS, Store
from normserve_server.tensor_calls import Answer, Request, parser, serialize, small
from normserve_server.workers import Worker

PAGE_SIZE = 50
MOST_PAGE_SIZE = 1000
MOST_KNOWN = 4096
MOST_TENSORS = 16  # of a state dict; no layer has as many
_INPUT = 2  # of what has one
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{tables.MOST_ID - 1}}}")


class NormalizerServicer:
    """Handlers of the service.

    Args:
        store: what keeps the normalizers.
        worker: the thread that big tensors are computed on.
        metrics: where updates are counted.
        most_waiting: calls for that thread; the next one is refused.
    """

    codecs: ClassVar[dict[str, Codec]] = {
        "ApplyNormalizer": (parser(pb.ApplyNormalizerRequest, _INPUT), serialize),
        "ObserveNormalizer": (parser(pb.ObserveNormalizerRequest, _INPUT), pb.ObserveNormalizerResponse.SerializeToString),
    }

    def __init__(self, store: Store, worker: Worker, metrics: Metrics, most_waiting: int) -> None:
        self._store = store
        self._worker = worker
        self._updates = metrics.normalizer_updates
        self._most_waiting = most_waiting
        self._waiting = 0
        # How inputs are to be looked at, without states. What is not so any more is found out in the transaction.
        self._known: dict[str, Record] = {}

    async def CreateNormalizer(self, request: pb.CreateNormalizerRequest, call: Call) -> pb.Normalizer:  # noqa: N802
        """Makes a normalizer."""
        id_ = _checked_id("normalizer_id", request.normalizer_id)
        if request.HasField("normalizer") == bool(request.snapshot):
            raise InvalidRequestError("normalizer or snapshot: one of the two is required, and not both")
        state: State | None = None
        if request.snapshot:
            message, arrays = snapshots.read(request.snapshot)
            layer = messages.layer_of(message)
            state = layer.loaded(arrays, SINCE_COUNTED, layer.initial())
        else:
            message = request.normalizer
            _check_name(message.name, id_)
            layer = messages.layer_of(message)
        training = messages.training_of(message.mode)
        key = _key(id_, request.request_id)
        created: pb.Normalizer = await self._run(operations.create(id_, layer, state, key, training=training), call)
        return created

    async def GetNormalizer(self, request: pb.GetNormalizerRequest, call: Call) -> pb.Normalizer:  # noqa: N802
        """Tells what a normalizer is."""
        return messages.normalizer(await self._run(operations.get(_id(request.name)), call))

    async def ListNormalizers(  # noqa: N802
        self, request: pb.ListNormalizersRequest, call: Call
    ) -> pb.ListNormalizersResponse:
        """Tells what normalizers are, page by page."""
        if request.page_size < 0:
            raise InvalidRequestError(f"page_size is >= 0, got {request.page_size}")
        size = min(request.page_size or PAGE_SIZE, MOST_PAGE_SIZE)
        records = await self._run(operations.page(_after(request.page_token), size + 1), call)
        token = _token(records[size - 1].id) if len(records) > size else ""
        return pb.ListNormalizersResponse(normalizers=map(messages.normalizer, records[:size]), next_page_token=token)

    async def UpdateNormalizer(self, request: pb.UpdateNormalizerRequest, call: Call) -> pb.Normalizer:  # noqa: N802
        """Changes momentum, cumulative averaging, clip or mode."""
        if not request.HasField("normalizer"):
            raise InvalidRequestError("normalizer: required, got none")
        message = request.normalizer
        changed = changes.of(message, list(request.update_mask.paths))
        after: pb.Normalizer = await self._run(operations.change(_id(message.name), message.etag, changed), call)
        return after

    async def DeleteNormalizer(self, request: pb.DeleteNormalizerRequest, call: Call) -> empty_pb2.Empty:  # noqa: N802
        """Deletes a normalizer."""
        await self._run(operations.delete(_id(request.name), request.etag, allow_missing=request.allow_missing), call)
        return empty_pb2.Empty()

    async def ApplyNormalizer(self, received: Request, call: Call) -> Answer:  # noqa: N802
        """Normalizes a tensor and, in training, updates the statistics."""
        request, x = received.message, received.array()
        id_ = _id(request.name)
        call.lap("decode")
        record = await self._now_or_known(id_, request.mode)
        training = messages.training_of(request.mode) if request.mode else record.training
        sequence = record.sequence
        if training and record.layer.updates:
            record, sequence, _ = await self._update(id_, x, operations.APPLY, _key(id_, request.request_id))
        refuse = not (training and record.layer.updates)
        output = await self._computed(lambda: record.layer.normalized(x, record.state, training=training), x, refuse=refuse)
        call.lap("compute")
        return Answer(pb.ApplyNormalizerResponse(sequence=sequence), output)

    async def ObserveNormalizer(self, received: Request, call: Call) -> pb.ObserveNormalizerResponse:  # noqa: N802
        """Updates the statistics."""
        request, x = received.message, received.array()
        id_ = _id(request.name)
        call.lap("decode")
        updated = await self._update(id_, x, "ObserveNormalizer", _key(id_, request.request_id))
        call.lap("compute")
        return pb.ObserveNormalizerResponse(sequence=updated.sequence)

    async def GetStateDict(self, request: pb.GetStateDictRequest, call: Call) -> pb.StateDict:  # noqa: N802
        """Gives what the layer's state_dict() holds."""
        record: Record = await self._run(operations.get(_id(request.name)), call)
        named = (pb.NamedTensor(name=n, tensor=small(array)) for n, array in record.layer.exported(record.state).items())
        return pb.StateDict(tensors=named, etag=record.etag, sequence=record.sequence)

    async def LoadStateDict(self, request: pb.LoadStateDictRequest, call: Call) -> pb.Normalizer:  # noqa: N802
        """Puts another state in place of the present one."""
        id_ = _id(request.name)
        arrays = _arrays(request.tensors)
        version = request.version if request.HasField("version") else SINCE_COUNTED
        operation = operations.load(id_, request.etag, arrays, version, _key(id_, request.request_id))
        after: pb.Normalizer = await self._run(operation, call)
        return after

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, call: Call) -> pb.Snapshot:  # noqa: N802
        """Gives all of a normalizer as one file."""
        return pb.Snapshot(safetensors=snapshots.written(await self._run(operations.get(_id(request.name)), call)))

    async def _run(self, operation: Operation, call: Call) -> Any:
        call.lap("decode")
        outcome = await self._store.run(operation)
        call.lap("compute")
        return outcome

    async def _update(self, id_: str, x: Array, method: str, key: str) -> Updated:
        updated: Updated
        if is_small(x):
            updated = await self._store.run(operations.update(id_, lambda record: record.layer.observed(x), method, key))
        else:
            updated = await self._update_by_much(id_, x, method, key)
        self._updates.inc(updated.made)
        return updated

    async def _update_by_much(self, id_: str, x: Array, method: str, key: str) -> Updated:
        """Updates by what is computed before the transaction, for what the normalizer is known to be."""
        known = self._known.get(id_) or await self._fresh(id_)
        while True:
            statistics = await self._observed(known, x, method)
            try:
                updated: Updated = await self._store.run(
                    operations.update(id_, operations.computed(known.uid, statistics), method, key)
                )
            except StaleError:
                known = await self._fresh(id_)
            else:
                return updated

    async def _observed(self, known: Record, x: Array, method: str) -> Any:
        if method == operations.APPLY and not known.layer.updates:
            return None
        try:
            return await self._computed(lambda: known.layer.observed(x), x)
        except InvalidRequestError:
            fresh = await self._fresh(known.id)
            if fresh.uid == known.uid:
                raise
            return await self._observed(fresh, x, method)

    async def _now_or_known(self, id_: str, mode: int) -> Record:
        """The normalizer as it is now; as it is known where a call that trains anyway has to know no more."""
        known = self._known.get(id_)
        if known is not None and known.layer.updates and mode == pb.MODE_TRAINING:
            return known
        return await self._fresh(id_)

    async def _fresh(self, id_: str) -> Record:
        self._known.pop(id_, None)
        record: Record = await self._store.run(operations.get(id_))
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[id_] = replace(record, state={})
        return record

    async def _computed(self, compute: Callable[[], Any], x: Array, *, refuse: bool = True) -> Any:
        """Computes; `refuse` is whether there may be too much to do already, which what has been updated does not find."""
        if is_small(x):
            return compute()
        if refuse and self._waiting > self._most_waiting:  # one of them runs
            raise OverloadedError(
                f"{self._most_waiting} normalizations wait already, which is the limit", retry_after_ms=RETRY_AFTER_MS
            )
        self._waiting += 1
        try:
            return await self._worker.call(compute)
        finally:
            self._waiting -= 1


def _id(name: str) -> str:
    if not name.startswith(messages.COLLECTION):
        raise InvalidRequestError(f"name: '{messages.COLLECTION}<id>' is wanted, got {name!r}")
    return _checked_id("name", name.removeprefix(messages.COLLECTION))


def _checked_id(field: str, id_: str) -> str:
    if not _ID.fullmatch(id_):
        raise InvalidRequestError(
            f"{field}: an id is 1 to {tables.MOST_ID} letters, digits, '_', '.', '-', the first a letter or digit; got {id_!r}"
        )
    return id_


def _check_name(name: str, id_: str) -> None:
    if name not in ("", messages.COLLECTION + id_):
        raise InvalidRequestError(f"normalizer.name: '{messages.COLLECTION}{id_}' or nothing is wanted, got {name!r}")


def _key(id_: str, request_id: str) -> str:
    if len(request_id) > tables.MOST_REQUEST_ID or "\0" in request_id:
        raise InvalidRequestError(f"request_id has at most {tables.MOST_REQUEST_ID} characters and no NUL, got {request_id!r}")
    return operations.key(id_, request_id)


def _arrays(named: Sequence[pb.NamedTensor]) -> State:
    if len(named) > MOST_TENSORS:
        raise InvalidRequestError(f"tensors: a state has at most {MOST_TENSORS}, got {len(named)}")
    state: State = {}
    for one in named:
        if one.name in state:
            raise InvalidRequestError(f"tensors: '{one.name}' is given twice")
        state[one.name] = _array(one.name, one.tensor)
    return state


def _array(name: str, tensor: normalization_pb2.Tensor) -> Array:
    return tensors.decode(name, tensor.datatype, tensor.shape, tensor.data)


def _token(id_: str) -> str:
    return base64.urlsafe_b64encode(id_.encode()).decode()


def _after(token: str) -> str:
    try:
        return _checked_id("page_token", base64.urlsafe_b64decode(token.encode()).decode()) if token else ""
    except ValueError:
        raise InvalidRequestError(f"page_token: that of the last answer is wanted, got {token!r}") from None
