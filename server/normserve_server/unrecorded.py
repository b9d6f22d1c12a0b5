"""Metrics that keep nothing, for a server that is told to record none: what would write to them stays as it is."""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram


class UnrecordedCounter(Counter):
    """A counter that stays where it is."""

    def labels(self, *_values: Any, **_named: Any) -> "UnrecordedCounter":
        """Gives itself, for any labels."""
        return self

    def inc(self, *_unused: Any, **_also_unused: Any) -> None:
        """Does nothing."""


class UnrecordedGauge(Gauge):
    """A gauge that shows nothing."""

    def labels(self, *_values: Any, **_named: Any) -> "UnrecordedGauge":
        """Gives itself, for any labels."""
        return self

    def set(self, *_unused: Any, **_also_unused: Any) -> None:
        """Does nothing."""


class UnrecordedHistogram(Histogram):
    """A histogram without observations."""

    def labels(self, *_values: Any, **_named: Any) -> "UnrecordedHistogram":
        """Gives itself, for any labels."""
        return self

    def observe(self, *_unused: Any, **_also_unused: Any) -> None:
        """Does nothing."""
