// The form of a training run: fields from the table of parameters, kept by the browser until they are changed.
import { make } from "./dom.js";
import { tr } from "./texts.js";

const KEPT = "tx-training-form";
const RAW_HIDES = ["dataset", "format", "instruction_template", "train_on", "train_only_after", "excess_length", "skip_bad_rows"];
const OPEN = ["data", "base", "lora", "schedule"];

const controls = new Map(); // by key: the field as the server describes it, its input, its row and its line for errors
let changed = () => {};
let lists = {};

export const element = make("div", { class: "tx-t-form" });
const continues = make("select", { id: "tx-t-continues", class: "tx-field" });

const sourceButton = (value, label) =>
  make("label", {}, make("input", { type: "radio", name: "tx-t-source", value, checked: value === "dataset" }), make("span", {}, label));
const sources = make("div", { class: "tx-s-choice tx-t-source", role: "radiogroup", "aria-label": tr("tr_source") }, make("div", {}, sourceButton("dataset", tr("tr_source_dataset")), sourceButton("raw", tr("tr_source_raw"))));
const isRaw = () => sources.querySelector("input:checked").value === "raw";

// -- fields -------------------------------------------------------------------------------------------------------------

const inputOf = (field, attributes) => {
  if (field.kind === "check") return make("input", { ...attributes, type: "checkbox" });
  if (field.kind === "choice" || field.kind === "list") return make("select", { ...attributes, class: "tx-field" });
  if (field.kind === "lines") return make("textarea", { ...attributes, class: "tx-field", rows: "2" });
  const numeric = field.kind === "whole" || field.kind === "number";
  return make("input", { ...attributes, type: "text", class: "tx-field", inputmode: numeric ? "decimal" : null, autocomplete: "off", spellcheck: "false" });
};

const makeRow = (field) => {
  const id = `tx-t-${field.key}`;
  const input = inputOf(field, { id, name: field.key, "aria-describedby": `${id}-help ${id}-error` });
  const help = make("p", { id: `${id}-help`, class: "tx-s-info" }, field.help);
  const error = make("p", { id: `${id}-error`, class: "tx-t-error", hidden: true });
  const isTarget = field.key.endsWith("_proj_en");
  const row = field.kind === "check"
    ? make("div", { class: `tx-t-row tx-t-check${isTarget ? " tx-t-target" : ""}` }, make("label", {}, input, make("span", {}, field.label)), isTarget ? make("span", { id: `${id}-help`, class: "tx-unseen" }, field.help) : help, error)
    : make("div", { class: `tx-t-row${field.kind === "lines" ? " tx-t-wide" : ""}` }, make("label", { for: id }, field.label), input, help, error);
  controls.set(field.key, { field, input, row, error });
  return row;
};

const option = (value, label = value) => make("option", { value }, label);

/** Fill the menus of names again; what was chosen stays chosen, even if it no longer exists. */
export function setLists(names) {
  lists = names;
  for (const { field, input } of controls.values()) {
    if (field.kind !== "list") continue;
    const { value } = input;
    const found = lists[field.list];
    const empty = { model: tr("tr_choose_model"), dataset: tr("tr_choose_data"), raw_text_file: tr("tr_choose_data"), eval_dataset: tr("tr_none") }[field.key] ?? tr("tr_automatic");
    input.replaceChildren(option("", empty), ...found.map((name) => option(name)));
    if (field.key === "model" && lists.others.length) {
      input.append(make("optgroup", { label: tr("tr_not_trainable") }, ...lists.others.map((name) => option(name))));
    }
    setInput(field, input, value);
  }
  const kept = continues.value;
  continues.replaceChildren(option("", tr("tr_new_adapter")), ...lists.adapters.map((name) => option(name, tr("tr_continue_named", { name }))));
  continues.value = lists.adapters.includes(kept) ? kept : "";
}

function setInput(field, input, value) {
  if (field.kind === "check") input.checked = value === true;
  else if (field.kind === "list" || field.kind === "choice") {
    if (![...input.options].some((one) => one.value === String(value))) input.append(option(String(value)));
    input.value = String(value);
  } else input.value = String(value);
}

const valueOf = ({ field, input }) => (field.kind === "check" ? input.checked : input.value);

// -- the whole ----------------------------------------------------------------------------------------------------------

const continueRow = () =>
  make("div", { class: "tx-t-row" }, make("label", { for: "tx-t-continues" }, tr("tr_continues")), continues, make("p", { class: "tx-s-info" }, tr("tr_continues_info")));

const card = (name, title, open, ...children) =>
  make("details", { class: "tx-t-card", id: `tx-t-group-${name}`, open }, make("summary", {}, make("h2", {}, title)), ...children);

/** Draw the form that the server describes. `tools` are buttons for the data. */
export function build(form, tools, onChange) {
  const rows = Object.fromEntries(form.groups.map(({ name, fields }) => [name, fields.map(makeRow)]));
  const titles = Object.fromEntries(form.groups.map(({ name, title }) => [name, title]));
  const grid = (...children) => make("div", { class: "tx-t-grid" }, ...children);
  const cards = [card("data", titles.data, true, sources, grid(...rows.data), grid(...rows.raw), tools)];
  for (const { name } of form.groups) {
    if (name === "data" || name === "raw") continue;
    cards.push(card(name, titles[name], OPEN.includes(name), grid(...(name === "lora" ? [continueRow()] : []), ...rows[name])));
  }
  element.replaceChildren(...cards);
  for (const { field, input } of controls.values()) {
    if (field.kind === "choice") input.append(...field.choices.map((choice) => option(String(choice))));
    setInput(field, input, field.default);
  }
  setLists(form.lists);
  changed = onChange;
  restore();
  showFitting();
  element.addEventListener("input", touched);
}

const touched = () => {
  keep();
  showFitting();
  changed();
};

/** Show the fields that matter with the present choices. */
function showFitting() {
  const raw = isRaw();
  const hidden = (key, group) => {
    if (group === "raw") return !raw;
    if (key === "train_only_after") return raw || controls.get("train_on").input.value !== "after";
    if (key.endsWith("_proj_en")) return controls.get("all_linear").input.checked;
    return raw && RAW_HIDES.includes(key);
  };
  for (const [key, { row }] of controls) row.hidden = hidden(key, row.parentElement === controls.get("raw_text_file").row.parentElement ? "raw" : "");
}

/** Return all values as typed, and the LoRA that the run continues. */
export function values() {
  const all = Object.fromEntries([...controls].map(([key, control]) => [key, valueOf(control)]));
  return { ...all, [isRaw() ? "dataset" : "raw_text_file"]: "" };
}

export const continued = () => continues.value;

/** Choose the LoRA that the run continues. */
export function continueFrom(name) {
  if (![...continues.options].some(({ value }) => value === name)) continues.append(option(name, tr("tr_continue_named", { name })));
  continues.value = name;
  touched();
}

/** Fill in values: of parameters that the form does not have, the names are returned. */
export function fill(wanted) {
  const unknown = [];
  for (const [key, value] of Object.entries(wanted)) {
    const control = controls.get(key);
    if (control) setInput(control.field, control.input, value);
    else unknown.push(key);
  }
  if (wanted.raw_text_file) sources.querySelector("[value=raw]").checked = true;
  else if (wanted.dataset) sources.querySelector("[value=dataset]").checked = true;
  touched();
  return unknown;
}

/** Put all fields back to their defaults, but the model, the data and the name. */
export function reset() {
  continues.value = "";
  const kept = ["model", "dataset", "raw_text_file", "lora_name"];
  fill(Object.fromEntries([...controls].filter(([key]) => !kept.includes(key)).map(([key, { field }]) => [key, field.default])));
}

/** Show an error at the field that it is about; with "" none is shown. */
export function showError(key, text) {
  for (const [name, { input, row, error }] of controls) {
    const wrong = name === key && text !== "";
    error.hidden = !wrong;
    error.textContent = wrong ? text : "";
    if (wrong) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    if (wrong) row.closest("details").open = true;
  }
}

export const labelOf = (key) => controls.get(key)?.field.label ?? key;

/** Move the focus to a field. */
export const focusOn = (key) => controls.get(key)?.input.focus();

export const chooseData = (name) => fill({ [isRaw() ? "raw_text_file" : "dataset"]: name });

// -- kept by the browser -----------------------------------------------------------------------------------------------

function keep() {
  const differing = [...controls].filter(([, control]) => String(valueOf(control)) !== String(control.field.default));
  const body = { values: Object.fromEntries(differing.map(([key, control]) => [key, valueOf(control)])), raw: isRaw(), continues: continues.value };
  try {
    localStorage.setItem(KEPT, JSON.stringify(body));
  } catch {
    // without storage, the form is empty after a reload
  }
}

function restore() {
  try {
    const { values: kept = {}, raw = false, continues: lora = "" } = JSON.parse(localStorage.getItem(KEPT)) ?? {};
    for (const [key, value] of Object.entries(kept)) {
      const control = controls.get(key);
      if (control) setInput(control.field, control.input, value);
    }
    sources.querySelector(`[value=${raw ? "raw" : "dataset"}]`).checked = true;
    if ([...continues.options].some(({ value }) => value === lora)) continues.value = lora;
  } catch {
    // kept by another version
  }
}
