"""A servicer over a database of its own."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import postgresql
import pytest
from normalizer_service import Service
from postgresql import Postgresql


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgresql]:
    """A PostgreSQL server."""
    if postgresql.programs() is None:
        pytest.skip(postgresql.WHY_NOT)
    with postgresql.postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where normalizers are kept: an empty place."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").database()
    return str(tmp_path / "folder/state.db")


@pytest.fixture
async def services(state: str) -> AsyncIterator[Callable[[], Service]]:
    """Makes services over the same database."""
    made = []

    def make() -> Service:
        made.append(Service(state))
        return made[-1]

    yield make
    for service in made:
        await service.close()


@pytest.fixture
def service(services: Callable[[], Service]) -> Service:
    return services()
