// The variables that the template of the loaded model reads, such as whether the model thinks first. The browser keeps what
// was set for each model; the values go with each request.
import { get } from "./chat_client.js";
import { make } from "./dom.js";
import { icon } from "./icons.js";
import { openPanel } from "./popups.js";
import { tr } from "./texts.js";

const NAMES = {
  enable_thinking: tr("variable_thinking"),
  thinking: tr("variable_thinking"),
  reasoning_effort: tr("variable_effort"),
  preserve_thinking: tr("variable_preserve"),
  clear_thinking: tr("variable_clear"),
  model_identity: tr("variable_identity"),
  date_string: tr("variable_date"),
};

const button = make("button", { id: "tx-variables", type: "button", class: "tx-chip", hidden: true });
export const element = button;

let model = "";
let variables = [];
let panel = null;

// -- values ---------------------------------------------------------------------------------------------------------------

const storageKey = () => `tx-template-${model}`;

const saved = () => {
  try {
    return JSON.parse(localStorage.getItem(storageKey())) ?? {};
  } catch {
    return {}; // somebody has edited the browser's storage
  }
};

const isPossible = ({ kind, choices }, value) => ({ bool: typeof value === "boolean", choice: choices?.includes(value), text: typeof value === "string" })[kind];

/** Return the values that were set for the loaded model. The template has defaults for all others. */
export function values() {
  const set = saved();
  return Object.fromEntries(variables.filter((one) => isPossible(one, set[one.name])).map(({ name }) => [name, set[name]]));
}

const valueOf = ({ name, default: value }) => values()[name] ?? value;

function set(variable, value) {
  const changed = { ...values(), [variable.name]: value };
  if (value === variable.default || value === "") delete changed[variable.name];
  if (Object.keys(changed).length) localStorage.setItem(storageKey(), JSON.stringify(changed));
  else localStorage.removeItem(storageKey());
  show();
}

// -- the button, and the panel where there is more than one switch ----------------------------------------------------------

const nameOf = ({ name }) => NAMES[name] ?? name;
const isSwitch = () => variables.length === 1 && variables[0].kind === "bool";

const stateOf = (variable) => {
  const value = valueOf(variable);
  if (variable.kind === "bool") return value ? nameOf(variable) : tr("variable_off", { name: nameOf(variable) });
  return value ? `${nameOf(variable)}: ${value}` : nameOf(variable);
};

function show() {
  button.hidden = !variables.length;
  if (button.hidden) return panel?.hidePopover();
  const [first] = variables;
  button.replaceChildren(icon("thinking"), make("span", {}, stateOf(first)));
  button.title = variables.map((one) => `${one.name} = ${JSON.stringify(valueOf(one))}`).join("\n");
  if (isSwitch()) {
    button.setAttribute("aria-pressed", String(Boolean(valueOf(first))));
    button.setAttribute("aria-label", nameOf(first));
    button.removeAttribute("aria-haspopup");
  } else {
    button.removeAttribute("aria-pressed");
    button.setAttribute("aria-label", tr("template_variables"));
    button.setAttribute("aria-haspopup", "dialog");
  }
}

function fieldOf(variable) {
  const id = `tx-variable-${variable.name}`;
  const value = valueOf(variable);
  if (variable.kind === "bool") {
    const box = make("input", { id, type: "checkbox", checked: Boolean(value), change: () => set(variable, box.checked) });
    return make("label", { class: "tx-choice" }, box, make("span", {}, nameOf(variable)));
  }
  const label = make("label", { for: id }, nameOf(variable));
  if (variable.kind === "text") {
    const field = make("input", { id, type: "text", value: value ?? "", placeholder: tr("variable_default"), change: () => set(variable, field.value) });
    return make("div", { class: "tx-variable" }, label, field);
  }
  const select = make("select", { id, change: () => set(variable, select.value) });
  const choices = variable.choices.includes(value) ? variable.choices : ["", ...variable.choices];
  select.append(...choices.map((one) => make("option", { value: one, selected: one === (value ?? "") }, one || tr("variable_default"))));
  return make("div", { class: "tx-variable" }, label, select);
}

const open = () => {
  if (panel) return;
  const title = tr("template_variables");
  panel = openPanel(button, { id: "tx-variables-panel", "aria-label": title }, [make("h3", {}, title), ...variables.map(fieldOf)], () => { panel = null; });
  panel.querySelector("input, select").focus();
};

button.addEventListener("click", () => (isSwitch() ? set(variables[0], !valueOf(variables[0])) : open()));

// -- news: Gradio redraws the state of the model in the header, whose text has its name -----------------------------------------

let shownState = null;
let asked = 0; // counts requests: an answer that another one has overtaken is dropped

async function refresh() {
  const number = ++asked;
  const answer = shownState ? await get("/chat/template").catch(() => null) : null;
  if (number !== asked) return;
  model = answer?.model ?? "";
  variables = answer?.kwargs ?? [];
  show();
}

function watchModel() {
  const pill = document.querySelector("#tx-pill .tx-pill");
  const ready = pill?.classList.contains("tx-ready") ? pill.textContent : "";
  if (ready === shownState) return;
  shownState = ready;
  refresh();
}
// Another template may have been chosen on the Model page.
addEventListener("hashchange", () => location.hash.startsWith("#chat") && shownState && refresh());

const whenDrawn = new MutationObserver(() => {
  const part = document.querySelector("#tx-pill");
  if (!part) return;
  whenDrawn.disconnect();
  new MutationObserver(watchModel).observe(part, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["class"] });
  watchModel();
});
whenDrawn.observe(document.documentElement, { subtree: true, childList: true });
