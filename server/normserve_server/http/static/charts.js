// The charts: what each shows, handed to plotly, which draws it; and the same as a table, for those who do not see charts.

import { element, fillTable } from "./dom.js";
import * as format from "./format.js";

const PERCENTILES = { p50: "dot", p95: "dash", p99: "solid" };
const PHASES = { request: "Whole request", decode: "Decode", queue: "Queue", compute: "Compute", encode: "Encode" };
const PALETTE = ["--p99", "--p95", "--p50", "--good", "--muted", "--wait"];
const CONFIG = { displayModeBar: false, responsive: true };

const line = (name, values, colour, more = {}) => ({ name, values, colour, ...more });

// Each: title, unit, and lines over time; `format` is for tables, `ticks` for the axis.
function overTime({ series, gpus }) {
  const errors = Object.entries(series.codes_per_second).filter(([code]) => code !== "OK");
  const rate = { format: format.number, ticks: ",.3~r" };
  return [
    { id: "requests", title: "Requests", unit: "per second", ...rate, lines: [line("requests", series.requests_per_second, "--p50", { fill: true })] },
    { id: "errors", title: "Errors", unit: "per second, by code", ...rate, none: "no errors",
      lines: errors.map(([code, values], place) => line(code, values, PALETTE[place % PALETTE.length])) },
    ...Object.entries(PHASES).map(([phase, title]) => ({
      id: phase, title, unit: "latency", format: format.seconds, seconds: true,
      lines: Object.entries(PERCENTILES).map(([name, dash]) => line(name, series.latency_seconds[phase][name], `--${name}`, { dash })),
    })),
    { id: "in-flight", title: "In flight and queued", unit: "requests", ...rate, lines: [
      line("in flight", series.in_flight, "--p50", { fill: true }),
      line("queued", series.queue_depth, "--p99"),
    ] },
    ...gpus.flatMap((gpu, place) => [
      { id: `gpu-${place}`, title: `GPU ${place}`, unit: "utilisation", format: format.percent, ticks: ".0%", lines: [line("utilisation", gpu.series.utilization, "--p50", { fill: true })] },
      { id: `gpu-${place}-memory`, title: `GPU ${place}`, unit: "memory in bytes", format: format.bytes, ticks: "~s", lines: [line("used", gpu.series.memory_used_bytes, "--p50", { fill: true }), line("total", gpu.series.memory_total_bytes, "--muted")] },
      { id: `gpu-${place}-power`, title: `GPU ${place}`, unit: "power in watts", ...rate, lines: [line("power", gpu.series.power_usage, "--p50", { fill: true })] },
    ]),
  ];
}

function batches({ total }) {
  const used = total.batch_sizes.findLastIndex((bucket) => bucket.batches > 0) + 1;
  const buckets = total.batch_sizes.slice(0, used);
  const labels = buckets.map(({ from, to }) => (to === null ? `≥ ${from}` : from === to ? `${from}` : `${from}–${to}`));
  const values = buckets.map((bucket) => bucket.batches);
  return { id: "batches", title: "Batch sizes", unit: "batches by samples", format: format.count, ticks: ",.3~r", labels, lines: [line("batches", values, "--p50")] };
}

export class Charts {
  constructor(place) {
    this.place = place;
    this.figures = new Map();
  }

  show(data, at) {
    const times = data.series.age_seconds.map((age) => new Date(at - age * 1000));
    const range = [new Date(at - data.window.minutes * 60000), new Date(at)];
    const charts = [...overTime(data).slice(0, 7), batches(data), ...overTime(data).slice(7)];
    const wanted = new Set(charts.map((chart) => chart.id));
    for (const [id, figure] of this.figures) if (!wanted.has(id)) this.remove(id, figure);
    for (const chart of charts) this.showOne({ labels: null, ...chart }, times, range);
  }

  remove(id, figure) {
    if (window.Plotly) window.Plotly.purge(figure.plot);
    figure.root.remove();
    this.figures.delete(id);
  }

  showOne(chart, times, range) {
    if (!this.figures.has(chart.id)) this.figures.set(chart.id, this.figure(chart));
    const figure = this.figures.get(chart.id);
    figure.update = () => tabulate(figure.table, chart, times);
    if (figure.details.open) figure.update();
    if (window.Plotly) draw(figure.plot, chart, times, range);
  }

  figure(chart) {
    const title = `${chart.title}, ${chart.unit}`;
    const plot = element("div", { class: "plot", role: "img", "aria-label": `Chart: ${title}. The same as a table follows.` });
    const table = element("table");
    const region = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": title }, table);
    const details = element("details", {}, element("summary", {}, "as a table"), region);
    details.open = !window.Plotly;
    plot.hidden = !window.Plotly;
    const caption = element("figcaption", {}, chart.title, " ", element("small", {}, chart.unit));
    const root = element("figure", { id: `chart-${chart.id}` }, caption, plot, details);
    const figure = { root, plot, details, table, update: () => {} };
    details.addEventListener("toggle", () => figure.update());
    this.place.append(root);
    return figure;
  }
}

function tabulate(table, { labels, lines, format: form, none }, times) {
  if (!lines.length) return fillTable(table, [none ?? "nothing"], []);
  const first = labels ?? times.map(format.clock);
  const rows = first.map((label, place) => [label, ...lines.map(({ values }) => form(values[place]))]);
  fillTable(table, [labels ? "Samples" : "Time", ...lines.map(({ name }) => name)], labels ? rows : rows.reverse());
}

function draw(plot, chart, times, range) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const traces = chart.lines.map((each) => trace(each, chart, times, colour));
  const axis = { fixedrange: true, gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false };
  const short = range[1] - range[0] <= 60000 ? "%H:%M:%S" : "%H:%M";
  const x = chart.labels
    ? { type: "category", tickangle: 0 }
    : { type: "date", range, nticks: Math.min(5, Math.floor(plot.clientWidth / 65)), tickangle: 0, tickformat: short, hoverformat: "%H:%M:%S" };
  const y = chart.seconds ? secondsAxis(chart.lines) : { tickformat: chart.ticks, nticks: 5, rangemode: "tozero" };
  const named = chart.lines.length > 1 || chart.id === "errors";
  const empty = !chart.lines.some(({ values }) => values.some((value) => value !== null));
  const layout = {
    margin: { l: 58, r: 12, t: named ? 26 : 8, b: 28 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--muted"), size: 12, family: "system-ui, sans-serif" },
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") } },
    xaxis: { ...axis, ...x, showgrid: false },
    yaxis: { ...axis, ...y },
    showlegend: named,
    legend: { orientation: "h", x: 1, xanchor: "right", y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    hovermode: "x unified",
    dragmode: false,
    annotations: empty ? [note(chart.none ?? "no calls", colour("--muted"))] : [],
  };
  window.Plotly.react(plot, traces, layout, CONFIG);
}

// Latencies differ by powers of ten: a logarithmic axis, from a round number below all to one above, with few marks.
function secondsAxis(lines) {
  const all = lines.flatMap(({ values }) => values).filter((value) => value > 0);
  const round = [-6, -5, -4, -3, -2, -1, 0, 1].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
  const low = round.findLast((mark) => mark <= Math.min(...all)) ?? round[0];
  const high = round.find((mark) => mark > Math.max(...all)) ?? round.at(-1);
  const inside = all.length ? round.filter((mark) => mark >= low && mark <= high) : [];
  const marks = inside.filter((_, place) => (inside.length - 1 - place) % Math.ceil(inside.length / 5) === 0);
  const range = all.length ? [Math.log10(low), Math.log10(high)] : [-4, 0];
  return { type: "log", range, tickvals: marks, ticktext: marks.map(format.seconds) };
}

function trace({ name, values, colour: key, dash, fill }, { labels, format: form }, times, colour) {
  const text = values.map(form);
  const hovertemplate = "%{customdata}";
  if (labels) return { type: "bar", name, x: labels, y: values, marker: { color: colour(key) }, hovertemplate, customdata: text };
  const alone = values.filter((value) => value !== null).length < 3;
  return {
    type: "scatter", mode: alone ? "lines+markers" : "lines", name, x: times, y: values, hovertemplate, customdata: text,
    line: { color: colour(key), width: 2, dash: dash ?? "solid" },
    ...(fill ? { fill: "tozeroy", fillcolor: colour("--fill") } : {}),
  };
}

function note(text, color) {
  return { text, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5, font: { size: 14, color } };
}
