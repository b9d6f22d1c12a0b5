"""report.json: what became of each batch norm of a file, and how exact the result is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SCHEMA = 2


def engine_version() -> str:
    """Return the version of the installed package, or "0" where it runs from its source alone."""
    try:
        return version("normserve")
    except PackageNotFoundError:
        return "0"


@dataclass
class Cost:
    """What a fold has added, or saved where a figure is negative.

    Attributes:
        nodes: Of the graph.
        weight_bytes: Of constants, in the types of the file.
        activation_bytes: Read and written by elementwise passes for one sample, at the shape that the file gives; None where
            it gives none.
    """

    nodes: int
    weight_bytes: int
    activation_bytes: int | None


@dataclass
class Norm:
    """What became of one batch norm.

    Attributes:
        name: The node, or its first output where the node has no name.
        scale: Its first parameter, which often tells the layer better than the name does.
        folded: Whether it is gone.
        into: The nodes that took it in; empty where it stayed.
        reason: The code of `legality.Reason` where it stayed.
        detail: What exactly stood in the way, for people.
        way: What its map met, step by step, whether it arrived or not.
        cost: What the fold cost and saved; None where it stayed, or went as a part of another one's map.
    """

    name: str
    scale: str
    folded: bool
    into: list[str] = field(default_factory=list)
    reason: str | None = None
    detail: str | None = None
    way: list[str] = field(default_factory=list)
    cost: Cost | None = None


@dataclass
class OutputError:
    """How far an output is from float64: max |y - reference| / max |reference|, for an integer output the share that differs.

    Attributes:
        name: The output.
        folded: The error of the folded file; None where it is not finite.
        unfolded: The error of the source.
        bound: What `folded` was held to.
    """

    name: str
    folded: float | None
    unfolded: float | None
    bound: float | None


@dataclass
class LayerError:
    """How far a layer that the fold has changed is from float64, on one batch; measured as for an output.

    Attributes:
        name: The node of the folded file, or the value where the node has no name.
        value: What was compared: an output of that node, which has its name in both files.
        folded: The error of the folded file; None where it is not finite.
        unfolded: The error of the source.
    """

    name: str
    value: str
    folded: float | None
    unfolded: float | None


@dataclass
class RunCost:
    """What a run of one sample costs in onnxruntime on the CPU, both files in turn in one process.

    Attributes:
        unfolded_ms: Milliseconds, the median of the source.
        folded_ms: Milliseconds, the median of the folded file.
        ratio: folded_ms / unfolded_ms.
        runs: How many runs of each were timed.
        threads: Threads within one operator.
    """

    unfolded_ms: float
    folded_ms: float
    ratio: float
    runs: int
    threads: int


@dataclass
class Precision:
    """What a conversion to 16 bits has done.

    Attributes:
        dtype: "float16" or "bfloat16".
        constants: How many are of it now.
        zeroed: How many of their values were not 0 and are.
        subnormal: How many of their values are below its smallest normal number, and so have fewer digits.
        wide: The operators that stayed in float32, at least in part, each with how many there are.
        errors: One entry an output: `folded` of the converted file, `unfolded` of the source converted as it is.
    """

    dtype: str
    constants: int
    zeroed: int
    subnormal: int
    wide: dict[str, int]
    errors: list[OutputError]


@dataclass
class Report:
    """The whole story of one file.

    Attributes:
        source_sha256: The hash of the ONNX file that went in, without its external data.
        norms: One entry a batch norm, in the order of the graph.
        errors: One entry an output; empty where there was nothing to prove.
        layers: One entry a layer that the fold has changed, in the order of the graph; empty where onnxruntime does not run
            the files node by node.
        precision: What a conversion to 16 bits has done, and its errors; None where none was asked for.
        run: What a run costs before and after; None where that was not measured.
        proof: What was proved and on what, in a sentence.
        seconds: How long each step took.
        engine: The version of normserve.
        schema: The version of this format.
    """

    source_sha256: str
    norms: list[Norm]
    errors: list[OutputError] = field(default_factory=list)
    layers: list[LayerError] = field(default_factory=list)
    precision: Precision | None = None
    run: RunCost | None = None
    proof: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    engine: str = field(default_factory=engine_version)
    schema: int = SCHEMA

    @property
    def folded(self) -> int:
        """How many batch norms are gone."""
        return sum(norm.folded for norm in self.norms)

    @property
    def left(self) -> int:
        """How many batch norms stayed."""
        return len(self.norms) - self.folded

    def to_json(self) -> str:
        """Return the report as JSON, with the two counts."""
        return json.dumps({**asdict(self), "folded": self.folded, "left": self.left}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` has written.

        Raises:
            ValueError: It is no JSON, or of another schema.
            KeyError: A field is lacking.
        """
        data = json.loads(text)
        if data.get("schema") != SCHEMA:
            raise ValueError(f"the report has schema {data.get('schema')}, wanted {SCHEMA}")
        return cls(
            source_sha256=data["source_sha256"],
            norms=[_norm(norm) for norm in data["norms"]],
            errors=[OutputError(**error) for error in data["errors"]],
            layers=[LayerError(**error) for error in data["layers"]],
            precision=_precision(data["precision"]),
            run=None if data["run"] is None else RunCost(**data["run"]),
            proof=data["proof"],
            seconds=data["seconds"],
            engine=data["engine"],
        )


def _precision(data: dict[str, Any] | None) -> Precision | None:
    if data is None:
        return None
    return Precision(**{**data, "errors": [OutputError(**error) for error in data["errors"]]})


def _norm(data: dict[str, Any]) -> Norm:
    cost = data.pop("cost")
    return Norm(**data, cost=None if cost is None else Cost(**cost))
