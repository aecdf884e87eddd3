// The price of an option: what is compared, the measurement that is going on, and the prices that are kept.
import { get, post } from "./chat_client.js";
import { make, rendered } from "./dom.js";
import { choice, fieldRow, fillMenu, timeText } from "./perplexity_fields.js";
import { takeWanted } from "./price_buttons.js";
import { polling } from "./polling.js";
import { toast } from "./popups.js";
import { tr } from "./texts.js";

const PHASES = { queued: tr("pp_queued"), quality: tr("pc_quality"), measuring: tr("pc_measuring"), done: tr("pp_done"), failed: tr("pp_failed"), stopped: tr("pp_stopped") };

let lists = null;
let chosen = ""; // the measurement that is shown
let drawn = "";
let ended = "";
let more = {}; // further options of the form that the button was pressed in
let inForm = {}; // the values of that form

// -- the form -------------------------------------------------------------------------------------------------------------

const model = make("select", {});
const loader = make("select", {});
const key = make("select", {});
const sides = { a: make("div", {}), b: make("div", {}) };
const text = make("select", {});
const quick = make("select", {});
const mayUnload = make("input", { type: "checkbox" });
const note = make("p", { class: "tx-s-info" });
const help = make("p", { class: "tx-s-info", id: "tx-pc-help" });
const unloads = make("div", { class: "tx-s-note", role: "status", hidden: true });
const problem = make("div", { class: "tx-s-problem", role: "alert", hidden: true });
const startButton = make("button", { type: "button", class: "tx-button tx-main", id: "tx-pc-start" }, tr("pc_start"));
const values = make("div", { class: "tx-p-grid" }, sides.a, sides.b);
const modelRow = fieldRow("tx-pc-model", tr("pp_col_model"), model);
const loaderRow = fieldRow("tx-pc-loader", tr("pp_col_loader"), loader);
const unloadRow = fieldRow("tx-pc-unload", tr("pc_may_unload"), mayUnload);
const form = make(
  "section",
  { class: "tx-p-card", "aria-label": tr("pc_form") },
  modelRow,
  loaderRow,
  fieldRow("tx-pc-key", tr("pc_option"), key),
  help,
  values,
  note,
  make("div", { class: "tx-p-grid" }, fieldRow("tx-pc-quick", tr("pc_pairs"), quick), fieldRow("tx-pc-text", tr("pc_text"), text)),
  unloads,
  unloadRow,
  problem,
  make("div", { class: "tx-s-buttons" }, startButton),
);

const optionOf = (name) => lists.options.find((one) => one.key === name);

const valueInput = (name, side) => {
  const menuOf = (names) => make("select", {}, ...names.map((one) => choice(one)));
  if (name === "model") return menuOf(lists.models);
  if (name === "loader") return menuOf(Object.keys(lists.loaders));
  const option = optionOf(name);
  const current = name in inForm ? String(inForm[name]) : "";
  const standard = String(option.default);
  if (typeof option.default === "boolean") {
    const menu = menuOf(["false", "true"]);
    menu.value = String(side === "b");
    return menu;
  }
  if (option.choices.length) {
    const menu = menuOf(option.choices.map(String));
    menu.value = side === "a" ? standard : current && current !== standard ? current : (option.choices.map(String).find((one) => one !== standard) ?? standard);
    return menu;
  }
  return make("input", { type: "text", autocomplete: "off", spellcheck: "false", value: side === "a" ? standard : current !== standard ? current : "" });
};

const showValues = () => {
  for (const [side, label] of [["a", tr("pc_a")], ["b", tr("pc_b")]]) {
    const input = valueInput(key.value, side);
    if (side === "b" && ["model", "loader"].includes(key.value) && input.options.length > 1) input.selectedIndex = 1;
    sides[side].replaceChildren(fieldRow(`tx-pc-${side}`, label, input));
  }
  help.textContent = optionOf(key.value)?.help ?? tr(key.value === "model" ? "pc_models_info" : "pc_loaders_info");
  modelRow.hidden = key.value === "model";
  loaderRow.hidden = key.value === "loader";
  const shared = Object.entries(more).filter(([name]) => name !== key.value);
  note.textContent = shared.length ? tr("pc_shared", { options: shared.map(([name, value]) => `${name}=${value}`).join(", ") }) : "";
  note.hidden = shared.length === 0;
};

const fillKeys = () => {
  const keys = loader.value ? lists.loaders[loader.value] : lists.options.map((one) => one.key);
  const items = lists.options.filter((one) => keys.includes(one.key)).map((one) => choice(one.key, one.label === one.key ? one.key : `${one.label} (${one.key})`));
  fillMenu(key, [choice("model", tr("pc_models")), choice("loader", tr("pc_loaders")), ...items]);
};

const showResidents = (names) => {
  unloads.hidden = unloadRow.hidden = names.length === 0;
  unloads.textContent = tr("pc_in_memory", { models: names.join(", ") });
};

const showProblem = (message) => {
  problem.textContent = message;
  problem.hidden = !message;
};

form.addEventListener("change", ({ target }) => {
  if (target === loader) fillKeys();
  if (target === model || target === loader) inForm = more = {};
  if (target === key || target === loader || target === model) showValues();
  if (target === model) showKept();
  showProblem("");
});

const wanted = () => {
  const options = Object.fromEntries(Object.entries(more).filter(([name]) => name !== key.value));
  const valueOf = (side) => sides[side].querySelector("input, select").value.trim();
  return {
    key: key.value, a: valueOf("a"), b: valueOf("b"), options, text: text.value,
    model: key.value === "model" ? "" : model.value, loader: key.value === "loader" ? "" : loader.value,
    pairs: Number(quick.value), may_unload: mayUnload.checked,
  };
};

startButton.addEventListener("click", async () => {
  startButton.disabled = true;
  showProblem("");
  try {
    choose((await post("/price/start", wanted())).id);
    await measurements.now();
    run.scrollIntoView({ block: "nearest", behavior: "smooth" });
  } catch (error) {
    showProblem(error.message);
  }
  startButton.disabled = false;
});

// -- the measurement ------------------------------------------------------------------------------------------------------

const heading = make("h2", {});
const about = make("p", { class: "tx-s-info" });
const status = make("p", { role: "status" });
const bar = make("progress", { "aria-label": tr("pc_progress") });
const findings = make("div", { class: "tx-p-chart" });
const stopButton = make("button", { type: "button", class: "tx-button", id: "tx-pc-stop" }, tr("pp_stop"));
const disturbed = make("p", { class: "tx-s-note", hidden: true });
const error = make("p", { class: "tx-p-error", hidden: true });
const run = make("section", { class: "tx-p-card", id: "tx-pc-run", "aria-label": tr("pc_run"), hidden: true }, heading, about, bar, status, make("div", { class: "tx-s-buttons" }, stopButton), error, disturbed, findings);

const choose = (id) => {
  if (chosen !== id) drawn = "";
  chosen = id;
};

stopButton.addEventListener("click", () => post("/price/stop", { id: chosen }).catch((problem_) => toast(problem_.message)));

const drawRun = (body) => {
  const found = body.runs.find(({ id }) => id === chosen);
  if (!found) return;
  run.hidden = false;
  heading.textContent = `${found.key}: ${found.a || '""'} → ${found.b || '""'}`;
  about.textContent = found.model;
  about.hidden = !found.model;
  bar.hidden = stopButton.parentElement.hidden = found.ended;
  bar.max = Math.max(found.total, 1);
  bar.value = found.done;
  const parts = [PHASES[found.state]];
  if (found.waiting) parts.push(found.waiting.replace(/[.。]$/, ""));
  if (!found.ended && found.value) parts.push(tr("pc_load", { number: Math.min(found.done + 1, found.total), total: found.total, value: found.value }));
  if (!found.ended && found.left !== null) parts.push(tr("pp_left", { time: timeText(found.left) }));
  if (found.ended) parts.push(timeText(found.seconds));
  status.textContent = parts.join(" · ");
  error.textContent = found.error;
  error.hidden = !found.error;
  disturbed.hidden = found.ended || found.disturbed <= 0.1;
  disturbed.textContent = tr("pc_foreign", { percent: Math.round(found.disturbed * 100) });
  if ("html" in body) {
    drawn = body.drawn;
    findings.replaceChildren(...(body.html ? [rendered(body.html)] : []));
  }
};

const measurements = polling(async function refresh() {
  const body = await get(`/price/runs?run=${encodeURIComponent(chosen)}&drawn=${encodeURIComponent(drawn)}`);
  const going = body.runs.find(({ ended: over, state }) => !over && state !== "queued") ?? body.runs.find(({ ended: over }) => !over);
  const next = going ?? (chosen ? null : body.runs.at(-1)); // a page that has just been opened shows the last one
  if (next && next.id !== chosen && (body.runs.find(({ id }) => id === chosen)?.ended ?? true)) {
    choose(next.id);
    return refresh();
  }
  drawRun(body);
  showResidents(body.residents);
  const over = body.runs.filter((one) => one.ended).map(({ id }) => id).join();
  if (over !== ended) showKept();
  ended = over;
  return Boolean(going);
});

// -- kept prices ----------------------------------------------------------------------------------------------------------

const rows = make("ul", { class: "tx-p-subjects" });
const kept = make("section", { class: "tx-p-card", "aria-label": tr("pc_kept") }, make("h2", {}, tr("pc_kept")), rows);

const keptRow = (one, opened) => {
  const body = make("div", {});
  const title = `${one.key}: ${one.a || '""'} → ${one.b || '""'}`;
  const about = [one.model, one.loader, tr("pc_pairs_of", { count: one.pairs }), one.date].filter(Boolean).join(" · ");
  const details = make("details", { "data-id": one.id }, make("summary", {}, make("span", {}, make("b", {}, title), ` ${about}`)), body);
  details.addEventListener("toggle", async () => {
    if (!details.open || body.childElementCount) return;
    body.replaceChildren(await get(`/price/result?id=${encodeURIComponent(one.id)}`).then(({ html }) => rendered(html), (problem_) => make("p", {}, problem_.message)));
  });
  details.open = opened;
  return make("li", {}, details);
};

async function showKept(opened = "") {
  const open = new Set([opened, ...[...rows.querySelectorAll("details[open]")].map(({ dataset }) => dataset.id)]);
  try {
    const { results } = await get(`/price/results?model=${encodeURIComponent(key.value === "model" ? "" : model.value)}`);
    rows.replaceChildren(...(results.length ? results.map((one) => keptRow(one, open.has(one.id) || results.length === 1)) : [make("li", { class: "tx-s-quiet" }, tr("pc_none_kept"))]));
    if (opened) rows.querySelector(`[data-id="${CSS.escape(opened)}"]`)?.scrollIntoView({ block: "nearest" });
  } catch (problem_) {
    rows.replaceChildren(make("li", { class: "tx-p-error" }, problem_.message));
  }
}

export const element = make("div", { class: "tx-p", "data-view": "price" }, make("p", { class: "tx-s-info" }, tr("pc_about")), make("div", { class: "tx-p-columns" }, form, make("div", { class: "tx-p-side" }, run)), kept);

async function build() {
  try {
    lists = await get("/price/form");
    fillMenu(model, lists.models.map((name) => choice(name)));
    fillMenu(loader, [choice("", tr("pc_automatic")), ...Object.keys(lists.loaders).map((name) => choice(name))]);
    fillMenu(text, [choice("", tr("pc_shipped_text")), ...lists.texts.map((name) => choice(name))]);
    fillMenu(quick, [choice(lists.pairs.full, tr("pc_full", { count: lists.pairs.full })), choice(lists.pairs.quick, tr("pc_quick", { count: lists.pairs.quick }))]);
    const asked = takeWanted();
    if (asked) {
      if (lists.models.includes(asked.model)) model.value = asked.model;
      if (asked.loader in lists.loaders) loader.value = asked.loader;
      inForm = more = asked.values;
    }
    fillKeys();
    const isFirst = !sides.a.childElementCount;
    if (asked || isFirst) {
      key.value = asked?.key ?? "cache_8bit";
      if (!key.value) key.selectedIndex = 0;
      showValues();
    }
    showResidents(lists.residents);
    startButton.disabled = lists.models.length === 0;
    await showKept(asked?.id);
    if (asked) key.focus();
  } catch (problem_) {
    showProblem(problem_.message);
    startButton.disabled = true;
  }
}

/** Begin to follow the measurements. */
export function show() {
  build();
  measurements.begin();
}

/** Stop following them. */
export const hide = measurements.end;
