"""What a state dict has to be before it takes the place of a state: `strict`, as torch's load_state_dict is by default."""

from collections.abc import Mapping

import numpy as np
from normserve_proto.tensors import Array, datatype_of

from normserve_server.errors import InvalidRequestError

FLOATS = ("FP16", "BF16", "FP32", "FP64")


def expect(tensors: Mapping[str, Array], present: Mapping[str, Array]) -> dict[str, Array]:
    """Checks the tensors against those that are there, and gives them in their order and dtypes.

    As in torch, floating types are converted, and a vector of one may stand for a scalar.

    Args:
        tensors: what came.
        present: what it takes the place of.

    Raises:
        InvalidRequestError: names, shapes or kinds differ.
    """
    _check_names(tensors, present)
    return {name: _fitting(name, tensors[name], array) for name, array in present.items()}


def _check_names(tensors: Mapping[str, Array], present: Mapping[str, Array]) -> None:
    missing = [f'"{name}"' for name in present if name not in tensors]
    unexpected = [f'"{name}"' for name in tensors if name not in present]
    texts = [
        f"{what} key(s) in state_dict: {', '.join(names)}."
        for what, names in (("Missing", missing), ("Unexpected", unexpected))
        if names
    ]
    if texts:
        raise InvalidRequestError(" ".join(texts))


def _fitting(name: str, array: Array, like: Array) -> Array:
    if not like.shape and array.shape == (1,):
        array = array.reshape(())
    if array.shape != like.shape:
        raise InvalidRequestError(
            f"size mismatch for {name}: copying a param with shape {list(array.shape)} from checkpoint, "
            f"the shape in current model is {list(like.shape)}."
        )
    datatype = datatype_of(array)
    wanted = FLOATS if like.dtype.kind == "f" else (datatype_of(like),)
    if datatype not in wanted:
        raise InvalidRequestError(f"{name} is {' or '.join(wanted)}, got {datatype}")
    with np.errstate(all="ignore"):
        return array.astype(like.dtype, copy=False)
