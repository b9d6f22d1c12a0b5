"""Calls every method of kserve's gRPC client, in kserve's own environment, and prints what each answered as JSON.

Usage: python kserve_client.py ADDRESS
"""

import asyncio
import json
import logging
import sys
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

MODEL = "digits"
IMAGES = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)


def request(model: str, *, raw: bool, images: np.ndarray = IMAGES) -> InferRequest:
    image = InferInput("image", list(images.shape), "FP32")
    image.set_data_from_numpy(images, binary_data=raw)
    return InferRequest(model, [image], request_id="42", parameters={"priority": 1})


async def infer(client: InferenceGRPCClient, *, raw: bool) -> dict[str, Any]:
    response = await client.infer(request(MODEL, raw=raw), timeout=30, headers=[("x-caller", "kserve")])
    (output,) = response.outputs
    return {
        "model": [response.model_name, response.model_version, response.id],
        "output": [output.name, output.datatype, list(output.shape)],
        "logits": output.as_numpy().tolist(),
    }


async def refusal(client: InferenceGRPCClient, asked: InferRequest) -> list[str]:
    try:
        await client.infer(asked)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return []


async def main(address: str) -> None:
    logging.disable(logging.CRITICAL)  # it logs what it raises
    async with InferenceGRPCClient(address) as client:
        told = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(MODEL),
            "raw": await infer(client, raw=True),
            "typed": await infer(client, raw=False),
            "unknown": await refusal(client, request("nothing", raw=True)),
            "wrong": await refusal(client, request(MODEL, raw=True, images=np.zeros((1, 8, 8, 1), np.float32))),
        }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
