"""Rate, errors and duration of each model, what they leave of the budgets, and how the processes are."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from generator.boards import Row, board
from generator.panels import QUARTER, THIRD, heat_map, lines, number, rows
from generator.queries import (
    MODELS,
    QUANTILES,
    REQUESTS,
    SERVER_ERRORS,
    SERVERS,
    buckets,
    highest,
    quantile,
    rate,
    share,
    total,
)

COUNT, SECONDS = "normserve_requests_total", "normserve_request_duration_seconds"
FAILED = f'{REQUESTS}, code=~"{SERVER_ERRORS}"'
REFUSED = f'{REQUESTS}, code!~"OK|{SERVER_ERRORS}"'
NOT_READY = f'{MODELS}, state=~"LOADING|UNLOADING|UNAVAILABLE"'


def dashboard() -> Dashboard:
    """Gives the dashboard."""
    told = "The first look: what each model is asked, how much of it fails, and how long it takes."
    content = [_now(), _requests(), _budgets(), _models(), _processes()]
    return board("overview", "overview", told, ["instance", "model", "method"], content)


def _now() -> Row:
    whole = rate(COUNT, REQUESTS)
    return "Now", [
        number("Requests", "Answered each second.", "reqps", whole),
        number(
            "Server errors",
            "Share that failed through the server.",
            "percentunit",
            share(rate(COUNT, FAILED), whole),
            bad_from=0.001,
        ),
        number("p99", "99 of 100 requests took no longer.", "s", quantile(0.99, SECONDS, REQUESTS)),
        number("In flight", "Admitted and not yet answered.", "short", total("normserve_requests_in_flight", SERVERS)),
        number("Versions ready", "They serve.", "short", total("normserve_model_ready", MODELS)),
        number(
            "Versions not ready",
            "They load, have failed to load, or are on their way out; versions that were unloaded do not count.",
            "short",
            total("normserve_model_state", NOT_READY),
            bad_from=1,
        ),
    ]


def _requests() -> Row:
    whole = rate(COUNT, REQUESTS, "model")
    return "Rate, errors and duration of each model", [
        lines(
            "Requests by model",
            "Answered each second. Calls that concern no model have no name.",
            "reqps",
            [(whole, "{{model}}")],
        ),
        lines(
            "Requests by code",
            "The same, by gRPC status code.",
            "reqps",
            [(rate(COUNT, REQUESTS, "code"), "{{code}}")],
            stacked=True,
        ),
        lines(
            "Server errors by model",
            f"Share of a model's requests that failed through the server: {SERVER_ERRORS.replace('|', ', ')}.",
            "percentunit",
            [(share(rate(COUNT, FAILED, "model"), whole, "model"), "{{model}}")],
        ),
        lines(
            "Callers' errors by model",
            "Share that failed through its caller: every other code but OK, such as INVALID_ARGUMENT, NOT_FOUND, CANCELLED.",
            "percentunit",
            [(share(rate(COUNT, REFUSED, "model"), whole, "model"), "{{model}}")],
        ),
        lines(
            "Duration by model",
            "From the message's arrival to its answer's last byte handed to gRPC. Read off a histogram: right to within one of "
            "its buckets, which are steps of 1.3 to 2.",
            "s",
            [(quantile(q, SECONDS, REQUESTS, "model"), f"{{{{model}}}} {name}") for name, q in QUANTILES.items()],
            logarithmic=True,
        ),
        heat_map(
            "Duration",
            "How many requests took how long: two bands are two kinds of requests, which quantiles hide.",
            "s",
            buckets(SECONDS, REQUESTS),
        ),
    ]


def _burn(ratio: str, budget: float, window: str) -> tuple[str, str]:
    return f'max by (model) (normserve:{ratio}:ratio_rate{window}{{model=~"$model"}}) / {budget}', f"{{{{model}}}} {window}"


def _budgets() -> Row:
    told = "Of all servers. Above 1 it does not last for 30 days; from 6 (over 6 h) or 14.4 (over 1 h) on somebody is called."
    firing = 'ALERTS{alertname=~"Normserve.+"}'
    return "Budgets", [
        lines(
            "How fast the budget of errors goes",
            told,
            "short",
            [_burn("request_errors", 0.001, w) for w in ("1h", "6h")],
            width=THIRD,
        ),
        lines(
            "How fast the budget of slow inferences goes",
            told,
            "short",
            [_burn("requests_slow", 0.01, w) for w in ("1h", "6h")],
            width=THIRD,
        ),
        rows("Alerts", "Those that fire, and those that are about to.", [(firing, "alert")], width=THIRD, values=False),
    ]


def _models() -> Row:
    version = "instance, model, version"
    return "Models", [
        rows(
            "Versions",
            "Whether each serves, how long it took to load, and how much of that the first inferences took.",
            [
                (highest("normserve_model_ready", MODELS, version), "ready"),
                (highest("normserve_model_load_seconds", MODELS, version), "load, s"),
                (highest("normserve_model_warm_up_seconds", MODELS, version), "warm-up, s"),
            ],
        ),
        rows(
            "States",
            "Each version's state now.",
            [(f"{highest('normserve_model_state', MODELS, f'{version}, state')} == 1", "state")],
            width=QUARTER,
            values=False,
        ),
        rows(
            "Providers",
            "What each version's session really got: a GPU that is missing shows as CPUExecutionProvider.",
            [(f"{highest('normserve_model_provider_info', MODELS, f'{version}, provider')} == 1", "provider")],
            width=QUARTER,
            values=False,
        ),
        lines(
            "Swaps",
            "Versions that were to serve beside or instead of one that serves; with several workers each counts it.",
            "short",
            [
                (
                    f"sum by (model, outcome) (increase(normserve_model_swaps_total{{{MODELS}}}[$__rate_interval]))",
                    "{{model}} {{outcome}}",
                )
            ],
        ),
        lines(
            "Devices",
            "Sessions on GPUs that run without CUDA graphs or were opened anew, and operators that a GPU failed at.",
            "short",
            [
                (
                    f"sum by (model, event) (increase(normserve_device_events_total{{{MODELS}}}[$__rate_interval]))",
                    "{{model}} {{event}}",
                ),
                (
                    f"sum by (instance) (increase(normserve_operator_fallbacks_total{{{SERVERS}}}[$__rate_interval]))",
                    "{{instance}} operators on the CPU",
                ),
            ],
        ),
        rows(
            "Batch norms",
            "How many of a file's batch norms were folded, and how many are left in the graph.",
            [(highest("normserve_model_batch_norms", MODELS, f"{version}, state"), "batch norms")],
            width=QUARTER,
        ),
        rows(
            "Errors of the fold",
            "The largest relative error of an output against float64: of the folded file, and of the file as it came.",
            [(highest("normserve_model_fold_error", MODELS, f"{version}, file"), "error")],
            width=QUARTER,
        ),
    ]


def _processes() -> Row:
    lag = "normserve_event_loop_lag_seconds"
    process = "instance, worker"
    return "Processes", [
        lines(
            "Processors",
            "Cores that each process uses.",
            "short",
            [(rate("process_cpu_seconds_total", SERVERS, process), "{{instance}} {{worker}}")],
            width=THIRD,
        ),
        lines(
            "Memory",
            "Resident memory of each process.",
            "bytes",
            [(total("process_resident_memory_bytes", SERVERS, process), "{{instance}} {{worker}}")],
            width=THIRD,
        ),
        lines(
            "Lag of the event loop",
            "How late timers are called. Up to 1 ms is the timer's own; much more, and something holds everyone up.",
            "s",
            [(quantile(q, lag, SERVERS, "instance"), f"{{{{instance}}}} {name}") for name, q in QUANTILES.items()],
            width=THIRD,
        ),
        lines(
            "Bytes in and out",
            "Of messages, each second.",
            "Bps",
            [
                (rate("normserve_request_bytes_total", REQUESTS), "in"),
                (rate("normserve_response_bytes_total", REQUESTS), "out"),
            ],
            width=THIRD,
        ),
        lines(
            "Admitted",
            "Bytes of requests not yet answered, and of answers not yet taken; at `max_admitted_bytes` calls are refused.",
            "bytes",
            [(total("normserve_admitted_bytes", SERVERS, "instance"), "{{instance}}")],
            width=THIRD,
        ),
        lines(
            "Workers",
            "Processes that take calls, and those that died and were replaced, in all.",
            "short",
            [
                (total("normserve_workers", SERVERS, "instance"), "{{instance}}"),
                (total("normserve_worker_restarts_total", SERVERS, "instance"), "{{instance}} replaced"),
            ],
            width=THIRD,
        ),
        lines(
            "Spans",
            "For the OpenTelemetry collector: exported, failed or dropped.",
            "ops",
            [(rate("normserve_trace_spans_total", SERVERS, "outcome"), "{{outcome}}")],
            width=THIRD,
        ),
        rows(
            "Builds",
            "What is running.",
            [(highest("normserve_build_info", SERVERS, "instance, version, python, onnxruntime"), "build")],
            width=16,
            values=False,
        ),
    ]
