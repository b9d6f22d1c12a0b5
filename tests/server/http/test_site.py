"""What the HTTP side answers, without a service behind it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from normserve_server.descriptions import Description
from normserve_server.http.page import Page, Sources
from normserve_server.http.site import Site
from normserve_server.state import State
from prometheus_client import CollectorRegistry

PATHS = ("/", "/api/overview", "/static/page.js")


async def look() -> State:
    return State(ready=True, models={"m/1": "READY"})


async def describe() -> list[Description]:
    return [Description("m", "1", "READY")]


@asynccontextmanager
async def site(page: Page | None) -> AsyncIterator[aiohttp.ClientSession]:
    site = Site(CollectorRegistry(), look, page)
    port = await site.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        await site.stop()


async def test_without_a_page_there_is_none_and_the_rest_is() -> None:
    async with site(None) as session:
        assert {(await session.get(path)).status for path in PATHS} == {404}
        assert {(await session.get(path)).status for path in ("/metrics", "/health/live", "/health/ready")} == {200}


@pytest.mark.parametrize("accepted", ["text/plain; version=abc", "application/openmetrics-text; version=1.x"])
async def test_whoever_accepts_what_there_is_not_gets_plain_text(accepted: str) -> None:
    async with site(None) as session:
        answer = await session.get("/metrics", headers={"Accept": accepted})
        assert (answer.status, answer.content_type) == (200, "text/plain")


@pytest.mark.parametrize("path", PATHS)
async def test_what_the_page_is_made_of_lets_nothing_in_from_elsewhere(path: str) -> None:
    async with site(Page(Sources(look, describe, None))) as session:
        answer = await session.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert answer.status == 200
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "http" not in policy


@pytest.mark.parametrize("name", ["absent.js", "..%2fpage.py", "%2e%2e%2f%2e%2e%2fsettings.py", ".", "plotly.min.js.map"])
async def test_only_the_pages_own_files_are_given_out(name: str) -> None:
    async with site(Page(Sources(look, describe, None))) as session:
        assert (await session.get(f"/static/{name}")).status == 404
