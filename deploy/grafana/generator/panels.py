"""The kinds of panels that the dashboards are made of."""

import string
from collections.abc import Sequence

from grafana_foundation_sdk.builders import common as build
from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
FULL, HALF, THIRD, QUARTER, SIXTH = 24, 12, 8, 6, 4  # of a row's width
_HIGH, _LOW = 8, 4

Target = tuple[str, str]  # a query, and what its series are called


def lines(
    title: str,
    description: str,
    unit: str,
    targets: Sequence[Target],
    *,
    width: int = HALF,
    stacked: bool = False,
    logarithmic: bool = False,
    most: float | None = None,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        title: of the panel.
        description: what it shows, and what to think of it.
        unit: by Grafana's name.
        targets: the queries.
        width: of 24.
        stacked: on top of each other.
        logarithmic: the axis; else it begins at zero.
        most: the end of the axis, where it has one.
    """
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit).span(width).height(_HIGH)
    panel.legend(
        build.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["mean", "max", "lastNotNull"])
    )
    panel.tooltip(build.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    panel.line_width(1).fill_opacity(40 if stacked else 8).show_points(common.VisibilityMode.NEVER)
    if stacked:
        panel.stacking(build.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if logarithmic:
        panel.scale_distribution(build.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10))
    else:
        panel.min(0)
    if most is not None:
        panel.max(most)
    for query in _queries(targets, PromQueryFormat.TIME_SERIES):
        panel.with_target(query)
    return panel


def number(title: str, description: str, unit: str, query: str, *, bad_from: float | None = None) -> stat.Panel:
    """One number, red from `bad_from` on."""
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).unit(unit).span(SIXTH).height(_LOW)
    panel.reduce_options(build.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    panel.graph_mode(common.BigValueGraphMode.NONE if bad_from else common.BigValueGraphMode.AREA)
    panel.color_mode(common.BigValueColorMode.VALUE)
    steps = [Threshold(color="green"), *([Threshold(value=bad_from, color="red")] if bad_from else [])]
    panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    for target in _queries([(query, title.lower())], PromQueryFormat.TIME_SERIES):
        panel.with_target(target)
    return panel


def heat_map(title: str, description: str, unit: str, query: str, *, width: int = HALF) -> heatmap.Panel:
    """A histogram over time; `unit` is that of its bounds."""
    panel = heatmap.Panel().title(title).description(description).datasource(SOURCE).unit("short").span(width).height(_HIGH)
    panel.calculate(False).cell_gap(1).show_tooltip().show_y_histogram().exemplars_color("rgba(255,0,255,0.7)")
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(heat.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(heat.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
    )
    panel.filter_values(heatmap.FilterValueRange().le(1e-9))
    panel.y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(common.AxisPlacement.LEFT))
    for target in _queries([(query, "{{le}}")], PromQueryFormat.HEATMAP):
        panel.with_target(target.exemplar(True))
    return panel


def rows(
    title: str, description: str, targets: Sequence[Target], *, width: int = HALF, values: bool = True, unit: str = "short"
) -> table.Panel:
    """A table of labels and, with `values`, of values, named as the targets are; series of equal labels share a row."""
    panel = table.Panel().title(title).description(description).datasource(SOURCE).unit(unit).span(width).height(_HIGH)
    queries = _queries(targets, PromQueryFormat.TABLE)
    for query in queries:
        panel.with_target(query)
    names = (
        [f"Value #{letter}" for letter, _ in zip(string.ascii_uppercase, targets, strict=False)]
        if len(targets) > 1
        else ["Value"]
    )
    hidden = {"Time": True, **({} if values else dict.fromkeys(names, True))}
    renamed = {name: target[1] for name, target in zip(names, targets, strict=True)} if values else {}
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        DataTransformerConfig(id_val="organize", options={"excludeByName": hidden, "indexByName": {}, "renameByName": renamed})
    )
    return panel


def _queries(targets: Sequence[Target], form: PromQueryFormat) -> list[prometheus.Dataquery]:
    queries = []
    for letter, (expression, legend) in zip(string.ascii_uppercase, targets, strict=False):
        query = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(expression).legend_format(legend)
        query.format(form).editor_mode(QueryEditorMode.CODE)
        queries.append(query.instant() if form is PromQueryFormat.TABLE else query.range())
    return queries
