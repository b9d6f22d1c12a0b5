// Elements from data. Texts are set as texts: nothing that a server tells is ever read as HTML.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// A cell, or a column's name, is a text, or { text, kind, left }. Roles are named because a phone's layout takes the tables' own away.
export function fillTable(table, columns, rows) {
  const names = columns.map(content);
  const head = names.map(({ text, left }) => element("th", { scope: "col", role: "columnheader", class: left ? "text" : null }, text));
  const body = rows.map((row) => element("tr", { role: "row" }, ...row.map((each, place) => cell(each, place, names[place].text))));
  table.setAttribute("role", "table");
  table.replaceChildren(
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...head)),
    element("tbody", { role: "rowgroup" }, ...body),
  );
}

function content(given) {
  return typeof given === "object" ? given : { text: given };
}

function cell(given, place, column) {
  const { text, kind, left } = content(given);
  if (place === 0) return element("th", { scope: "row", role: "rowheader" }, text);
  return element("td", { role: "cell", "data-label": column, "data-kind": kind, class: left ? "text" : null }, text);
}
