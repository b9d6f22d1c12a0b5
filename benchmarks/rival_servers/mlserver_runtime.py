"""MLServer's runtime for an ONNX file: its codec in, one run in the server's process, its codec out. Needs its environment."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):  # type: ignore[misc] # not installed where types are checked
    """Runs the file that `parameters.uri` names, on one thread."""

    async def load(self) -> bool:
        """Opens the session."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        uri = self._settings.parameters.uri
        self._session = onnxruntime.InferenceSession(uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers a request with one input and one output."""
        tensor = payload.inputs[0]
        (output,) = self._session.run(None, {tensor.name: self.decode(tensor, default_codec=NumpyCodec)})
        encoded = NumpyCodec.encode_output(self._session.get_outputs()[0].name, output)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[encoded])
