"""What is to be measured, with the inputs that nobody has given."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from normserve_proto.tensors import DTYPES, Array

from normserve_server.accelerators.tuning import Tuning
from normserve_server.errors import InvalidRequestError
from normserve_server.onnx_signature import DATATYPES


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be measured.

    Attributes:
        path: the ONNX file; it is run as it is.
        inputs: by name; zeros where one is not given.
        samples: extent of a dynamic first dimension of those, > 0.
        runs: how many, > 0.
        threads: within one operator; 0 for one per core.
        tuning: how a GPU is used.
    """

    path: Path
    inputs: Mapping[str, Array]
    samples: int
    runs: int
    threads: int
    tuning: Tuning


def complete(nodes: Iterable[Any], subject: Subject) -> dict[str, Array]:
    """Gives zeros for the inputs that are not given.

    Args:
        nodes: the session's inputs.
        subject: what is given.

    Raises:
        InvalidRequestError: an extent beyond the first is dynamic, or there is no input of a name that is given, or one of
            strings.
    """
    found = {node.name: node for node in nodes}
    if unknown := sorted(set(subject.inputs) - set(found)):
        raise InvalidRequestError(f"{subject.path} has no input {', '.join(unknown)}; it has {', '.join(found)}")
    if strings := [name for name, node in found.items() if node.type == "tensor(string)"]:
        raise InvalidRequestError(
            f"input '{strings[0]}' is of strings, which onnxruntime does not bind: profile it on a server"
        )
    given = {name: np.require(array, requirements="C") for name, array in subject.inputs.items()}
    return {name: given[name] if name in given else _zeros(node, subject.samples) for name, node in found.items()}


def _zeros(node: Any, samples: int) -> Array:
    extents = [
        samples if position == 0 and not isinstance(extent, int) else extent for position, extent in enumerate(node.shape)
    ]
    if not all(isinstance(extent, int) for extent in extents):
        raise InvalidRequestError(f"input '{node.name}' has shape {node.shape}, give it: nobody says which sizes it takes")
    if node.type not in DATATYPES:
        raise InvalidRequestError(f"input '{node.name}' is a {node.type}, of which there are no zeros")
    return np.zeros(extents, DTYPES[DATATYPES[node.type]])
