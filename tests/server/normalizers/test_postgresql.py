"""What is PostgreSQL's alone: several servers at once, and connections that end."""

import asyncio
import socket
from collections.abc import Callable

import numpy as np
import pytest
from normalizer_service import Service
from normserve_proto import normalizers_pb2 as pb
from normserve_server.errors import AlreadyExistsError, StateError
from normserve_server.normalizers import engines
from postgresql import Postgresql

pytestmark = [
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),
    pytest.mark.parametrize("state", ["postgresql"], indirect=True),
]

IDS = [f"n{number}" for number in range(6)]


async def test_servers_that_begin_at_once_make_the_tables_once(services: Callable[[], Service]) -> None:
    made = await asyncio.gather(*(services().create() for _ in range(4)))
    assert len({one.etag for one in made}) == 1


async def test_two_creates_at_once_on_two_servers_make_one(services: Callable[[], Service]) -> None:
    one, other = services(), services()
    await asyncio.gather(one.store.open(), other.store.open())
    for id_ in IDS:
        layers = ({"running_norm": pb.RunningNormLayer()}, {"batch_norm": pb.BatchNormLayer(num_features=1)})
        calls = (service.create(id_, **layer) for service, layer in zip((one, other), layers, strict=True))
        kinds = {type(made) for made in await asyncio.gather(*calls, return_exceptions=True)}
        assert kinds == {pb.Normalizer, AlreadyExistsError}


async def test_servers_update_the_same_normalizers_and_nothing_is_lost(services: Callable[[], Service]) -> None:
    servers = [services() for _ in range(3)]
    await asyncio.gather(*(servers[0].create(id_) for id_ in IDS))
    order = np.random.default_rng(0)

    async def caller(service: Service, number: int) -> list[int]:
        x = np.full((1, 2), number, np.float32)
        return [await service.observe(x, id_) for _ in range(10) for id_ in order.permutation(IDS)]

    told = await asyncio.gather(*(caller(service, number) for number in range(4) for service in servers))
    assert sorted(sequence for one in told for sequence in one) == sorted([*range(1, 121)] * len(IDS))
    for id_ in IDS:
        state = await servers[1].state(id_)
        assert state["count"] == 120
        np.testing.assert_allclose(state["mean"], [1.5, 1.5])
        np.testing.assert_allclose(state["var"], [1.25, 1.25])


async def test_a_connection_that_ended_is_made_anew(service: Service, postgres: Postgresql) -> None:
    await service.create()
    for count in (1, 2):
        postgres.end_connections()
        assert await service.observe(np.ones((1, 2), np.float32)) == count


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_request_ids_of_any_characters_in_a_database_of_any_encoding(
    postgres: Postgresql, state: str, encoding: str
) -> None:
    service = Service(postgres.database(encoding))
    await service.create()
    x = np.ones((1, 2), np.float32)
    ids = ("e", "é", "\U0001f600", "\\U0001f600", "\n")
    calls = (service.observe(x, request_id=request_id) for request_id in ids * 2)
    assert await asyncio.gather(*calls) == [1, 2, 3, 4, 5] * 2
    await service.close()


async def test_a_url_that_cannot_be_read_is_refused(state: str) -> None:
    service = Service(state.replace("127.0.0.1:", "127.0.0.1:port"))
    with pytest.raises(StateError, match=r"state: the URL cannot be read: .*'port"):
        await service.store.open()
    await service.close()


async def test_a_machine_that_does_not_answer_is_not_waited_for(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.LIMITS, "connect_timeout", 2)  # psycopg's least
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        service = Service(f"{state.rpartition('@')[0]}@127.0.0.1:{deaf.getsockname()[1]}/database")
        with pytest.raises(StateError, match="timeout"):
            await asyncio.wait_for(service.store.open(), 20)
        await service.close()
