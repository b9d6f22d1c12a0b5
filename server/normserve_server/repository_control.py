"""The repository's RPCs: what there is, and, in mode `explicit`, loading and unloading it."""

from normserve_proto import open_inference_pb2 as pb

from normserve_server import load_request
from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError
from normserve_server.model_control import ModelControl
from normserve_server.repository import Repository

UNLOAD_DEPENDENTS = "unload_dependents"  # Triton's clients always send it; no model here depends on another


class RepositoryControlServicer:
    """Handlers of `inference.GRPCInferenceService`.

    Args:
        repository: the models.
        control: what loads and unloads them.
    """

    def __init__(self, repository: Repository, control: ModelControl) -> None:
        self._repository = repository
        self._control = control

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, _call: Call
    ) -> pb.RepositoryIndexResponse:
        """Every version with its state, and the reason where it, or what is newer in its folder, does not serve."""
        roots = self._control.roots(request.repository_name)
        await self._control.look()
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                index(name=version.model, version=version.number, state=version.state, reason=version.reason)
                for version in self._repository.versions()
                if (version.ready or not request.ready) and (not request.repository_name or version.within(roots))
            ]
        )

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, _call: Call
    ) -> pb.RepositoryModelLoadResponse:
        """Answers when the model serves as it was asked to."""
        await self._control.load(load_request.parse(request))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, _call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Answers when the model has finished what it accepted, and its memory is free."""
        if unknown := sorted(set(request.parameters) - {UNLOAD_DEPENDENTS}):
            raise InvalidRequestError(f"parameter '{unknown[0]}' of an unload is unknown; there is {UNLOAD_DEPENDENTS}")
        await self._control.unload(request.model_name, request.repository_name)
        return pb.RepositoryModelUnloadResponse()
