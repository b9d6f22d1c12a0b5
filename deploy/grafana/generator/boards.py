"""What all dashboards have: the choice of server, model and method, the swaps as marks, and the way to the others."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.dashboard import AnnotationQuery, Dashboard, Panel, RowPanel

from generator.panels import SOURCE

TAG = "normserve"
SWAPS = 'sum by (instance, model, outcome) (increase(normserve_model_swaps_total{instance=~"$instance"}[$__rate_interval])) > 0'

Row: TypeAlias = tuple[str, Sequence[Builder[Panel]]]


class Swaps(AnnotationQuery):
    """Marks swaps. Grafana's texts of a mark are Prometheus's own and no part of the schema."""

    def to_json(self) -> dict[str, object]:
        """Gives the mark, with its texts."""
        return super().to_json() | {
            "titleFormat": "{{model}}: swap {{outcome}}",
            "textFormat": "on {{instance}}",
            "tagKeys": "outcome",
        }


def board(name: str, title: str, description: str, variables: Sequence[str], content: Sequence[Row]) -> Dashboard:
    """Puts a dashboard together.

    Args:
        name: its file's, and in its address.
        title: as readers see it.
        description: what it is for.
        variables: of `VARIABLES`, those that its queries use.
        content: rows of panels, each with a title.
    """
    made = build.Dashboard(f"normserve: {title}").uid(f"normserve-{name}").description(description).tags([TAG])
    made.readonly().refresh("5s").time("now-15m", "now").timezone("").tooltip(model.DashboardCursorSync.CROSSHAIR)
    others = build.DashboardLink("normserve").type(model.DashboardLinkType.DASHBOARDS).tags([TAG])
    made.link(others.as_dropdown(False).include_vars(True).keep_time(True))
    made.with_variable(_source())
    for variable in variables:
        made.with_variable(VARIABLES[variable]())
    for row, panels in content:
        made.with_row(build.Row(row))
        for panel in panels:
            made.with_panel(panel)
    return _finished(made.build())


def _finished(made: Dashboard) -> Dashboard:
    mark = Swaps(name="Swaps", datasource=SOURCE, enable=True, icon_color="purple", expr=SWAPS)
    made.annotations = model.AnnotationContainer(list_val=[mark])
    panels: list[Panel | RowPanel] = made.panels or []
    for number, panel in enumerate(panels, 1):
        panel.id_val = number
    return made


def _source() -> build.DatasourceVariable:
    chosen = model.VariableOption(selected=True, text="Prometheus", value="prometheus")
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus").current(chosen)


def _choice(name: str, label: str, description: str, query: str, *, first: str = "") -> build.QueryVariable:
    """A choice of several values of a label, at first all, or `first`."""
    variable = build.QueryVariable(name).label(label).description(description).datasource(SOURCE).query(query)
    variable.multi(True).include_all(True).all_value(".*").sort(model.VariableSort.ALPHABETICAL_ASC)
    variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    text, value = (first, first) if first else ("All", "$__all")
    return variable.current(model.VariableOption(selected=True, text=[text], value=[value]))


def _instance() -> build.QueryVariable:
    return _choice("instance", "Server", "The server that was scraped.", "label_values(normserve_build_info, instance)")


def _model() -> build.QueryVariable:
    told = "All also takes in the calls that concern no model, such as Normalize."
    return _choice("model", "Model", told, 'label_values(normserve_model_ready{instance=~"$instance"}, model)')


def _method() -> build.QueryVariable:
    told = "The RPC; ModelInfer alone at first, or the quick answers of ModelReady would flatter the quantiles."
    query = 'label_values(normserve_requests_total{instance=~"$instance"}, method)'
    return _choice("method", "Method", told, query, first="ModelInfer")


VARIABLES: dict[str, Any] = {"instance": _instance, "model": _model, "method": _method}
