"""`instance_group`: how many instances of a model there are, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from normserve_proto import open_inference_pb2 as pb

from normserve_server.errors import LoadError

Kind = Literal["auto", "cpu", "gpu"]

KINDS: dict[pb.ModelInstanceGroup.Kind, Kind] = {
    pb.ModelInstanceGroup.KIND_AUTO: "auto",
    pb.ModelInstanceGroup.KIND_CPU: "cpu",
    pb.ModelInstanceGroup.KIND_GPU: "gpu",
}
MOST_INSTANCES = 1024  # of a group; each has a thread and a session


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Instances of one kind.

    Attributes:
        count: how many; for each GPU of `gpus` where there are some.
        kind: "auto" for the server's device, "cpu" or "gpu".
        gpus: numbers of the GPUs; empty for all with kind "gpu", and for the server's device with "auto".
        name: what it is called; empty for the model's name and the group's position.
    """

    count: int = 1
    kind: Kind = "auto"
    gpus: tuple[int, ...] = ()
    name: str = ""


def read(messages: Sequence[pb.ModelInstanceGroup]) -> tuple[InstanceGroup, ...]:
    """Reads the groups; one instance on the server's device where there are none.

    Raises:
        LoadError: a kind, count or GPU that cannot be.
    """
    groups = tuple(_group(f"instance_group[{position}]", message) for position, message in enumerate(messages))
    return groups or (InstanceGroup(),)


def message_of(group: InstanceGroup, name: str) -> pb.ModelInstanceGroup:
    """The group as ModelConfig tells it.

    Args:
        group: the group.
        name: what it is called where it has no name.
    """
    kinds = {kind: number for number, kind in KINDS.items()}
    return pb.ModelInstanceGroup(name=group.name or name, kind=kinds[group.kind], count=group.count, gpus=group.gpus)


def _group(place: str, message: pb.ModelInstanceGroup) -> InstanceGroup:
    kind = KINDS.get(message.kind)
    if kind is None:
        raise LoadError(f"{place}.kind is KIND_AUTO, KIND_CPU or KIND_GPU, got {_kind_name(message.kind)}")
    if not 0 <= message.count <= MOST_INSTANCES:
        raise LoadError(f"{place}.count is 1 to {MOST_INSTANCES}, got {message.count}")
    gpus = tuple(message.gpus)
    if gpus and kind == "cpu":
        raise LoadError(f"{place}.gpus is for KIND_GPU and KIND_AUTO, got {list(gpus)} for KIND_CPU")
    if any(gpu < 0 for gpu in gpus) or len(set(gpus)) < len(gpus):
        raise LoadError(f"{place}.gpus are different numbers >= 0, got {list(gpus)}")
    return InstanceGroup(message.count or 1, kind, gpus, message.name)


def _kind_name(number: pb.ModelInstanceGroup.Kind) -> str:
    kind = pb.ModelInstanceGroup.Kind
    return str(kind.Name(number)) if number in kind.values() else str(number)
