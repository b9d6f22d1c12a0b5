"""Calls that concern all workers: real doors, sockets and messages, with the workers in one process."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_server.admission import Admission
from normserve_server.calls import Call
from normserve_server.errors import STATUS_CODES, InvalidRequestError, OverloadedError
from normserve_server.interceptors import Door
from normserve_server.metrics import Metrics
from normserve_server.processes.child import Child
from normserve_server.processes.control import Control
from normserve_server.processes.place import Place
from normserve_server.processes.private import Private
from normserve_server.recording import Recorder
from normserve_server.settings import Settings
from normserve_server.state import State
from normserve_server.tracing import Traces
from prometheus_client import CollectorRegistry

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


class Servicer:
    """What the workers would do, and what was asked of this one."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.refuses: Exception | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.slow = False
        self.cancelled = False

    async def RepositoryModelLoad(self, request: Any, call: Call) -> Any:  # noqa: N802
        call.model = request.model_name
        try:
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.refuses is not None:
            raise self.refuses
        if self.slow:
            await asyncio.sleep(random.uniform(0, 0.01))
        self.loaded.append(request.model_name + request.repository_name)
        return pb.RepositoryModelLoadResponse()

    async def ModelStatistics(self, request: Any, _call: Call) -> Any:  # noqa: N802
        return pb.ModelStatisticsResponse(model_stats=[pb.ModelStatistics(name="m", version="1", inference_count=2)])

    async def ServerLive(self, _request: Any, _call: Call) -> Any:  # noqa: N802
        return pb.ServerLiveResponse(live=True)


class Worker:
    """A worker without its process."""

    def __init__(self, folder: Path, slot: int) -> None:
        place = Place(slot, 0, folder, False, Settings(repository=(folder,)))
        self.servicer = Servicer()
        self.registry = CollectorRegistry()
        self.side = Private(place)
        self.recorder = Recorder(Metrics(self.registry), Traces())
        door = Door(Admission(2**30), self.recorder, STATUS_CODES, self.side.fan_out)
        self.public = grpc.aio.server()
        self.public.add_generic_rpc_handlers((door.service(SERVICE, [self.servicer]),))
        self.port = self.public.add_insecure_port("127.0.0.1:0")
        self.child = Child(place, None)  # type: ignore[arg-type] # it is here
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")

    async def start(self) -> None:
        await self.side.start(State, tuple)
        await self.public.start()

    async def stop(self) -> None:
        await self.channel.close()
        await self.child.close()
        await self.public.stop(None)
        await self.side.stop()

    async def load(self, model: str, repository: str = "") -> None:
        request = pb.RepositoryModelLoadRequest(model_name=model, repository_name=repository)
        await self.raw("RepositoryModelLoad", request.SerializeToString())

    async def raw(self, method: str, data: bytes = b"") -> bytes:
        return await self.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(data)


class Service:
    """The control and two workers, of which the second is not admitted yet."""

    def __init__(self, folder: Path) -> None:
        self.control = Control()
        self.folder = folder
        self.first, self.second = Worker(folder, 0), Worker(folder, 1)


@pytest.fixture
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    service = Service(tmp_path_factory.mktemp("w"))
    await service.control.start(f"unix:{service.folder}/control")
    for worker in (service.first, service.second):
        await worker.start()
    await service.control.admit(service.first.child)
    yield service
    for worker in (service.first, service.second):
        await worker.stop()
    await service.control.stop()


async def test_a_change_reaches_all_whoever_is_asked(service: Service) -> None:
    await service.control.admit(service.second.child)
    await service.first.load("a")
    await service.second.load("b")
    assert service.first.servicer.loaded == service.second.servicer.loaded == ["a", "b"]


async def test_a_call_is_counted_once_and_by_its_model(service: Service) -> None:
    await service.control.admit(service.second.child)
    await service.first.load("a")
    labels = {"model": "a", "version": "", "method": "RepositoryModelLoad", "code": "OK"}
    for worker in (service.first, service.second):
        worker.recorder.flush()
    counts = [
        worker.registry.get_sample_value("normserve_requests_total", labels) for worker in (service.first, service.second)
    ]
    assert counts == [1, None]


async def test_who_comes_later_is_told_first(service: Service) -> None:
    for model in ("a", "b", "a"):
        await service.first.load(model)
    await service.control.admit(service.second.child)
    assert service.second.servicer.loaded == ["b", "a"]


async def test_who_comes_while_a_change_is_made_does_not_miss_it(service: Service) -> None:
    service.first.servicer.may_go_on.clear()
    loading = asyncio.create_task(service.first.load("a"))
    await until(lambda: service.control._journal.changes)
    await service.control.admit(service.second.child)
    assert service.second.servicer.loaded == ["a"]
    service.first.servicer.may_go_on.set()
    await loading
    assert service.second.servicer.loaded == ["a"]


async def test_changes_of_one_model_are_in_the_same_order_everywhere(service: Service) -> None:
    await service.control.admit(service.second.child)
    service.second.servicer.slow = True
    workers = (service.first, service.second)
    await asyncio.gather(*(workers[i % 2].load(f"m{i % 3}", str(i)) for i in range(30)))
    for model in ("m0", "m1", "m2"):
        orders = [[name for name in worker.servicer.loaded if name.startswith(model)] for worker in workers]
        assert orders[0] == orders[1]
        assert len(orders[0]) == 10
    assert len({change.subject for change in service.control._journal.changes}) == len(service.control._journal.changes) == 3


async def test_a_refusal_comes_through_as_it_is(service: Service) -> None:
    await service.control.admit(service.second.child)
    service.second.servicer.refuses = OverloadedError("no room for 'a'", retry_after_ms=7)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await service.first.load("a")
    assert (refusal.value.code(), refusal.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for 'a'")
    assert dict(refusal.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "7"
    assert service.control._journal.changes  # the first has it, so others should
    service.first.servicer.refuses = InvalidRequestError("never")
    with pytest.raises(grpc.aio.AioRpcError, match="never"):
        await service.first.load("b")
    assert len(service.control._journal.changes) == 1


async def test_a_message_that_does_not_parse_is_told_to_its_sender(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await service.first.raw("RepositoryModelLoad", b"\xff\xff")
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_worker_that_is_dead_is_left_out(service: Service) -> None:
    await service.control.admit(service.second.child)
    await service.second.side.stop()
    await service.first.load("a")
    assert service.first.servicer.loaded == ["a"]
    service.control.dismiss(service.first.child)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await service.first.load("b")
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_who_leaves_does_not_leave_a_change_half_made(service: Service) -> None:
    await service.control.admit(service.second.child)
    service.second.servicer.may_go_on.clear()
    loading = asyncio.create_task(service.first.load("a"))
    await until(lambda: service.first.servicer.loaded)
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    with pytest.raises(TimeoutError):
        await until(lambda: service.second.servicer.cancelled, 0.3)
    service.second.servicer.may_go_on.set()
    await until(lambda: service.second.servicer.loaded)
    assert service.second.servicer.loaded == ["a"]


async def test_statistics_are_added_up_and_others_answer_where_they_are(service: Service) -> None:
    await service.control.admit(service.second.child)
    answer = pb.ModelStatisticsResponse.FromString(await service.first.raw("ModelStatistics"))
    assert [each.inference_count for each in answer.model_stats] == [4]
    assert pb.ServerLiveResponse.FromString(await service.first.raw("ServerLive")).live
    with pytest.raises(grpc.aio.AioRpcError) as refusal:  # no worker has a handler
        await service.first.raw("TraceSetting")
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def until(condition: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - gRPC is in between
            await asyncio.sleep(0.01)
