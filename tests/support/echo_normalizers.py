# ruff: noqa: N802 - methods have the names of their RPCs
"""A NormalizerService that keeps what it is told, gives inputs back as they came, and counts what would be updates."""

import grpc
from google.protobuf.empty_pb2 import Empty
from normserve_proto import normalizers_pb2 as pb
from normserve_proto import normalizers_pb2_grpc


class EchoNormalizers(normalizers_pb2_grpc.NormalizerServiceServicer):
    def __init__(self, plan):
        self.plan = plan
        self.normalizers = {}
        self.states = {}
        self.answered = set()

    def _meet(self, method, request, context):
        self.plan.meet(method, request, context)
        name = getattr(request, "name", "")
        if name and name not in self.normalizers:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no normalizer '{name}'")
        return self.normalizers.get(name)

    def _count(self, normalizer, request_id):
        if request_id not in self.answered:
            normalizer.sequence += 1
        self.answered.add(request_id)
        return normalizer.sequence

    def CreateNormalizer(self, request, context):
        self._meet("CreateNormalizer", request, context)
        name = f"normalizers/{request.normalizer_id}"
        made = pb.Normalizer() if not request.snapshot else pb.Normalizer.FromString(request.snapshot)
        made.MergeFrom(request.normalizer)
        made.name, made.etag = name, "1"
        made.create_time.FromSeconds(1_700_000_000)
        self.normalizers[name] = made
        return made

    def GetNormalizer(self, request, context):
        return self._meet("GetNormalizer", request, context)

    def ListNormalizers(self, request, context):
        self._meet("ListNormalizers", request, context)
        names, start = sorted(self.normalizers), int(request.page_token or 0)
        stop = start + (request.page_size or 50)
        token = str(stop) if stop < len(names) else ""
        return pb.ListNormalizersResponse(
            normalizers=[self.normalizers[name] for name in names[start:stop]], next_page_token=token
        )

    def UpdateNormalizer(self, request, context):
        self.plan.meet("UpdateNormalizer", request, context)
        return request.normalizer

    def DeleteNormalizer(self, request, context):
        self._meet("DeleteNormalizer", request, context)
        del self.normalizers[request.name]
        return Empty()

    def ApplyNormalizer(self, request, context):
        normalizer = self._meet("ApplyNormalizer", request, context)
        if request.mode != pb.MODE_EVALUATION:
            self._count(normalizer, request.request_id)
        return pb.ApplyNormalizerResponse(output=request.input, sequence=normalizer.sequence)

    def ObserveNormalizer(self, request, context):
        normalizer = self._meet("ObserveNormalizer", request, context)
        return pb.ObserveNormalizerResponse(sequence=self._count(normalizer, request.request_id))

    def GetStateDict(self, request, context):
        normalizer = self._meet("GetStateDict", request, context)
        return pb.StateDict(tensors=self.states.get(request.name, ()), etag="9", sequence=normalizer.sequence)

    def LoadStateDict(self, request, context):
        normalizer = self._meet("LoadStateDict", request, context)
        self.states[request.name] = request.tensors
        return normalizer

    def GetSnapshot(self, request, context):
        return pb.Snapshot(safetensors=self._meet("GetSnapshot", request, context).SerializeToString())
