// The form of the generation parameters: marks at its fields what the server finds invalid or changed from the preset,
// keeps its values and its open groups in the browser. Fields in folded groups are drawn when their group is opened.
import { make } from "./dom.js";
import { tr } from "./texts.js";

const VALUES = "tx-kept"; // read by ParametersTab when a page is opened
const GROUPS = "tx-groups"; // read there too

let report = { errors: {}, changed: {}, preset: "" };
let groupKeys = {};

const keyOf = (option) => option.id.replace("tx-gen-", "");
const fieldsOf = (option) => option.querySelectorAll("input, textarea");

function markError(option, text) {
  const id = `${option.id}-error`;
  let note = option.querySelector(":scope > .tx-error");
  if (text && !note) {
    note = make("p", { class: "tx-error", id, role: "alert" });
    option.append(note);
  }
  if (!text) note?.remove();
  else if (note.textContent !== text) note.textContent = text;
  for (const field of fieldsOf(option)) {
    if (text) field.setAttribute("aria-describedby", id);
    else if (field.getAttribute("aria-describedby") === id) field.removeAttribute("aria-describedby");
    if (text) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
}

function markChange(option, value) {
  const chip = option.querySelector(":scope > .tx-source");
  const button = option.querySelector(":scope > .tx-reset");
  if (value === undefined) {
    if (button === document.activeElement) option.querySelector("input, textarea")?.focus();
    chip?.remove();
    button?.remove();
    return;
  }
  const label = tr("preset_back", { preset: report.preset, value });
  if (!chip) option.append(make("span", { class: "tx-source", "data-source": "form" }, tr("gen_changed")));
  if (!button) {
    const reset = () => window.txParameters({ reset: keyOf(option) });
    option.append(make("button", { class: "tx-reset", type: "button", click: reset }, "↺"));
  }
  const back = option.querySelector(":scope > .tx-reset");
  back.title = label;
  back.setAttribute("aria-label", label);
}

function markGroup(group) {
  const title = group.querySelector(".label-wrap > span");
  if (!title) return;
  const keys = groupKeys[group.id] ?? [];
  const count = (marked) => keys.filter((key) => key in marked).length;
  const [invalid, changed] = [count(report.errors), count(report.changed)];
  const words = [invalid && tr("gen_count_invalid", { count: invalid }), changed && tr("gen_count_changed", { count: changed })];
  title.dataset.changed = words.filter(Boolean).join(" · ");
  title.toggleAttribute("data-invalid", invalid > 0);
}

/** Say below the menu of presets how many values differ, and offer to bring all of them back. */
function markPreset() {
  const menu = document.querySelector("#tx-preset");
  const count = Object.keys(report.changed).length;
  let line = document.querySelector("#tx-preset-changed");
  if (!count || !menu) {
    if (line?.contains(document.activeElement)) menu?.querySelector("input")?.focus();
    line?.remove();
    return;
  }
  if (!line) {
    const back = () => window.txParameters({ all: true });
    line = make("div", { id: "tx-preset-changed" }, make("span"), make("button", { type: "button", class: "tx-undo", click: back }, tr("preset_reset")));
    menu.after(line);
  }
  line.firstElementChild.textContent = tr("preset_changed", { count });
}

function mark() {
  markPreset();
  const form = document.querySelector("#tx-params");
  if (!form) return;
  for (const option of form.querySelectorAll(".tx-opt")) {
    markError(option, report.errors[keyOf(option)] ?? "");
    markChange(option, report.changed[keyOf(option)]);
  }
  for (const group of form.querySelectorAll(".tx-group")) markGroup(group);
}

// -- groups: the server opens those kept when a page is opened -----------------------------------------------------------

document.addEventListener("click", (event) => {
  if (!event.target.closest("#tx-params .tx-group > .label-wrap")) return;
  setTimeout(() => {
    const open = [...document.querySelectorAll("#tx-params .tx-group:has(> .label-wrap.open)")];
    localStorage.setItem(GROUPS, JSON.stringify(open.map((group) => group.id.replace("tx-gen-group-", ""))));
  });
});

// -- what the server says, and what Gradio draws ---------------------------------------------------------------------------

document.addEventListener("tx-parameters", (event) => {
  if (!event.detail.errors) return; // nothing yet
  const { kept, groups, ...marks } = event.detail;
  report = marks;
  groupKeys = Object.fromEntries(Object.entries(groups).map(([name, keys]) => [`tx-gen-group-${name}`, keys]));
  localStorage.setItem(VALUES, JSON.stringify(kept));
  mark();
});

let scheduled = false;
const drawn = () => {
  scheduled = false;
  mark();
};
const isOurs = (node) => node.nodeType !== 1 || /\btx-(source|reset|error)\b/.test(node.className);
const panelObserver = new MutationObserver((changes) => {
  if (scheduled || changes.every(({ addedNodes }) => [...addedNodes].every(isOurs))) return;
  scheduled = true;
  requestAnimationFrame(drawn);
});
const observePanel = () => {
  const panel = document.querySelector("#tx-page-parameters");
  if (panel) panelObserver.observe(panel, { childList: true, subtree: true });
  return panel !== null;
};
if (!observePanel()) {
  const waiting = new MutationObserver(() => observePanel() && waiting.disconnect());
  waiting.observe(document.documentElement, { childList: true, subtree: true });
}
