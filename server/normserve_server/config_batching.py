"""`dynamic_batching` and the parameter `batch_buckets`: how a model's batches are cut."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from normserve_proto import open_inference_pb2 as pb

from normserve_server.errors import LoadError

_DYNAMIC = "dynamic_batching"


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How long requests of one priority wait, and how many.

    Attributes:
        timeout_seconds: longest stay in the queue where the request says nothing; None for any.
        timeout_override: whether a request may choose a shorter or longer stay.
        delay_expired: those whose time is over wait behind all others of their priority and of higher ones, instead of being
            refused.
        max_queue_size: most requests that wait; None for the server's setting.
    """

    timeout_seconds: float | None = None
    timeout_override: bool = True
    delay_expired: bool = False
    max_queue_size: int | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """How batches are cut; ModelDynamicBatching's fields in this service's units.

    Attributes:
        preferred_sizes: sizes, in samples, worth waiting for, ascending; empty for the largest that there is.
        max_delay_seconds: longest wait for company; 0 for none.
        preserve_ordering: answers leave in the order that requests came.
        priority_levels: priorities are 1, the highest, to this; 0 where all requests are equal.
        default_priority: of a request that names none.
        policy: of every priority that has none of its own in `policies`.
        policies: by priority.
        buckets: sizes that batches are padded to, ascending; empty for none; None for the device's default.
    """

    preferred_sizes: tuple[int, ...] = ()
    max_delay_seconds: float = 0.0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority: int = 0
    policy: QueuePolicy = QueuePolicy()
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)
    buckets: tuple[int, ...] | None = None


def read(message: pb.ModelDynamicBatching, buckets: tuple[int, ...] | None) -> Batching:
    """Reads the message; `check` holds it against the batch size, once that is known.

    Args:
        message: `dynamic_batching`; empty where there is none.
        buckets: the parameter `batch_buckets`; None where there is none.

    Raises:
        LoadError: a priority is out of range, or a timeout action is unknown.
    """
    _check_priorities(message)
    has_policy = message.HasField("default_queue_policy")
    return Batching(
        preferred_sizes=tuple(sorted(set(message.preferred_batch_size))),
        max_delay_seconds=message.max_queue_delay_microseconds / 1e6,
        preserve_ordering=message.preserve_ordering,
        priority_levels=message.priority_levels,
        default_priority=message.default_priority_level,
        policy=_policy(message.default_queue_policy) if has_policy else QueuePolicy(),
        policies={level: _policy(policy) for level, policy in sorted(message.priority_queue_policy.items())},
        buckets=buckets,
    )


def check(batching: Batching, max_batch_size: int) -> None:
    """Holds sizes against the largest batch, in samples; 0 where the model has no batch axis.

    Raises:
        LoadError: a size is none that a batch can have, or the last bucket is not the largest batch.
    """
    for size in batching.preferred_sizes:
        if not 1 <= size <= max_batch_size:
            raise LoadError(f"{_DYNAMIC}.preferred_batch_size is 1 to max_batch_size, which is {max_batch_size}, got {size}")
    buckets = batching.buckets
    if not buckets:
        return
    ascending = all(lower < higher for lower, higher in pairwise((0, *buckets)))
    if not ascending or buckets[-1] != max_batch_size:
        raise LoadError(
            f"parameters[batch_buckets] ascends to max_batch_size, which is {max_batch_size}, got {','.join(map(str, buckets))}"
        )


def _check_priorities(message: pb.ModelDynamicBatching) -> None:
    levels, default = message.priority_levels, message.default_priority_level
    if levels and not 1 <= default <= levels:
        raise LoadError(f"{_DYNAMIC}.default_priority_level is 1 to priority_levels, which is {levels}, got {default}")
    if default and not levels:
        raise LoadError(f"{_DYNAMIC}.default_priority_level is {default}, but priority_levels is not set")
    for level in sorted(message.priority_queue_policy):
        if not 1 <= level <= levels:
            raise LoadError(f"{_DYNAMIC}.priority_queue_policy is for 1 to priority_levels, which is {levels}, got {level}")


def _policy(message: pb.ModelQueuePolicy) -> QueuePolicy:
    if message.timeout_action not in pb.ModelQueuePolicy.TimeoutAction.values():
        raise LoadError(f"{_DYNAMIC}: timeout_action is REJECT or DELAY, got {message.timeout_action}")
    return QueuePolicy(
        timeout_seconds=message.default_timeout_microseconds / 1e6 if message.default_timeout_microseconds else None,
        timeout_override=message.allow_timeout_override,
        delay_expired=message.timeout_action == pb.ModelQueuePolicy.DELAY,
        max_queue_size=message.max_queue_size or None,
    )
