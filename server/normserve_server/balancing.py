"""Which of the instances that are free runs next: one on the device that has the least to do.

A version has one queue for all its instances, on whatever devices, and each takes from it as soon as it is free, so no request
waits behind a slow device while another is free. What is left to choose is who goes first where several are free.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from normserve_server.instance import Instance

Load: TypeAlias = Counter[str]  # batches that run on each device, of all models; all on the event loop


class Free:
    """The instances of one version that have nothing to do.

    Those that are down are left out as long as another one is not: they would fail at once what they are given, be free again,
    and fail the next.

    Args:
        instances: all of them, in the beginning.
        load: what the devices do, which is written here and by the other versions.
    """

    def __init__(self, instances: Sequence[Instance], load: Load) -> None:
        self._all = instances
        self._instances = list(instances)
        self._load = load
        self._several = len({instance.device for instance in instances}) > 1

    @property
    def all(self) -> bool:
        """Whether none has anything to do."""
        return len(self._instances) == len(self._all)

    def next(self) -> Instance | None:
        """The one to run next: on the device with the fewest batches, then where a run takes least; None where there is none.

        Of equals it is the one that ran last, whose memory is still in a cache.
        """
        if not self._several:
            return self._instances[-1] if self._instances else None
        return min(reversed(self._usable()), key=self._order, default=None)

    def take(self, instance: Instance) -> None:
        """Takes one for a batch."""
        self._instances.remove(instance)
        self._load[instance.device] += 1

    def give_back(self, instance: Instance) -> None:
        """Puts one back whose batch has run."""
        self._instances.append(instance)
        self._load[instance.device] -= 1

    def _usable(self) -> Sequence[Instance]:
        if not self._several or all(instance.down for instance in self._all):
            return self._instances
        return [instance for instance in self._instances if not instance.down]

    def _order(self, instance: Instance) -> tuple[int, float]:
        return self._load[instance.device], instance.run_seconds
