"""Which series a panel is about: those of the servers, models and methods that the reader has chosen."""

SERVERS = 'instance=~"$instance"'
MODELS = f'{SERVERS}, model=~"$model"'
REQUESTS = f'{MODELS}, method=~"$method"'

# The codes for which a server is to blame; docs/alerts.md has the same.
SERVER_ERRORS = "INTERNAL|UNKNOWN|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|DATA_LOSS"
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def rate(metric: str, series: str, by: str = "") -> str:
    """The rate of a counter, added up."""
    return f"{_sum(by)}(rate({metric}{{{series}}}[$__rate_interval]))"


def total(metric: str, series: str, by: str = "") -> str:
    """The values of a gauge, added up."""
    return f"{_sum(by)}({metric}{{{series}}})"


def highest(metric: str, series: str, by: str) -> str:
    """The highest value of a gauge."""
    return f"max by ({by}) ({metric}{{{series}}})"


def quantile(share: float, histogram: str, series: str, by: str = "") -> str:
    """What so large a share of a histogram's observations is not above."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', series, f'{by}, le' if by else 'le')})"


def buckets(histogram: str, series: str) -> str:
    """How many observations each bucket got, for a heat map."""
    return f"sum by (le) (increase({histogram}_bucket{{{series}}}[$__rate_interval]))"


def share(part: str, whole: str, by: str = "") -> str:
    """A part of a rate; zero where nothing is of the part, which then has no series."""
    return f"({part} or 0 * {whole}) / {whole}" if by else f"({part} or vector(0)) / {whole}"


def mean(histogram: str, series: str, by: str = "") -> str:
    """The mean of what a histogram observed."""
    return f"{rate(f'{histogram}_sum', series, by)} / {rate(f'{histogram}_count', series, by)}"


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"
