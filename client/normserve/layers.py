"""What a named normalizer computes, what a server tells of one, and its state: torch.nn's layers as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from normserve_proto.tensors import Array

from normserve import torch_tensors

STATE_VERSION = 2  # of the state of torch.nn's layers with running statistics, since they count batches


@dataclass(frozen=True, slots=True)
class BatchNormLayer:
    """torch.nn.BatchNorm1d, 2d and 3d.

    Attributes:
        num_features: C of inputs [N, C, ...], > 0.
        dimensions: 1, 2 or 3: which of the three layers, and so which ranks it takes; 0 for any rank from 2 on.
        eps: added to the variance, >= 0; > 0 to train.
        momentum: share of a batch in the update, 0 to 1; None for the average over all batches.
        affine: whether there are weight and bias, 1 and 0 at first.
        track_running_stats: whether there are running statistics, 0 and 1 at first.
        dtype: of parameters and statistics, float32 or float64.
    """

    num_features: int
    dimensions: int = 0
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True
    dtype: npt.DTypeLike = np.float32


@dataclass(frozen=True, slots=True)
class InstanceNormLayer:
    """torch.nn.InstanceNorm1d, 2d and 3d.

    Attributes:
        num_features: C of inputs [N, C, ...] or [C, ...], > 0.
        dimensions: 1, 2 or 3: which of the three layers, and so how many axes there are beside C.
        eps: added to the variance.
        momentum: share of an input in the update, 0 to 1; None is 0, as in PyTorch.
        affine: whether there are weight and bias, 1 and 0 at first.
        track_running_stats: whether there are running statistics, 0 and 1 at first.
        dtype: of parameters and statistics, float32 or float64.
    """

    num_features: int
    dimensions: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = False
    track_running_stats: bool = False
    dtype: npt.DTypeLike = np.float32


@dataclass(frozen=True, slots=True)
class RunningNormLayer:
    """Mean and variance over all samples seen, each alike: clip((x - mean) / sqrt(var + eps), -clip, clip).

    In training a tensor is observed first and then normalized. The statistics are float64, the variance is the biased one.

    Attributes:
        shape: extents of one sample; inputs are [..., *shape] or one sample. Empty for scalars.
        eps: added to the variance, > 0.
        clip: largest absolute value of an output, > 0; None for no limit.
    """

    shape: tuple[int, ...] = ()
    eps: float = 1e-8
    clip: float | None = None


Layer: TypeAlias = BatchNormLayer | InstanceNormLayer | RunningNormLayer


@dataclass(frozen=True, slots=True)
class NormalizerInfo:
    """What a server tells of a normalizer.

    Attributes:
        name: its name, without "normalizers/".
        layer: what it computes.
        training: whether `apply` trains where it is not told.
        etag: changes with every change, those of the statistics included.
        sequence: updates of the statistics so far.
        create_time: when it was made.
        update_time: when it last changed.
    """

    name: str
    layer: Layer
    training: bool
    etag: str
    sequence: int
    create_time: datetime
    update_time: datetime


class Applied(NamedTuple):
    """A normalized array, and which update of the normalizer its call was.

    Attributes:
        output: dtype and shape of the input.
        sequence: the normalizer's after the call's own update; as it was where there was none.
    """

    output: Array
    sequence: int


class StateDict(dict[str, Array]):
    """What the layer's state_dict() holds, in its order, as read-only arrays.

    Attributes:
        etag: the normalizer's when it had this state.
        sequence: the normalizer's when it had this state.
    """

    def __init__(self, arrays: Mapping[str, Array], etag: str = "", sequence: int = 0) -> None:
        super().__init__(arrays)
        self.etag = etag
        self.sequence = sequence

    def torch(self) -> dict[str, Any]:
        """Gives what torch.nn.Module.load_state_dict takes: an OrderedDict of tensors, with a version; needs torch."""
        return torch_tensors.state_dict(self, STATE_VERSION)
