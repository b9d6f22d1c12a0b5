"""Why a benchmark has no figure to show."""


class BenchmarkError(Exception):
    """The benchmark ends with this text."""


class LoadError(BenchmarkError):
    """The load did not run as it should have."""


class NoSuchFlagError(BenchmarkError):
    """The server cannot be started as asked, because it does not know a flag."""
