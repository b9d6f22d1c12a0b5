"""grpc.health.v1 follows the repository."""

import asyncio

from grpc_health.v1 import health_pb2
from normserve_server.health import Health
from normserve_server.repository_scan import scan

STATUS = health_pb2.HealthCheckResponse.ServingStatus


async def test_models_that_come_fail_and_go(world) -> None:
    world.put("m/1")
    control = world.control("explicit")
    health = Health(world.repository)

    async def told(service: str) -> str:
        answer = await health.servicer.Check(health_pb2.HealthCheckRequest(service=service), None)
        return STATUS.Name(answer.status)

    await health.publish()
    assert await told("") == "NOT_SERVING"
    await control.start()
    await health.publish()
    assert (await told(""), await told("m")) == ("SERVING", "NOT_SERVING")
    await world.lifecycle.load("m", scan([world.root])["m"])
    await health.publish()
    assert (await told(""), await told("m")) == ("SERVING", "SERVING")
    await world.lifecycle.unload("m", forget=True)
    await health.publish()
    assert (await told(""), await told("m")) == ("SERVING", "SERVICE_UNKNOWN")


async def test_it_follows_by_itself(world) -> None:
    world.put("m/1")
    health = Health(world.repository)
    following = asyncio.create_task(health.follow())

    async def told(service: str) -> str:
        for _ in range(5):  # turns of the loop
            await asyncio.sleep(0)
        answer = await health.servicer.Check(health_pb2.HealthCheckRequest(service=service), None)
        return STATUS.Name(answer.status)

    assert await told("") == "NOT_SERVING"
    await world.control().start()
    assert (await told(""), await told("m")) == ("SERVING", "SERVING")
    await world.lifecycle.unload("m", forget=True)
    assert (await told(""), await told("m")) == ("SERVING", "SERVICE_UNKNOWN")
    following.cancel()
