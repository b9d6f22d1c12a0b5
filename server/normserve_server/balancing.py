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

    Args:
        instances: all of them, in the beginning.
        load: what the devices do, which is written here and by the other versions.
    """

    def __init__(self, instances: Sequence[Instance], load: Load) -> None:
        self._instances = list(instances)
        self._load = load
        self._several = len({instance.device for instance in instances}) > 1

    def __len__(self) -> int:
        return len(self._instances)

    def next(self) -> Instance:
        """The one to run next, of at least one: on the device with the fewest batches, then where a run is known to take least.

        Of equals it is the one that ran last, whose memory is still in a cache.
        """
        if not self._several:
            return self._instances[-1]
        return min(reversed(self._instances), key=lambda instance: (self._load[instance.device], instance.run_seconds))

    def take(self) -> Instance:
        """Takes the next one for a batch."""
        instance = self.next()
        self._instances.remove(instance)
        self._load[instance.device] += 1
        return instance

    def give_back(self, instance: Instance) -> None:
        """Puts one back whose batch has run."""
        self._instances.append(instance)
        self._load[instance.device] -= 1
