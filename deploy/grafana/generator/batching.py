"""What runs together, what that costs in padding, and what waits."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from generator.boards import Row, board
from generator.panels import THIRD, heat_map, lines
from generator.queries import MODELS, buckets, highest, mean, quantile, rate, total

SIZE, PADDING = "normserve_batch_size", "normserve_batch_padding_total"


def dashboard() -> Dashboard:
    """Gives the dashboard."""
    told = "How large the batches are, what padding wastes, and how long the queues are."
    return board("batching", "batching and queues", told, ["instance", "model"], [_batches(), _queues()])


def _batches() -> Row:
    samples, padding = rate(f"{SIZE}_sum", MODELS, "model"), rate(PADDING, MODELS, "model")
    return "Batches", [
        lines(
            "Batch size",
            "Samples that ran together: their mean, and what 95 of 100 batches do not exceed.",
            "short",
            [(mean(SIZE, MODELS, "model"), "{{model}} mean"), (quantile(0.95, SIZE, MODELS, "model"), "{{model}} p95")],
        ),
        heat_map("Batch sizes", "How many batches were how large.", "short", buckets(SIZE, MODELS)),
        lines("Runs", "Batches each second.", "ops", [(rate(f"{SIZE}_count", MODELS, "model"), "{{model}}")], width=THIRD),
        lines("Samples", "That ran each second, without padding.", "short", [(samples, "{{model}}")], width=THIRD),
        lines(
            "Padding",
            "Share of the samples that ran only to fill a batch up to a bucket's size; much of it wants other `batch_buckets`.",
            "percentunit",
            [(f"{padding} / ({padding} + {samples})", "{{model}}")],
            width=THIRD,
        ),
    ]


def _queues() -> Row:
    depth = total("normserve_queue_depth", MODELS, "model")
    oldest, fullness = (highest(f"normserve_queue_{name}", MODELS, "model") for name in ("oldest_seconds", "fullness_ratio"))
    return "Queues", [
        lines("Depth", "Requests that waited when they were looked at.", "short", [(depth, "{{model}}")], width=THIRD),
        lines(
            "Age of the oldest",
            "How long the one had waited that had waited longest.",
            "s",
            [(oldest, "{{model}}")],
            width=THIRD,
        ),
        lines(
            "Full",
            "Share of the room that is taken, of the fullest worker; at 1 calls are refused with RESOURCE_EXHAUSTED.",
            "percentunit",
            [(fullness, "{{model}}")],
            width=THIRD,
        ),
    ]
