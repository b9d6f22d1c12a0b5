"""A servicer over a database of its own."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from normalizer_service import Service


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Callable[[], Service]]:
    """Makes services over the same file."""
    made = []

    def make() -> Service:
        made.append(Service(str(tmp_path / "folder/state.db")))
        return made[-1]

    yield make
    for service in made:
        await service.close()


@pytest.fixture
def service(services: Callable[[], Service]) -> Service:
    return services()
