"""The last traced call of each bucket of the request histogram, which OpenMetrics shows beside the bucket's count.

prometheus_client keeps no exemplars in the files of several workers, so these travel to the supervisor with the worker's state.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from prometheus_client import Histogram, Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString


class Traced(NamedTuple):
    """A traced call, and the bucket that it is in.

    Attributes:
        model: the call's labels; and `version`, `method`.
        le: the bucket's upper bound, as the label has it.
        trace_id: of the call.
        seconds: that it took.
        when: seconds since 1970: a date for people, nothing is measured with it.
    """

    model: str
    version: str
    method: str
    le: str
    trace_id: str
    seconds: float
    when: float

    @property
    def exemplar(self) -> Exemplar:
        """The same, as prometheus_client has it."""
        return Exemplar({"trace_id": self.trace_id}, self.seconds, self.when)


class Exemplars:
    """Keeps one call a bucket, so there are never more than buckets."""

    def __init__(self) -> None:
        self._traced: dict[tuple[str, ...], Traced] = {}

    def note(self, histogram: Histogram, labels: tuple[str, str, str], position: int, trace_id: str, seconds: float) -> None:
        """Notes a traced call.

        Args:
            histogram: that of the labels.
            labels: model, version and method.
            position: of the bucket.
            trace_id: of the call.
            seconds: that it took.
        """
        le = floatToGoString(histogram._upper_bounds[position])  # type: ignore[no-untyped-call]
        traced = self._traced[*labels, le] = Traced(*labels, le, trace_id, seconds, time.time())
        histogram._buckets[position].set_exemplar(traced.exemplar)

    def forget(self, model: str, version: str) -> None:
        """Gives up what a version has left."""
        self._traced = {key: traced for key, traced in self._traced.items() if key[:2] != (model, version)}

    def all(self) -> list[Traced]:
        """Gives all of them."""
        return list(self._traced.values())


def attach(family: Metric, traced: Iterable[Sequence[Any]]) -> None:
    """Puts traced calls beside the buckets of a request histogram that was added up; of two for a bucket, the later one.

    Args:
        family: the histogram.
        traced: as `Exemplars.all` gives them, or as lists, as they come out of a message.
    """
    found = {tuple(one[:4]): Traced(*one) for one in sorted(traced, key=lambda one: one[-1])}
    family.samples = [
        sample._replace(exemplar=one.exemplar)
        if (one := found.get(tuple(sample.labels.get(name, "") for name in ("model", "version", "method", "le"))))
        else sample
        for sample in family.samples
    ]
