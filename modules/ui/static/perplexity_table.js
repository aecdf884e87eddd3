// The table of results: sorted by any column, filtered, with comments that are saved, charts and comparisons.
import { get, post } from "./chat_client.js";
import { make, rendered } from "./dom.js";
import { figure } from "./perplexity_fields.js";
import { toast } from "./popups.js";
import { tr } from "./texts.js";

const COLUMNS = [
  { key: "model", name: tr("pp_col_model"), text: (row) => row.model },
  { key: "perplexity", name: tr("perplexity"), number: true, text: (row) => figure(row.perplexity, 5) + (row.se === null ? "" : ` ± ${figure(row.se, 2)}`) },
  { key: "bits", name: tr("pp_bits"), number: true, text: (row) => figure(row.bits) },
  { key: "kl", name: "KL", number: true, text: (row) => figure(row.kl, 3) },
  { key: "loras", name: tr("pp_col_loras"), text: (row) => (row.loras === "None" ? "—" : row.loras) },
  { key: "text", name: tr("pp_col_text"), text: (row) => row.text },
  { key: "tokens", name: tr("pp_col_tokens"), number: true, text: (row) => figure(row.tokens, 9) },
  { key: "method", name: tr("pp_col_method"), text: (row) => [row.method, row.stride && row.max_length ? `${row.stride}/${row.max_length}` : row.max_length, row.bos].filter(Boolean).join(" · ") },
  { key: "loader", name: tr("pp_col_loader"), text: (row) => row.loader },
  { key: "date", name: tr("pp_col_date"), text: (row) => row.date },
];

let rows = [];
let sorted = { key: "date", down: true };
let newest = 0;
const chosen = new Set();
const unsaved = new Map(); // comments that the server does not have yet, by the ids of their rows

const filter = make("input", { type: "search", id: "tx-p-filter", placeholder: tr("pp_filter"), "aria-label": tr("pp_filter"), autocomplete: "off" });
const problem = make("div", { class: "tx-s-problem", role: "alert", hidden: true });
const head = make("tr", {});
const body = make("tbody", {});
const count = make("p", { class: "tx-s-info", role: "status" });
const chart = make("div", { class: "tx-p-chart" });
const comparison = make("div", { class: "tx-p-comparison", role: "status", id: "tx-p-comparison" });
const refreshButton = make("button", { type: "button", class: "tx-button" }, tr("pp_refresh"));
const grid = make("table", {}, make("caption", { class: "tx-unseen" }, tr("pp_results")), make("thead", {}, head), body);
export const element = make(
  "section",
  { class: "tx-p-card tx-p-results", "aria-label": tr("pp_results") },
  make("h2", {}, tr("pp_results")),
  make("div", { class: "tx-p-tools" }, filter, refreshButton),
  problem,
  count,
  make("div", { class: "tx-p-table", tabindex: "0", role: "region", "aria-label": tr("pp_results") }, grid),
  comparison,
  chart,
);

const heads = new Map(COLUMNS.map(({ key, name, number }) => [key, make("th", { scope: "col", class: number ? "tx-p-number" : null }, make("button", { type: "button", click: () => sortBy(key) }, name))]));
head.append(make("th", { scope: "col" }, make("span", { class: "tx-unseen" }, tr("pp_choose"))), ...heads.values(), make("th", { scope: "col" }, tr("pp_col_comment")));

function sortBy(key) {
  sorted = { key, down: sorted.key === key ? !sorted.down : Boolean(COLUMNS.find((one) => one.key === key).number) };
  draw();
}

const compare = (a, b) => {
  const [first, second] = [a[sorted.key], b[sorted.key]];
  if (first === null || second === null) return (first === null) - (second === null); // without a figure: last
  const order = typeof first === "number" ? first - second : String(first).localeCompare(String(second));
  return sorted.down ? -order : order;
};

const matches = (row) => {
  const text = [...COLUMNS.map((column) => column.text(row)), row.comment].join(" ").toLowerCase();
  return filter.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
};

/** Save the comment of the row with this id. A text that the server does not take stays, and is sent again later. */
async function saveComment(id, text) {
  const row = rows.find((one) => one.id === id);
  if (!row || (text === row.comment && !unsaved.has(id))) return;
  row.comment = text;
  unsaved.set(id, text);
  try {
    await post("/perplexity/comments", { comments: { [id]: text } });
    if (unsaved.get(id) === text) unsaved.delete(id);
  } catch (error) {
    toast(error.message);
  }
}

const rowOf = (row) => {
  const name = `${row.model}, ${row.text}, ${row.date}`;
  const box = make("input", { type: "checkbox", checked: chosen.has(row.id), "aria-label": tr("pp_choose_named", { name }) });
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(row.id);
    else chosen.delete(row.id);
    drawCharts();
  });
  const field = make("input", { type: "text", value: row.comment, maxlength: "2000", "aria-label": tr("pp_comment_named", { name }) });
  field.addEventListener("change", () => saveComment(row.id, field.value));
  const cells = COLUMNS.map((column) => make("td", { class: column.number ? "tx-p-number" : column.key === "model" ? "tx-p-model" : null }, column.text(row)));
  return make("tr", { "data-id": row.id }, make("td", {}, make("label", { class: "tx-s-check" }, box)), ...cells, make("td", {}, field));
};

function draw() {
  for (const [key, cell] of heads) {
    if (key === sorted.key) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  const shown = rows.filter(matches).sort(compare);
  const written = body.contains(document.activeElement) && document.activeElement.type === "text" ? document.activeElement.closest("tr") : null;
  const at = written ? shown.findIndex(({ id }) => id === written.dataset.id) : -1;
  if (at < 0) body.replaceChildren(...shown.map(rowOf));
  else {
    for (const row of [...body.children]) if (row !== written) row.remove(); // that one keeps its focus where it is
    written.before(...shown.slice(0, at).map(rowOf));
    written.after(...shown.slice(at + 1).map(rowOf));
  }
  count.textContent = rows.length ? tr("pp_count", { shown: shown.length, count: rows.length }) : tr("pp_empty");
  grid.parentElement.hidden = rows.length === 0;
}

async function drawCharts() {
  const mine = ++newest;
  try {
    const found = rows.length ? await post("/perplexity/chart", { ids: [...chosen] }) : { chart: "", comparison: "" };
    if (mine !== newest) return;
    chart.replaceChildren(...(found.chart ? [rendered(found.chart)] : []));
    comparison.replaceChildren(...(found.comparison ? [rendered(found.comparison)] : rows.length > 1 ? [make("p", { class: "tx-s-info" }, tr("pp_compare_hint"))] : []));
  } catch (error) {
    toast(error.message);
  }
}

/** Read the results again; a comment that is being written stays. */
export async function refresh() {
  for (const [id, text] of unsaved) await saveComment(id, text);
  try {
    rows = (await get("/perplexity/results")).rows;
    problem.hidden = true;
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
    return;
  }
  const ids = new Set(rows.map(({ id }) => id));
  for (const id of chosen) if (!ids.has(id)) chosen.delete(id);
  for (const id of unsaved.keys()) if (!ids.has(id)) unsaved.delete(id);
  for (const row of rows) row.comment = unsaved.get(row.id) ?? row.comment;
  draw();
  drawCharts();
}

filter.addEventListener("input", draw);
refreshButton.addEventListener("click", refresh);
