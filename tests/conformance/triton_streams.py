"""Triton's own clients on a stream, as a process of its own: prints what it was told, as JSON.

Usage: python triton_streams.py ADDRESS sync|aio
"""

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

REQUESTS = 200
MODEL = "digits"


def image(module: Any, number: int) -> list[Any]:
    array = np.full((1 + number % 4, 1, 8, 8), number, np.float32)
    tensor = module.InferInput("image", array.shape, "FP32")
    tensor.set_data_from_numpy(array)
    return [tensor]


def told(result: Any, error: Exception | None) -> dict[str, Any]:
    if error is not None:
        return {"error": str(error)}
    response = result.get_response()
    final = response.parameters["triton_final_response"].bool_param
    return {"id": response.id, "logits": result.as_numpy("logits").tolist(), "final": final}


def stream(address: str) -> list[dict[str, Any]]:
    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: answers.put(told(result, error)), stream_timeout=60)
        for number in range(REQUESTS):
            final = number % 2 == 0
            client.async_stream_infer(MODEL, image(triton, number), request_id=str(number), enable_empty_final_response=final)
        client.async_stream_infer("nothing", image(triton, 0))
        client.async_stream_infer(MODEL, image(triton, 0), request_id="last")
        client.stop_stream()
    return [answers.get_nowait() for _ in range(REQUESTS + 2)]


async def stream_aio(address: str) -> list[dict[str, Any]]:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(REQUESTS):
            yield {"model_name": MODEL, "inputs": image(triton_aio, number), "request_id": str(number)}
        yield {"model_name": "nothing", "inputs": image(triton_aio, 0)}
        yield {"model_name": MODEL, "inputs": image(triton_aio, 0), "request_id": "last"}

    async with triton_aio.InferenceServerClient(address) as client:
        return [told(*answer) async for answer in client.stream_infer(requests(), stream_timeout=60)]


def settings(address: str) -> dict[str, Any]:
    """What the client's other calls of the extensions answer."""
    with triton.InferenceServerClient(address) as client:
        return {
            "extensions": list(client.get_server_metadata().extensions),
            "statistics": client.get_inference_statistics(MODEL, as_json=True),
            "config": client.get_model_config(MODEL, as_json=True),
            "trace": client.update_trace_settings(MODEL, {"trace_rate": "500", "trace_level": ["OFF"]}, as_json=True),
            "trace_cleared": client.update_trace_settings(MODEL, {"trace_rate": None, "trace_level": None}, as_json=True),
            "traces": client.get_trace_settings(as_json=True),
            "log": client.update_log_settings({"log_verbose_level": 0, "log_info": True}, as_json=True),
        }


if __name__ == "__main__":
    address, kind = sys.argv[1:]
    ways = {"sync": stream, "aio": lambda address: asyncio.run(stream_aio(address)), "settings": settings}
    json.dump(ways[kind](address), sys.stdout)
