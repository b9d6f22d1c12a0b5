"""What the service says of itself over HTTP, of one process or of several together."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

READY = "READY"
UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class State:
    """The service at this moment.

    Attributes:
        ready: whether it may be sent calls.
        models: each version's state, by "model/version".
        calls: admitted and not yet answered.
        size: of their requests, in bytes.
        exemplars: the last traced calls, as `exemplars.Traced` has them.
    """

    ready: bool = False
    models: dict[str, str] = field(default_factory=dict)
    calls: int = 0
    size: int = 0
    exemplars: list[Sequence[Any]] = field(default_factory=list)

    def packed(self) -> bytes:
        """Gives the bytes that `unpacked` reads."""
        return json.dumps(asdict(self)).encode()


def unpacked(data: bytes) -> State:
    """Reads what `State.packed` gave."""
    return State(**json.loads(data))


def together(states: Sequence[State]) -> State:
    """The state of a service that these processes make up: a version serves where it serves in all of them."""
    names = sorted({name for state in states for name in state.models})
    return State(
        ready=bool(states) and all(state.ready for state in states),
        models={name: _worst([state.models.get(name, UNKNOWN) for state in states]) for name in names},
        calls=sum(state.calls for state in states),
        size=sum(state.size for state in states),
        exemplars=[one for state in states for one in state.exemplars],
    )


def _worst(states: Sequence[str]) -> str:
    return next((state for state in states if state != READY), READY)


def ready_models(state: State) -> set[str]:
    """The versions that serve, by "model/version"."""
    return {name for name, words in state.models.items() if words == READY}
