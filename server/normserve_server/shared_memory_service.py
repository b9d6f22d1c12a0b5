# ruff: noqa: N802 - methods have the names of their RPCs
"""The RPCs that register shared memory: the system's, and the GPU's, of which there is none."""

import asyncio

from normserve_proto import open_inference_pb2 as pb

from normserve_server.calls import Call
from normserve_server.errors import InvalidRequestError, NotFoundError, UnimplementedError
from normserve_server.regions import Regions
from normserve_server.shared_memory import Region


class SharedMemoryServicer:
    """Handlers of the shared memory RPCs of `inference.GRPCInferenceService`.

    Args:
        regions: where regions are kept.
    """

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, _call: Call
    ) -> pb.SystemSharedMemoryStatusResponse:
        """The region of a name, or all of them."""
        found = self._regions.all()
        if request.name:
            found = [self._regions.find(request.name)]
        status = pb.SystemSharedMemoryStatusResponse.RegionStatus
        regions = {r.name: status(name=r.name, key=r.key, offset=r.offset, byte_size=r.byte_size) for r in found}
        return pb.SystemSharedMemoryStatusResponse(regions=regions)

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, _call: Call
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Maps a range of a shared memory object under a name."""
        self._regions.check_allowed()
        if not request.name:
            raise InvalidRequestError("a shared memory region needs a name")
        # Off the loop, because reserving gigabytes takes its time.
        region = await asyncio.to_thread(Region, request.name, request.key, request.offset, request.byte_size)
        self._regions.add(region)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, _call: Call
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forgets a region, or all of them."""
        self._regions.remove(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest, _call: Call
    ) -> pb.CudaSharedMemoryStatusResponse:
        """No regions, ever."""
        _refuse_cuda_name(request.name)
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(
        self, _request: pb.CudaSharedMemoryRegisterRequest, _call: Call
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Is not offered."""
        raise UnimplementedError("CUDA shared memory is not offered by this server; system shared memory may be")

    async def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, _call: Call
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Forgets all regions, of which there are none: clients ask for it before they begin."""
        _refuse_cuda_name(request.name)
        return pb.CudaSharedMemoryUnregisterResponse()


def _refuse_cuda_name(name: str) -> None:
    if name:
        raise NotFoundError(f"no CUDA shared memory region '{name}' is registered")
