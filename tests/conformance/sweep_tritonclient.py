"""Calls every method of Triton's client, as a process of its own, and prints what each answered as JSON.

Usage: python sweep_tritonclient.py ADDRESS sync|aio

The server controls its models by call, allows shared memory, and has the digits network loaded.
"""

import asyncio
import inspect
import json
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException, shared_memory

MODEL = "digits"
IMAGES = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
LOGITS_BYTES = 3 * 10 * 4
NOT_ASKED = {"close", "plugin", "register_plugin", "unregister_plugin"}  # these reach no server


class Sweep:
    """One client; remembers which methods were called.

    Args:
        client: InferenceServerClient of either module.
        module: the one that it is from.
    """

    def __init__(self, client: Any, module: Any) -> None:
        self.client = client
        self.module = module
        self.called: set[str] = set()

    async def call(self, method: str, *args: Any, **options: Any) -> Any:
        """What the method answers; the error's status where it raises."""
        self.called.add(method)
        try:
            answer = getattr(self.client, method)(*args, **options)
            return await answer if inspect.isawaitable(answer) else answer
        except InferenceServerException as error:
            return error.status()

    def left(self) -> list[str]:
        methods = {name for name, _ in inspect.getmembers(self.client, callable) if not name.startswith("_")}
        return sorted(methods - self.called - NOT_ASKED)

    def inputs(self, *, region: str = "") -> list[Any]:
        image = self.module.InferInput("image", IMAGES.shape, "FP32")
        if region:
            image.set_shared_memory(region, IMAGES.nbytes)
        else:
            image.set_data_from_numpy(IMAGES)
        return [image]

    def outputs(self, *, region: str = "", class_count: int = 0) -> list[Any]:
        logits = self.module.InferRequestedOutput("logits", class_count=class_count)
        if region:
            logits.set_shared_memory(region, LOGITS_BYTES)
        return [logits]


async def about_the_server(sweep: Sweep) -> dict[str, Any]:
    settings = {"log_verbose_level": 0, "log_info": True}
    return {
        "live": await sweep.call("is_server_live"),
        "ready": await sweep.call("is_server_ready"),
        "server": await sweep.call("get_server_metadata", as_json=True),
        "log": await sweep.call("get_log_settings", as_json=True),
        "log_updated": await sweep.call("update_log_settings", settings, as_json=True),
        "log_refused": await sweep.call("update_log_settings", {"log_nonsense": 1}),
        "trace": await sweep.call("get_trace_settings", as_json=True),
        "trace_updated": await sweep.call("update_trace_settings", MODEL, {"trace_rate": "500"}, as_json=True),
        "trace_cleared": await sweep.call("update_trace_settings", MODEL, {"trace_rate": None}, as_json=True),
    }


async def about_the_model(sweep: Sweep) -> dict[str, Any]:
    return {
        "model_ready": await sweep.call("is_model_ready", MODEL, "1"),
        "metadata": await sweep.call("get_model_metadata", MODEL, "1", as_json=True),
        "config": await sweep.call("get_model_config", MODEL, as_json=True),
        "index": await sweep.call("get_model_repository_index", as_json=True),
        "statistics": await sweep.call("get_inference_statistics", MODEL, "1", as_json=True),
        "all_statistics": await sweep.call("get_inference_statistics", as_json=True),
    }


async def control(sweep: Sweep) -> dict[str, Any]:
    """Loads with a config, unloads, and loads as it was."""
    config = json.dumps({"max_batch_size": 2})
    return {
        "load": await sweep.call("load_model", MODEL, config=config),
        "too_many_now": await sweep.call("infer", MODEL, sweep.inputs()),
        "unload": await sweep.call("unload_model", MODEL),
        "unloaded": await sweep.call("is_model_ready", MODEL),
        "load_again": await sweep.call("load_model", MODEL),
        "loaded": await sweep.call("is_model_ready", MODEL),
    }


async def infer(sweep: Sweep) -> dict[str, Any]:
    """Every option of `infer` that is not about sequences."""
    plain = await sweep.call("infer", MODEL, sweep.inputs())
    full = await sweep.call(
        "infer",
        MODEL,
        sweep.inputs(),
        model_version="1",
        outputs=sweep.outputs(),
        request_id="42",
        priority=1,
        timeout=30_000_000,
        client_timeout=30,
        headers={"x-caller": "sweep"},
        compression_algorithm="gzip",
        parameters={"caller": "sweep"},
    )
    classes = await sweep.call("infer", MODEL, sweep.inputs(), outputs=sweep.outputs(class_count=2))
    return {
        "plain": plain.as_numpy("logits").tolist(),
        "full": full.as_numpy("logits").tolist(),
        "response": [full.get_response().model_name, full.get_response().model_version, full.get_response().id],
        "classes": [[cell.decode() for cell in row] for row in classes.as_numpy("logits")],
        "sequence": await sweep.call("infer", MODEL, sweep.inputs(), sequence_id=7, sequence_start=True),
    }


async def through_shared_memory(sweep: Sweep) -> dict[str, Any]:
    key = f"/normserve_sweep_{sweep.module.__name__.rpartition('.')[2]}"
    region = shared_memory.create_shared_memory_region("both", key, IMAGES.nbytes + LOGITS_BYTES)
    try:
        shared_memory.set_shared_memory_region(region, [IMAGES])
        told = {"register": await sweep.call("register_system_shared_memory", "in", key, IMAGES.nbytes)}
        await sweep.call("register_system_shared_memory", "out", key, LOGITS_BYTES, offset=IMAGES.nbytes)
        told["twice"] = await sweep.call("register_system_shared_memory", "in", key, IMAGES.nbytes)
        told["status"] = await sweep.call("get_system_shared_memory_status", as_json=True)
        result = await sweep.call("infer", MODEL, sweep.inputs(region="in"), outputs=sweep.outputs(region="out"))
        told["in_message"] = [list(data) for data in result.get_response().raw_output_contents]
        told["in_region"] = shared_memory.get_contents_as_numpy(region, np.float32, (3, 10), IMAGES.nbytes).tolist()
        told["unregister"] = await sweep.call("unregister_system_shared_memory", "in")
        told["unregister_all"] = await sweep.call("unregister_system_shared_memory")
        told["status_then"] = await sweep.call("get_system_shared_memory_status", as_json=True)
    finally:
        shared_memory.destroy_shared_memory_region(region)
    return told


async def through_cuda_shared_memory(sweep: Sweep) -> dict[str, Any]:
    return {
        "cuda_status": await sweep.call("get_cuda_shared_memory_status", as_json=True),
        "cuda_register": await sweep.call("register_cuda_shared_memory", "r", b"", 0, 64),
        "cuda_unregister": await sweep.call("unregister_cuda_shared_memory"),
    }


async def asynchronously(sweep: Sweep) -> dict[str, Any]:
    """What only the threaded client has: callbacks, and a stream by three methods."""
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    await sweep.call("async_infer", MODEL, sweep.inputs(), callback=lambda result, error: done.put((result, error)))
    told = {"async": logits(*done.get(timeout=30))}
    await sweep.call("start_stream", callback=lambda result, error: done.put((result, error)))
    await sweep.call("async_stream_infer", MODEL, sweep.inputs())
    await sweep.call("async_stream_infer", "nothing", sweep.inputs())
    told["stream"] = [logits(*done.get(timeout=30)) for _ in range(2)]
    await sweep.call("stop_stream")
    return told


async def in_a_stream(sweep: Sweep) -> dict[str, Any]:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": MODEL, "inputs": sweep.inputs()}
        yield {"model_name": "nothing", "inputs": sweep.inputs()}

    sweep.called.add("stream_infer")
    return {"stream": [logits(*answer) async for answer in sweep.client.stream_infer(requests())]}


def logits(result: Any, error: Any) -> Any:
    return str(error) if error is not None else result.as_numpy("logits").tolist()


async def main(address: str, kind: str) -> None:
    module = tritonclient.grpc.aio if kind == "aio" else tritonclient.grpc
    client = module.InferenceServerClient(address)
    sweep = Sweep(client, module)
    told: dict[str, Any] = {}
    parts = [about_the_server, infer, through_shared_memory, through_cuda_shared_memory]
    parts += [in_a_stream if kind == "aio" else asynchronously, about_the_model, control]
    for part in parts:
        told |= await part(sweep)
    told["left"] = sweep.left()
    if kind == "aio":
        await client.close()
    else:
        client.close()
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
