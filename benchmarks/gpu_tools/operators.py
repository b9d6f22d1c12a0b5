"""The normalization operators on tensors that are on the device, beside a copy of the same bytes."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from normserve_proto.tensors import Array
from normserve_server import operators
from normserve_server.accelerators.interface import Accelerator, Lane
from normserve_server.operators.device import DeviceTensor, crossing

CHANNELS, GROUPS, ROW = 64, 8, 1024
LAPS = 5

Operator = Callable[[DeviceTensor], Any]


def gigabytes_per_second(accelerator: Accelerator, nbytes: int) -> dict[str, float]:
    """What each operator reads and writes in a second, and "copy", which does nothing else; the median of `LAPS`.

    Args:
        accelerator: where.
        nbytes: size of the tensor, a multiple of 256 KiB; as much is written as is read.
    """
    ones, zeros = np.ones(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
    row = np.ones(ROW, np.float32)
    image = np.ones((nbytes // (CHANNELS * ROW * 4), CHANNELS, ROW), np.float32)
    subjects: dict[str, Operator] = {
        "copy": lambda x: x.crossing.run(x.tensor.clone),
        "layer_norm": lambda x: operators.layer_norm(x, (ROW,), row, row),
        "group_norm": lambda x: operators.group_norm(x, GROUPS, ones, zeros),
        "batch_norm": lambda x: operators.batch_norm(x, zeros, ones, ones, zeros),
    }
    lane = accelerator.lane()
    laps = {name: [_lap(accelerator, lane, image, subject) for _ in range(LAPS + 1)][1:] for name, subject in subjects.items()}
    return {name: 2 * image.nbytes / statistics.median(seconds) / 1e9 for name, seconds in laps.items()}


def _lap(accelerator: Accelerator, lane: Lane, image: Array, subject: Operator) -> float:
    """The device's seconds for one call."""
    with crossing(accelerator, lane) as way:
        x = way.put(image)
        way.run(x.tensor.clone)  # while the device is at this, the host orders what is measured
        began = lane.record()
        subject(x)
        ended = lane.record()
        ended.synchronize()
        return ended.seconds_since(began)
