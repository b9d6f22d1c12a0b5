// What is shown as text: the figures on top, latency by phase, and the models with what became of their batch norms.

import { element, fillTable } from "./dom.js";
import * as format from "./format.js";

const STATES = { READY: "good", LOADING: "wait", UNLOADING: "wait", UNAVAILABLE: "bad" };

function ready(models) {
  const own = models.filter((model) => !model.built_in);
  return `${own.filter((model) => model.state === "READY").length} / ${own.length}`;
}

export function showTiles({ total, now, models }) {
  const request = total.latency_seconds.request;
  const tiles = [
    ["Requests/s", format.number(total.requests_per_second)],
    ["p50", format.seconds(request.p50)],
    ["p95", format.seconds(request.p95)],
    ["p99", format.seconds(request.p99)],
    ["Server errors", format.percent(total.server_error_ratio), total.server_error_ratio > 0 ? "bad" : null],
    ["Callers’ errors", format.percent(total.caller_error_ratio), total.caller_error_ratio > 0 ? "wait" : null],
    ["In flight", format.count(now.in_flight)],
    ...(now.queue_depth === undefined ? [] : [["Queued", format.count(now.queue_depth)]]),
    ["Batch size", format.number(total.batch_size.mean)],
    ["Models ready", ready(models)],
  ];
  const made = tiles.map(([name, value, kind]) =>
    element("div", {}, element("dt", {}, name), element("dd", { "data-kind": kind }, value)),
  );
  document.getElementById("tiles").replaceChildren(...made);
}

export function showLatency({ total }) {
  const rows = Object.entries(total.latency_seconds).map(([name, times]) => [
    name === "request" ? "whole request" : name,
    ...[times.p50, times.p95, times.p99, times.mean].map(format.seconds),
    format.count(times.count),
  ]);
  fillTable(document.getElementById("latency"), ["Phase", "p50", "p95", "p99", "Mean", "Count"], rows);
}

function norms({ batch_norms: { folded, left } }) {
  return folded === undefined ? "" : `${folded} folded, ${left} left`;
}

export function showModels({ models }) {
  const quiet = models.filter((model) => model.built_in && model.state === "READY" && !model.requests_per_second);
  const sorted = models.filter((model) => !quiet.includes(model)).sort((a, b) => a.built_in - b.built_in);
  const rows = sorted.map((model) => [
    `${model.model}/${model.version}`,
    { text: model.reason ? `${model.state}: ${model.reason}` : model.state, kind: STATES[model.state], left: true },
    format.number(model.requests_per_second),
    model.latency_seconds.p99 === null ? "" : format.seconds(model.latency_seconds.p99),
    model.server_error_ratio === null ? "" : format.percent(model.server_error_ratio),
    norms(model),
    model.errors.folded === undefined ? "" : format.small(model.errors.folded),
    model.provider.replace("ExecutionProvider", ""),
    model.load_seconds === null ? "" : format.seconds(model.load_seconds),
  ]);
  const columns = [
    "Version", { text: "State", left: true }, "Requests/s", "p99", "Server errors", "Batch norms", "Error", "Runs on", "Load",
  ];
  fillTable(document.getElementById("models"), columns, rows);
  document.getElementById("quiet").textContent = quiet.length
    ? `Not called, and ready: ${quiet.length} built-in models, ${quiet.map(({ model }) => model).join(", ")}.`
    : "";
  showFolds(models.filter((model) => model.left.length));
}

let shown = "";

// Only what has changed: an opened report stays open.
function showFolds(models) {
  const folds = models.map(({ model, version, left, left_because }) => ({ model, version, left, left_because }));
  if (JSON.stringify(folds) === shown) return;
  shown = JSON.stringify(folds);
  document.getElementById("folds").replaceChildren(...folds.map(report));
}

function report({ model, version, left, left_because }) {
  const reasons = Object.entries(left_because).map(([reason, number]) => `${number} × ${reason}`);
  const table = element("table", { class: "cards" });
  const rows = left.map((norm) => [
    norm.name,
    { text: norm.scale, left: true },
    { text: norm.reason, left: true },
    { text: norm.detail ?? "", left: true },
  ]);
  const texts = ["Scale", "Reason", "What stood in the way"].map((text) => ({ text, left: true }));
  fillTable(table, ["Batch norm", ...texts], rows);
  const title = `Batch norms left in ${model}/${version}: ${reasons.join(", ")}`;
  const region = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": title }, table);
  return element("details", {}, element("summary", {}, title), region);
}
