// The page: asks the server for the numbers of the chosen window from time to time, as long as somebody sees it, and shows them.

import { Charts } from "./charts.js";
import { element } from "./dom.js";
import { clock } from "./format.js";
import { showLatency, showModels, showTiles } from "./tables.js";

const PERIODS = { 1: 1000, 5: 2000, 15: 5000, 60: 15000 }; // milliseconds between two questions, by window
const RETRY = 2000;
const THEME = "normserve-theme";
const INSTALL = "Charts need plotly beside the server: pip install 'normserve[dashboards]'. Until then the numbers are in tables.";
const UNRECORDED = "This server records no metrics (metrics = false): there are models and states, and no numbers.";

const form = document.getElementById("controls");
const state = document.getElementById("state");
const charts = new Charts(document.getElementById("charts"));
const dark = matchMedia("(prefers-color-scheme: dark)");
let last = null;
let timer = 0;
let turn = 0;

function setState(text, kind) {
  if (state.textContent !== text) state.textContent = text; // a screen reader says what changes, and only then
  state.dataset.kind = kind;
}

function applyTheme() {
  const chosen = form.elements.theme.value;
  document.documentElement.dataset.theme = chosen || (dark.matches ? "dark" : "light");
  if (last) charts.show(last.data, last.at);
}

function remembered() {
  try {
    return localStorage.getItem(THEME) ?? "";
  } catch {
    return ""; // the browser keeps nothing
  }
}

function remember(theme) {
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    // likewise
  }
}

// plotly begins with an inline style sheet for maps. The page has none, and its policy allows no inline styles.
function withoutInlineStyles() {
  const { head } = document;
  const append = head.appendChild;
  head.appendChild = (node) => (node.nodeName === "STYLE" ? node : append.call(head, node));
  return () => delete head.appendChild;
}

function loadCharts() {
  const restore = withoutInlineStyles();
  return new Promise((done) => {
    const script = element("script", { src: "/static/plotly.min.js" });
    for (const outcome of ["load", "error"]) script.addEventListener(outcome, done);
    document.head.append(script);
  }).finally(restore);
}

function showNotice({ recording, charts: installed }) {
  const notice = document.getElementById("notice");
  const text = !recording ? UNRECORDED : installed ? "" : INSTALL;
  if (notice.textContent !== text) notice.textContent = text;
  notice.hidden = !text;
}

function showChoices({ models, window: { of } }) {
  const select = form.elements.model;
  const names = ["", ...models.map(({ model, version }) => `${model}/${version}`)];
  const there = [...select.options].map((option) => option.value);
  if (JSON.stringify(names) !== JSON.stringify(there)) {
    select.replaceChildren(...names.map((name) => element("option", { value: name }, name || "all")));
  }
  if (select.value !== of) select.value = of;
}

function show(data, at) {
  last = { data, at };
  const { server, window: { minutes, covered_seconds: covered } } = data;
  setState(server.ready ? "ready" : "not ready", server.ready ? "good" : "bad");
  showNotice(server);
  showChoices(data);
  showTiles(data);
  if (server.recording) charts.show(data, at);
  showLatency(data);
  showModels(data);
  const short = covered < minutes * 59 ? ` So far there are ${Math.round(covered)} s.` : "";
  document.getElementById("covered").textContent = `normserve ${server.version}, as of ${clock(new Date(at))}.${short}`;
}

function address() {
  const asked = new URLSearchParams({ minutes: form.elements.minutes.value });
  if (form.elements.model.value) asked.set("model", form.elements.model.value);
  return asked;
}

async function update() {
  clearTimeout(timer);
  const mine = ++turn; // an answer to an older question is not shown
  let wait = RETRY;
  try {
    const answer = await fetch(`/api/overview?${address()}`, { signal: AbortSignal.timeout(10000) });
    if (answer.status === 404) form.elements.model.value = ""; // the version is gone
    if (!answer.ok) throw new Error(answer.statusText);
    const data = await answer.json();
    if (data.server.charts && !window.Plotly) await loadCharts();
    if (mine !== turn) return;
    show(data, Date.now());
    wait = PERIODS[data.window.minutes];
  } catch {
    if (mine === turn) setState("no answer", "bad");
  }
  if (mine === turn && !document.hidden) timer = setTimeout(update, wait);
}

function begin() {
  const asked = new URLSearchParams(location.search);
  if (PERIODS[asked.get("minutes")]) form.elements.minutes.value = asked.get("minutes");
  if (asked.get("model")) {
    form.elements.model.append(element("option", { value: asked.get("model") }, asked.get("model")));
    form.elements.model.value = asked.get("model");
  }
  form.elements.theme.value = remembered();
  applyTheme();
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target.name === "theme") {
      remember(event.target.value);
      applyTheme();
      return;
    }
    history.replaceState(null, "", `?${address()}`);
    update();
  });
  dark.addEventListener("change", applyTheme);
  document.addEventListener("visibilitychange", () => document.hidden || update());
  update();
}

begin();
