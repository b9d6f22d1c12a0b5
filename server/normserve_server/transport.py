"""gRPC's own side of the service: its options, the services beside ours, and what reflection tells."""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pool, empty_pb2, field_mask_pb2, timestamp_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from normserve_proto import normalization_pb2, normalizers_pb2, open_inference_pb2

INFERENCE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
NORMALIZATION = normalization_pb2.DESCRIPTOR.services_by_name["NormalizationService"]
NORMALIZERS = normalizers_pb2.DESCRIPTOR.services_by_name["NormalizerService"]

INT32_MAX = 2**31 - 1
OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # Admission limits what is taken on
    ("grpc.max_send_message_length", -1),
    # Admission refuses what is too much, and says when to come back; gRPC itself would cancel calls, which nobody tries again.
    ("grpc.server.max_pending_requests", INT32_MAX),
    ("grpc.server.max_pending_requests_hard_limit", INT32_MAX),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),  # gRPC's 5 minutes end connections of callers that ask more often
)


def full_names() -> dict[str, str]:
    """Gives the full names of the services' RPCs, such as "inference.GRPCInferenceService/ModelInfer", by their short ones."""
    services = (INFERENCE, NORMALIZATION, NORMALIZERS)
    return {method.name: f"{service.full_name}/{method.name}" for service in services for method in service.methods}


def options(keepalive_seconds: float, *, shares_port: bool) -> tuple[tuple[str, int], ...]:
    """Gives the options of a server.

    Args:
        keepalive_seconds: after how much silence a peer is asked whether it is there, and after as much more taken for gone.
        shares_port: whether other processes listen on the port too.
    """
    # One that is alone must say 0, or a second server would silently share its port.
    return (*OPTIONS, ("grpc.so_reuseport", int(shares_port)), *_keepalive(keepalive_seconds))


def server(
    options: Sequence[tuple[str, int]], handlers: Sequence[grpc.GenericRpcHandler], health: health_pb2_grpc.HealthServicer
) -> grpc.aio.Server:
    """Makes a server of our services, health and reflection; it does not listen yet.

    Args:
        options: as `options` gives them.
        handlers: of our services.
        health: answers health checks.
    """
    made = grpc.aio.server(options=options)
    made.add_generic_rpc_handlers(handlers)
    health_pb2_grpc.add_HealthServicer_to_server(health, made)
    ours = (service.full_name for service in (INFERENCE, NORMALIZATION, NORMALIZERS))
    reflection.enable_server_reflection([*ours, "grpc.health.v1.Health", reflection.SERVICE_NAME], made, pool=_reflected())
    return made


def _keepalive(seconds: float) -> tuple[tuple[str, int], ...]:
    """Asks a silent peer whether it is there, and takes it for gone when it is silent for as long again.

    The calls of a peer that vanished, and what they hold, would else stay until the operating system notices, in hours.
    """
    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    return tuple((name, round(seconds * 1000)) for name in names)


def _reflected() -> descriptor_pool.DescriptorPool:
    """All services in one pool: ours live in a pool of their own, and reflection reads from one."""
    pool = descriptor_pool.DescriptorPool()
    imported = (empty_pb2, field_mask_pb2, timestamp_pb2)
    for module in (open_inference_pb2, normalization_pb2, *imported, normalizers_pb2, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool
