"""PyTorch's normalization operators on numpy arrays: its kernels, its semantics, its words when it refuses.

Beside `normalizers.kernels`, this package is the only place of the service that knows torch. FP16 and BF16 compute in float32
and are rounded once. What PyTorch does in place, updating running statistics, is done on copies, and the copies are returned.

Everywhere: `input` is a numpy array, or a tensor on a device, where the outcome then is too. It is FP16, BF16, FP32 or FP64;
parameters and statistics have its dtype, or FP32 beside FP16 and BF16; and `InvalidRequestError` carries what PyTorch says when
it refuses. Results on the host are PyTorch's bit for bit, but for big tensors in four operators: see `fast` and `fast_length`.
PyTorch's own training batch norm of [N, C] depends on its number of threads. `Place` chooses where an array is computed.
"""

import numpy as np
import torch

from normserve_server.operators.arrays import Normalized
from normserve_server.operators.batch import batch_norm, instance_norm
from normserve_server.operators.length import local_response_norm, normalize
from normserve_server.operators.place import LEAST_BYTES, Compute, Place
from normserve_server.operators.sample import group_norm, layer_norm, rms_norm

__all__ = [
    "Compute",
    "Normalized",
    "Place",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "normalize",
    "rms_norm",
    "use_one_thread",
    "warm_up",
]


def use_one_thread() -> int:
    """Has what the calling thread computes from now on computed by no other thread.

    That is for small tensors: PyTorch hands even the smallest out, and waking a thread takes longer than all the work (16 KB,
    batch_norm: 150 us and 20 us).

    Returns:
        The number of threads that it was computed by, which other threads should be given back: see `warm_up`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


def warm_up(threads: int, place: Place) -> None:
    """Pays the first call's costs of every operator, also on the device that big tensors are computed on.

    Args:
        threads: how many compute what the calling thread wants computed, and threads that have not computed yet.
        place: where operators compute.
    """
    torch.set_num_threads(threads)
    for extent in (2, LEAST_BYTES // 16) if place.apart else (2,):
        x = np.ones((2, 2, extent), np.float32)
        for compute in _every(extent):
            place.run(x, compute)


def _every(extent: int) -> list[Compute]:
    return [
        lambda x: batch_norm(x, None, None, training=True),
        instance_norm,
        lambda x: layer_norm(x, (extent,)),
        lambda x: group_norm(x, 1),
        lambda x: rms_norm(x, (extent,)),
        lambda x: local_response_norm(x, 2),
        normalize,
    ]
