"""Shared running statistics: what callers do with them, and what the database makes of it."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from generator.boards import Row, board
from generator.panels import HALF, THIRD, heat_map, lines
from generator.queries import QUANTILES, SERVERS, buckets, quantile, rate

CALLS = f'{SERVERS}, method=~".*Normalizers?|.*StateDict"'
GROUP = "normserve_normalizer_group_duration_seconds"
UPDATES = "normserve_normalizer_updates_total"


def dashboard() -> Dashboard:
    """Gives the dashboard."""
    told = "Named normalizers, whose statistics many callers share."
    return board("normalizers", "normalizers", told, ["instance"], [_calls(), _database()])


def _calls() -> Row:
    return "Calls", [
        lines(
            "Calls",
            "Answered each second, by RPC.",
            "reqps",
            [(rate("normserve_requests_total", CALLS, "method"), "{{method}}")],
        ),
        lines(
            "Duration, p99",
            "99 of 100 calls took no longer, the flush to the disk included.",
            "s",
            [(quantile(0.99, "normserve_request_duration_seconds", CALLS, "method"), "{{method}}")],
            logarithmic=True,
        ),
    ]


def _database() -> Row:
    return "Database", [
        lines(
            "Updates",
            "Of statistics that are on the disk, each second.",
            "ops",
            [(rate(UPDATES, SERVERS), "updates")],
            width=THIRD,
        ),
        lines(
            "Updates in a group",
            "Calls that come while a transaction is written go together into the next one: one flush serves so many updates. "
            "Groups that only read count, too.",
            "short",
            [(f"{rate(UPDATES, SERVERS)} / {rate(f'{GROUP}_count', SERVERS)}", "updates")],
            width=THIRD,
        ),
        lines(
            "Errors",
            "Calls that failed because the state cannot be read or written, has no room, or too many wait for it.",
            "ops",
            [(rate("normserve_normalizer_errors_total", SERVERS, "reason"), "{{reason}}")],
            width=THIRD,
        ),
        lines(
            "Duration of a group",
            "From its beginning to the end of its commit.",
            "s",
            [(quantile(q, GROUP, SERVERS), name) for name, q in QUANTILES.items()],
            width=HALF,
            logarithmic=True,
        ),
        heat_map("Duration of groups", "How many groups took how long.", "s", buckets(GROUP, SERVERS)),
    ]
