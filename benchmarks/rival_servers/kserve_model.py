"""KServe's model server with an ONNX file, run inline on one thread. Needs its environment.

kserve_model.py NAME FILE --grpc_port PORT --http_port PORT
"""

import asyncio
import sys
from typing import Any

import kserve
import onnxruntime
import uvloop


class OnnxModel(kserve.Model):  # type: ignore[misc] # not installed where types are checked
    """Runs a file, on one thread."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload: kserve.InferRequest, _headers: Any = None) -> kserve.InferResponse:
        """Answers a request with one input and one output."""
        tensor = payload.inputs[0]
        (output,) = self._session.run(None, {tensor.name: tensor.as_numpy()})
        answer = kserve.InferOutput(self._session.get_outputs()[0].name, list(output.shape), "FP32")
        answer.set_data_from_numpy(output)
        return kserve.InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[answer])


if __name__ == "__main__":
    uvloop.install()  # as the others do; its server would take asyncio's loop
    asyncio.set_event_loop(uvloop.new_event_loop())  # which it asks for before it runs one
    kserve.ModelServer(enable_latency_logging=False).start([OnnxModel(*sys.argv[1:3])])
