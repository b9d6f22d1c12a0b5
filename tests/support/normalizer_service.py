"""The normalizers' handlers, called without gRPC, over a database of their own."""

import asyncio
from typing import Any

import numpy as np
from normserve_proto import normalization_pb2 as npb
from normserve_proto import normalizers_pb2 as pb
from normserve_proto import tensors
from normserve_server.calls import Call
from normserve_server.metrics import Metrics
from normserve_server.normalizers.database import Database
from normserve_server.normalizers.servicer import NormalizerServicer
from normserve_server.normalizers.store import Store
from normserve_server.workers import Worker
from prometheus_client import CollectorRegistry


class Service:
    """Calls the handlers by their names: `await service("GetNormalizer", name=...)`."""

    def __init__(self, state: str) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.store = Store(Database(state), Worker("normalizers"), metrics, 1024)
        self.worker = Worker("test")
        self.servicer = NormalizerServicer(self.store, self.worker, metrics, 1024)

    async def __call__(self, method: str, **fields: Any) -> Any:
        request = getattr(pb, f"{method}Request")(**fields)
        parse, serialize = self.servicer.codecs.get(method, (type(request).FromString, None))
        answer = await getattr(self.servicer, method)(parse(request.SerializeToString()), Call(method))
        if method == "ApplyNormalizer":
            return pb.ApplyNormalizerResponse.FromString(serialize(answer))
        return answer

    async def create(self, id_: str = "obs", **fields: Any) -> pb.Normalizer:
        fields = fields or {"running_norm": pb.RunningNormLayer(shape=[2])}
        return await self("CreateNormalizer", normalizer_id=id_, normalizer=pb.Normalizer(**fields))

    async def observe(self, x: np.ndarray, id_: str = "obs", **fields: Any) -> int:
        answer = await self("ObserveNormalizer", name=f"normalizers/{id_}", input=tensor(x), **fields)
        return answer.sequence

    async def apply(self, x: np.ndarray, id_: str = "obs", **fields: Any) -> tuple[np.ndarray, int]:
        answer = await self("ApplyNormalizer", name=f"normalizers/{id_}", input=tensor(x), **fields)
        return array(answer.output), answer.sequence

    async def state(self, id_: str = "obs") -> dict[str, np.ndarray]:
        answer = await self("GetStateDict", name=f"normalizers/{id_}")
        return {one.name: array(one.tensor) for one in answer.tensors}

    async def close(self) -> None:
        await asyncio.gather(self.store.close(), self.worker.close())


def tensor(x: np.ndarray) -> npb.Tensor:
    return npb.Tensor(datatype=tensors.datatype_of(x), shape=x.shape, data=bytes(tensors.encode(x)))


def array(message: npb.Tensor) -> np.ndarray:
    return tensors.decode("output", message.datatype, message.shape, message.data)
