"""Where the time of a request goes."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from generator.boards import Row, board
from generator.panels import FULL, QUARTER, THIRD, heat_map, lines
from generator.queries import QUANTILES, REQUESTS, SERVERS, buckets, quantile, rate

PHASES = ("decode", "queue", "compute", "encode")
WHOLE, PHASE = "normserve_request_duration_seconds", "normserve_phase_duration_seconds"


def dashboard() -> Dashboard:
    """Gives the dashboard."""
    told = "Where the time of a request goes, for one model, some or all."
    content = [_whole(), _phases(), _heat_maps(), _cut_short()]
    return board("latency", "latency by phase", told, ["instance", "model", "method"], content)


def _whole() -> Row:
    return "The whole request", [
        lines(
            "Quantiles by model",
            "From the message's arrival to its answer's last byte handed to gRPC. Calls that concern no model have no name.",
            "s",
            [(quantile(q, WHOLE, REQUESTS, "model"), f"{{{{model}}}} {name}") for name, q in QUANTILES.items()],
            logarithmic=True,
        ),
        heat_map(
            "Heat map",
            "How many requests took how long. A dot is a traced request: its trace_id leads to the trace.",
            "s",
            buckets(WHOLE, REQUESTS),
        ),
    ]


def _phases() -> Row:
    count = rate(f"{WHOLE}_count", REQUESTS)
    mean = f"{rate(f'{PHASE}_sum', REQUESTS, 'phase')} / scalar({count})"
    return "Phases", [
        lines(
            "Mean, stacked",
            "Time in each phase, of the mean request. Means add up to the whole request's; quantiles do not.",
            "s",
            [(mean, "{{phase}}")],
            width=FULL,
            stacked=True,
        ),
        *(
            lines(
                f"Phases, {name}",
                f"Of all requests that reached a phase, {q:.0%} spent no longer in it.",
                "s",
                [(quantile(q, PHASE, REQUESTS, "phase"), "{{phase}}")],
                width=THIRD,
                logarithmic=True,
            )
            for name, q in QUANTILES.items()
        ),
    ]


def _heat_maps() -> Row:
    told = {
        "decode": "Reading the message and holding it against the model.",
        "queue": "Waiting for company and for an instance that is free.",
        "compute": "The model's run, with its batch put together and taken apart.",
        "encode": "Making the answer's bytes.",
    }
    return "Each phase", [
        heat_map(phase.capitalize(), told[phase], "s", buckets(PHASE, f'{REQUESTS}, phase="{phase}"'), width=QUARTER)
        for phase in PHASES
    ]


def _cut_short() -> Row:
    lag = "normserve_event_loop_lag_seconds"
    cut = rate("normserve_requests_cut_short_total", REQUESTS, "phase, reason")
    return "Requests that nobody waits for, and what holds everything up", [
        lines(
            "Cut short",
            "Requests that ended in a phase because their time was over, or their caller left.",
            "reqps",
            [(cut, "{{phase}} {{reason}}")],
            stacked=True,
        ),
        heat_map(
            "Lag of the event loop", "How late timers are called; up to 1 ms is the timer's own.", "s", buckets(lag, SERVERS)
        ),
    ]
