"""The Open Inference Protocol's core RPCs, over the repository."""

from collections.abc import Sequence

from normserve_proto import open_inference_pb2 as pb
from normserve_proto import tensors, wire

from normserve_server.calls import Call
from normserve_server.interceptors import Codec
from normserve_server.plans import InferRequest, InferResponse, Plans
from normserve_server.regions import Regions
from normserve_server.repository import Repository
from normserve_server.servable import TensorSpec


class InferenceServicer:
    """Handlers of `inference.GRPCInferenceService`.

    Args:
        repository: the models.
        version: the server's version, for ServerMetadata.
        extensions: what it offers beyond the protocol's core, by Triton's names.
        regions: the shared memory that requests may name.
    """

    codecs: dict[str, Codec]

    def __init__(self, repository: Repository, version: str, extensions: Sequence[str], regions: Regions) -> None:
        self._repository = repository
        self._plans = Plans(repository, regions)
        self._version = version
        self._extensions = extensions
        self.parse = RequestReader()
        self.codecs = {"ModelInfer": (self.parse, serialize_response)}

    async def ServerLive(self, _request: pb.ServerLiveRequest, _call: Call) -> pb.ServerLiveResponse:  # noqa: N802
        """Whoever reads this answer knows that the server is live."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, _request: pb.ServerReadyRequest, _call: Call) -> pb.ServerReadyResponse:  # noqa: N802
        """Whether every model that is to serve has a version that does."""
        return pb.ServerReadyResponse(ready=self._repository.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:  # noqa: N802
        """Whether a version serves; NOT_FOUND where there is none."""
        version = self._repository.find(request.name, request.version)
        call.model, call.version = version.labels
        return pb.ModelReadyResponse(ready=version.ready)

    async def ServerMetadata(  # noqa: N802
        self, _request: pb.ServerMetadataRequest, _call: Call
    ) -> pb.ServerMetadataResponse:
        """Name, version, and the extensions of the protocol that are on."""
        return pb.ServerMetadataResponse(name="normserve", version=self._version, extensions=self._extensions)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, call: Call
    ) -> pb.ModelMetadataResponse:
        """Inputs, outputs and, in `properties`, what folding did and what computes."""
        version = self._repository.serving(request.name, request.version)
        call.model, call.version = version.labels
        return pb.ModelMetadataResponse(
            name=version.model,
            versions=self._repository.versions_of(version.model),
            platform=version.config.platform,
            inputs=[_tensor_metadata(spec) for spec in version.signature.inputs],
            outputs=[_tensor_metadata(spec) for spec in version.signature.outputs],
            properties=version.properties,
        )

    async def ModelInfer(self, request: InferRequest, call: Call) -> InferResponse:  # noqa: N802
        """Runs a model on one request's tensors."""
        planned, work = self._plans.find(request, call)
        call.lap("decode")
        batcher = planned.version.batcher
        outputs = batcher.run_now(work, call)
        if outputs is None:
            outputs = await batcher.submit(work, call)
        return planned.answer(work, outputs)


class RequestReader:
    """Splits a ModelInferRequest into its head, which is not parsed yet, and its raw contents, as views of the message."""

    def __init__(self) -> None:
        self._splitter = wire.Splitter(wire.RAW_INPUT_CONTENTS)

    def __call__(self, data: bytes) -> InferRequest:
        """Reads a message."""
        return InferRequest(*self._splitter.split(data))


def serialize_response(response: InferResponse) -> bytes:
    """Serializes an answer; each output's memory is copied once."""
    return wire.join(response.head, wire.RAW_OUTPUT_CONTENTS, [tensors.encode(array) for array in response.outputs])


def _tensor_metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
