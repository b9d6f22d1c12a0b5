"""How `normserve fold` shows what it did."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from normserve.cli.console import out

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normserve_models.explain import Described
    from normserve_models.report import Cost, LayerError, Norm, OutputError, Precision, Report, RunCost

WORST_LAYERS = 5
MODULE_SUFFIX = ".weight"
UNITS = ("B", "kB", "MB", "GB")


def show(result: "Report") -> None:
    """Prints what became of each batch norm, the errors, and what a run costs."""
    if result.norms:
        out.print(_norms(result.norms))
    if result.layers:
        out.print(_layers(result.layers))
    if result.errors:
        out.print(_outputs(result.errors))
    if result.precision is not None:
        out.print(_precision(result.precision))
    if result.run is not None:
        out.print(_run(result.run))
    took = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in result.seconds.items())
    out.print(f"{result.folded} of {len(result.norms)} batch norms folded. {result.proof}. {took}")


def _norms(norms: "Sequence[Norm]") -> Table:
    costly = any(norm.cost is not None for norm in norms)
    table = _table("batch norm", "folded into, or why it stays", *("nodes", "weights", "activations") * costly)
    for norm in norms:
        fate = ", ".join(norm.into) if norm.folded else f"{norm.reason}: {norm.detail}"
        table.add_row(*map(escape, (_title(norm), fate, *_cost_cells(norm.cost) * costly)))
    if costly:
        table.add_section()
        table.add_row("all together", "", *_cost_cells(_total([norm.cost for norm in norms if norm.cost is not None])))
    return table


def _total(costs: "Sequence[Cost]") -> "Cost":
    from normserve_models.report import Cost

    activations = [cost.activation_bytes for cost in costs]
    known = [count for count in activations if count is not None]
    return Cost(
        sum(cost.nodes for cost in costs),
        sum(cost.weight_bytes for cost in costs),
        sum(known) if len(known) == len(activations) else None,
    )


def _title(norm: "Norm") -> str:
    """Returns what the user calls it: PyTorch's module, where the file tells, is in his code, and the node is not."""
    module = norm.scale.removesuffix(MODULE_SUFFIX)
    return module if module and module != norm.scale else norm.name


def _table(*headers: str, figures: int = 2) -> Table:
    """Returns a table in which nothing is cut off and all columns but the first `figures` are of figures."""
    table = Table()
    for index, header in enumerate(headers):
        table.add_column(header, overflow="fold", justify="left" if index < figures else "right")
    return table


def _cost_cells(cost: "Cost | None") -> tuple[str, str, str]:
    if cost is None:
        return "", "", ""
    activations = "not known" if cost.activation_bytes is None else _bytes(cost.activation_bytes)
    return f"{cost.nodes:+d}" if cost.nodes else "0", _bytes(cost.weight_bytes), activations


def _bytes(count: int) -> str:
    """Returns a change in bytes, with a sign, in decimal units."""
    size, unit = float(count), 0
    while abs(size) >= 999.5 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    figure = f"{size:+.3g}" if count else "0"
    return f"{figure} {UNITS[unit]}"


def _layers(layers: "Sequence[LayerError]") -> Table:
    worst = sorted(layers, key=lambda layer: -float("inf") if layer.folded is None else -layer.folded)[:WORST_LAYERS]
    header = "layer" if len(worst) == len(layers) else f"layer (the worst {len(worst)} of {len(layers)})"
    table = _table(header, "error folded", "error unfolded", figures=1)
    for layer in worst:
        table.add_row(escape(layer.name), _figure(layer.folded), _figure(layer.unfolded))
    return table


def _precision(done: "Precision") -> Group:
    lost = (
        f", {done.zeroed} of their values became 0, {done.subnormal} have fewer digits" if done.zeroed + done.subnormal else ""
    )
    kept = ", ".join(f"{count} {operator}" for operator, count in done.wide.items())
    stayed = f"; {kept} stay in float32" if kept else ""
    sentence = f"{done.constants} constants are {done.dtype} now{lost}{stayed}."
    return Group(_outputs(done.errors, f"output in {done.dtype}"), escape(sentence))


def _outputs(errors: "Sequence[OutputError]", title: str = "output") -> Table:
    table = _table(title, "error folded", "error unfolded", "bound", figures=1)
    for error in errors:
        table.add_row(escape(error.name), *map(_figure, (error.folded, error.unfolded, error.bound)))
    return table


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2e}"


def _run(run: "RunCost") -> str:
    return (
        f"One sample takes {_time(run.unfolded_ms)} before and {_time(run.folded_ms)} after, {run.ratio:.2f} of it "
        f"(median of {run.runs} runs, {run.threads} {'thread' if run.threads == 1 else 'threads'})."
    )


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds >= 1 else f"{milliseconds * 1e3:.3g} µs"


def tell(described: "Described", result: "Report") -> None:
    """Prints the whole story of one batch norm.

    Args:
        described: The batch norm in the file.
        result: What became of all; without errors where nothing was proved.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in _story(described, result):
        grid.add_row(label, escape(text))
    out.print(grid)


def _story(described: "Described", result: "Report") -> "Iterator[tuple[str, str]]":
    norm = result.norms[described.index]
    yield "batch norm", described.name
    if described.output:
        yield "output", described.output
    if described.epsilon is not None:
        channels = "not known" if described.channels is None else str(described.channels)
        yield "channels", f"{channels}, epsilon {described.epsilon:g}"
    for parameter in described.parameters:
        fixed = f"{parameter.low:.4g} to {parameter.high:.4g}" if parameter.low is not None else "no constant"
        yield parameter.role, f"{fixed}  ({parameter.name})"
    for number, step in enumerate(norm.way, start=1):
        yield "its way" if number == 1 else "", f"{number}. {step}"
    yield from _fate(norm)
    for layer in result.layers:
        if layer.name in norm.into or layer.value == described.output:
            yield "error", f"{_figure(layer.folded)} folded, {_figure(layer.unfolded)} unfolded, in {layer.name}"


def _fate(norm: "Norm") -> "Iterator[tuple[str, str]]":
    if not norm.folded:
        from normserve_models.explain import explanation

        yield "stays", f"{norm.reason}: {explanation(norm.reason)}"
        yield "", norm.detail or ""
        return
    yield "folded into", ", ".join(norm.into)
    if norm.cost is not None:
        nodes, weights, activations = _cost_cells(norm.cost)
        yield "cost", f"nodes {nodes}, weights {weights}, activations {activations} a sample"
