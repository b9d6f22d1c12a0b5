"""How many wait for each version and for how long, read off the queues whenever somebody asks for the service's state."""

from normserve_server.metrics import Metrics, Queue
from normserve_server.repository import Repository


class QueueMetrics:
    """Writes what waits into the metrics.

    Args:
        repository: the versions.
        metrics: where it is written.
    """

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        self._repository = repository
        self._metrics = metrics
        self._shown: set[tuple[str, str]] = set()

    def sample(self) -> None:
        """Looks at the queues now. A version that was unloaded and is still listed has an empty one, with no room."""
        if not self._metrics.recording:
            return
        shown = set()
        for version in self._repository.versions():
            if version.loaded is not None or version.labels in self._shown:
                shown.add(version.labels)
                queue = version.loaded.batcher.queue() if version.loaded is not None else Queue()
                self._metrics.queue(*version.labels, queue)
        self._shown = shown
