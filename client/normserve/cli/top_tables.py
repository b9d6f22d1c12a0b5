"""What `normserve top` shows, as rich's tables."""

from typing import Any, TypeAlias

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from normserve.cli.figures import gibibytes, number, percent, seconds

Json: TypeAlias = dict[str, Any]

COLOURS = {"READY": "green", "LOADING": "yellow", "UNLOADING": "yellow", "UNAVAILABLE": "red"}
PERCENTILES = ("p50", "p95", "p99")


def view(overview: Json, address: str) -> Group:
    """Everything, the most important first: a terminal may be too low for all.

    Args:
        overview: the server's JSON.
        address: the server's, for the title.
    """
    parts: list[RenderableType] = [_title(overview, address), _summary(overview)]
    if overview["server"]["recording"]:
        parts += [_latency(overview), _counts(overview)]
    parts += [_gpus(overview)] if overview["gpus"] else []
    parts += [_models(overview), Group(*_reasons(overview), *_left(overview))]
    return Group(*(part for pair in zip(parts, [""] * len(parts), strict=True) for part in pair))


def trouble(shown: RenderableType, problem: str) -> RenderableType:
    """The last view under a line that says why there is no newer one; the view alone where all is well."""
    return Group(Text(f"no newer numbers, trying again: {problem}", style="bold red"), shown) if problem else shown


def _title(overview: Json, address: str) -> Text:
    server, window = overview["server"], overview["window"]
    state = ("ready", "bold green") if server["ready"] else ("not ready", "bold red")
    covered = (
        f" of which {window['covered_seconds']:.0f} s are known" if window["covered_seconds"] < window["minutes"] * 59 else ""
    )
    minutes = "1 minute" if window["minutes"] == 1 else f"{window['minutes']} minutes"
    of = f", {window['of']} alone" if window["of"] else ""
    return Text.assemble(f"normserve {server['version']} at {address}: ", state, f"; the last {minutes}{covered}{of}")


def _summary(overview: Json) -> RenderableType:
    if not overview["server"]["recording"]:
        return Text("This server records no metrics (metrics = false): there are models and states, and no numbers.")
    total, current = overview["total"], overview["now"]
    request = total["latency_seconds"]["request"]
    figures: dict[str, str | Text] = {
        "req/s": number(total["requests_per_second"]),
        **{name: seconds(request[name]) for name in PERCENTILES},
        "server errors": _alarming(total["server_error_ratio"], "bold red"),
        "callers' errors": _alarming(total["caller_error_ratio"], "yellow"),
        "in flight": number(current.get("in_flight")),
        **({"queued": number(current["queue_depth"])} if "queue_depth" in current else {}),
        "batch size": number(total["batch_size"]["mean"]),
    }
    table = _table(*figures)
    table.add_row(*figures.values(), style="bold")
    return table


def _latency(overview: Json) -> Table:
    table = _table("phase", *PERCENTILES, "mean", "count")
    for name, times in overview["total"]["latency_seconds"].items():
        figures = [seconds(times[key]) for key in (*PERCENTILES, "mean")]
        table.add_row("whole request" if name == "request" else name, *figures, number(times["count"]))
    return table


def _counts(overview: Json) -> Table:
    """Requests by code, and batches by size, beside each other."""
    total = overview["total"]
    codes = _table("code", "requests")
    for code, requests in sorted(total["codes"].items(), key=lambda pair: -pair[1]):
        codes.add_row(Text(code, style="" if code == "OK" else "yellow"), number(requests))
    batches = _table("samples", "batches")
    for bucket in total["batch_sizes"]:
        if bucket["batches"]:
            batches.add_row(_span(bucket["from"], bucket["to"]), number(bucket["batches"]))
    beside = Table.grid(padding=(0, 4))
    beside.add_row(codes, batches)
    return beside


def _span(low: float, high: float | None) -> str:
    if high is None:
        return f"{low:.0f} and more"
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _gpus(overview: Json) -> Table:
    table = _table("GPU", "utilisation", "memory", "of", "power")
    for gpu in overview["gpus"]:
        memory = [gibibytes(gpu[name]) for name in ("memory_used_bytes", "memory_total_bytes")]
        table.add_row(gpu["uuid"], percent(gpu["utilization"]), *memory, f"{number(gpu['power_usage'])} W")
    return table


def _models(overview: Json) -> Table:
    """The versions by how often they are called; of the built-in ones only those that are, or do not serve."""
    table = _table("version", "state", "req/s", "p99", "errors", "norms folded", "error", "runs on")
    table.columns[1].justify, table.columns[1].no_wrap = "left", True
    models = [model for model in overview["models"] if not _is_quiet(model)]
    for model in sorted(models, key=lambda each: (-(each["requests_per_second"] or 0), each["model"])):
        norms, error = model["batch_norms"], model["errors"].get("folded")
        table.add_row(
            escape(f"{model['model']}/{model['version']}"),
            Text(model["state"], style=COLOURS.get(model["state"], "")),
            number(model["requests_per_second"]),
            seconds(model["latency_seconds"]["p99"]),
            _alarming(model["server_error_ratio"], "bold red"),
            f"{norms['folded']} of {norms['folded'] + norms['left']}" if norms else "",
            "" if error is None else f"{error:.1e}",
            model["provider"].removesuffix("ExecutionProvider"),
        )
    return table


def _is_quiet(model: Json) -> bool:
    return model["built_in"] and model["state"] == "READY" and not model["requests_per_second"]


def _reasons(overview: Json) -> list[Text]:
    """A line for each version that does not serve, or not what is newest in its folder."""
    return [
        Text(
            f"{model['model']}/{model['version']} is {model['state']}: {model['reason']}", style=COLOURS.get(model["state"], "")
        )
        for model in overview["models"]
        if model["reason"]
    ]


def _left(overview: Json) -> list[Text]:
    """A line for each version that has batch norms left: how many for which reason."""
    return [
        Text(f"batch norms left in {model['model']}/{model['version']}: {_counted(model['left_because'])}")
        for model in overview["models"]
        if model["left_because"]
    ]


def _counted(left_because: dict[str, int]) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in left_because.items())  # noqa: RUF001 - times


def _alarming(ratio: float | None, style: str) -> Text:
    return Text(percent(ratio), style=style if ratio else "")


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table
