// Numbers as people read them; what is not known is a dash.

const NONE = "–";
const UNITS = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]];

function digits(exact) {
  const value = Number(exact.toPrecision(6)); // 5e-5 / 1e-6 is not quite 50
  const size = Math.abs(value);
  return size >= 100 || Number.isInteger(value) ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toPrecision(2);
}

export function number(value) {
  if (value === null || value === undefined) return NONE;
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : digits(value);
}

export function count(value) {
  return value === null || value === undefined ? NONE : Math.round(value).toLocaleString("en");
}

export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  const [size, unit] = UNITS.find(([size]) => value >= size * 0.9999) ?? UNITS.at(-1);
  return `${digits(value / size)} ${unit}`;
}

export function percent(value) {
  return value === null || value === undefined ? NONE : `${digits(value * 100)} %`;
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const power = value < 1 ? 0 : Math.min(4, Math.floor(Math.log(value) / Math.log(1024)));
  return `${digits(value / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

export function small(value) {
  return value === null || value === undefined ? NONE : value.toExponential(1);
}

export function clock(date) {
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}
