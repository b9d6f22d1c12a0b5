"""An instance whose runs end when the test says so."""

from collections.abc import Callable, Sequence

import numpy as np
from normserve_server.errors import InternalError
from normserve_server.instance import Run
from normserve_server.statistics import Laps
from normserve_server.validation import Work

BAD = -1.0
LAPS = Laps(0.0, 1.0, 0.0)


class HeldInstance:
    """Doubles what it is given; an `x` that begins with `BAD` is what it cannot bear."""

    def __init__(self, device: str = "cpu", run_seconds: float = 1.0) -> None:
        self.device = device
        self.down = False
        self.run_seconds = run_seconds
        self.batch: Sequence[Work] = ()
        self.probed: BaseException | None = None
        self._done: Callable[[list[Run]], None] | None = None

    def quick(self, _work: Work) -> bool:
        return False

    def start(self, batch: Sequence[Work], done: Callable[[list[Run]], None]) -> None:
        assert self._done is None, "two batches at a time"
        self.batch, self._done = batch, done

    def finish(self) -> None:
        assert self._done is not None
        runs = [Run(one.size, LAPS, [self._outcome(one)]) for one in self.batch]
        done, self._done, self.batch = self._done, None, ()
        done(runs)

    async def probe(self, _timeout_seconds: float) -> None:
        if self.probed is not None:
            raise self.probed

    async def close(self) -> None:
        pass

    @staticmethod
    def _outcome(one: Work) -> Sequence[np.ndarray] | BaseException:
        x = one.inputs["x"]
        return InternalError("bad") if x[0, 0] == BAD else [x * 2]
