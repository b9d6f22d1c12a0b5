"""The first inferences of a model: they pay what only first ones cost, and tell how long one takes."""

from collections.abc import Mapping

import numpy as np
from normserve_proto.tensors import DTYPES, Array

from normserve_server.calls import now
from normserve_server.servable import DYNAMIC, Servable, Signature, TensorSpec

RUNS = 5


def zeros(signature: Signature, size: int = 1) -> Mapping[str, Array] | None:
    """Gives samples of zeros (of empty strings for BYTES); None where an extent beyond the batch's is not known.

    Args:
        signature: of the model.
        size: how many samples, > 0; only one where the model has no batch axis.
    """
    batched = 1 if signature.max_batch_size else 0
    if any(DYNAMIC in spec.shape[batched:] for spec in signature.inputs):
        return None
    return {spec.name: _zero(spec, (size,) * batched) for spec in signature.inputs}


def seconds_per_run(servable: Servable, inputs: Mapping[str, Array]) -> float:
    """Runs a servable `RUNS` times and returns the seconds of the fastest one.

    Raises:
        ServiceError: the servable failed.
    """
    laps = []
    for _ in range(RUNS):
        started = now()
        servable.run(inputs)
        laps.append(now() - started)
    return min(laps)


def _zero(spec: TensorSpec, batch: tuple[int, ...]) -> Array:
    shape = batch + spec.shape[len(batch) :]
    return np.full(shape, b"", np.object_) if spec.datatype == "BYTES" else np.zeros(shape, DTYPES[spec.datatype])
