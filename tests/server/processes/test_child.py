"""What the supervisor thinks of a worker that does not answer."""

import asyncio
import socket
from pathlib import Path

import grpc
import pytest
from normserve_server.processes import child
from normserve_server.processes.child import Child
from normserve_server.processes.place import WORKER, Place, unpacked
from normserve_server.settings import Settings
from normserve_server.state import State


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(3, 8001, tmp_path_factory.mktemp("w"), True, Settings(repository=(Path("a"), Path("b")), workers=4))


async def test_one_whose_socket_is_closed_has_died(place: Place) -> None:
    worker = Child(place, None)  # type: ignore[arg-type]
    assert await worker.state() is None
    assert await worker.answer("RepositoryModelLoad", b"") is None
    await worker.close()


async def test_one_that_does_not_answer_is_not_ready(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LOOK_SECONDS", 0.3)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(place.private.removeprefix("unix:"))
        silent.listen()
        worker = Child(place, None)  # type: ignore[arg-type]
        assert await worker.state() == State()
        await worker.close()


async def test_of_one_that_has_fallen_silent_the_versions_are_known_and_their_states_are_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = State(ready=True, models={"m/1": "READY"})
    answers = [told.packed()]

    async def answer(_request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return answers.pop() if answers else await asyncio.Future()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(WORKER, {"State": grpc.unary_unary_rpc_method_handler(answer)})]
    )
    server.add_insecure_port(place.private)
    await server.start()
    worker = Child(place, None)  # type: ignore[arg-type]
    monkeypatch.setattr(child, "LOOK_SECONDS", 30.0)
    assert await worker.state() == told
    monkeypatch.setattr(child, "LOOK_SECONDS", 0.3)
    assert await worker.state() == State(models={"m/1": "UNKNOWN"})
    await worker.close()
    await server.stop(None)


def test_a_worker_gets_all_settings(place: Place) -> None:
    assert unpacked(place.packed()) == place
