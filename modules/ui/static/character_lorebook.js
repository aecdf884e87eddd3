// The lorebook in the editor of a character: a list of entries, each of which opens.
import { make } from "./dom.js";
import { icon } from "./icons.js";
import { tr } from "./texts.js";

const SEPARATOR = /[,，、\n]/;
const ORDER_STEP = 10;

let numbered = 0;

const check = (label, checked) => {
  const box = make("input", { type: "checkbox" });
  box.checked = checked;
  return { box, element: make("label", { class: "tx-check" }, box, label) };
};

const labeled = (label, control, hint = "") => {
  control.id ||= `tx-lore-${++numbered}`;
  return make("div", { class: "tx-form-row" }, make("label", { for: control.id }, label), hint && make("p", { class: "tx-hint" }, hint), control);
};

/** Return an entry. Its fields are drawn when it is opened first, as a lorebook may have thousands. */
const entryOf = (entry, changed) => {
  const title = make("span", { class: "tx-lore-title" });
  const state = make("span", { class: "tx-lore-state" });
  const element = make("details", { class: "tx-lore" }, make("summary", {}, icon("next"), title, state));
  const { index = null, keys, content, constant, enabled, order } = entry;
  element.read = () => ({ index, keys, content, constant, enabled, order });
  const describe = () => {
    const now = element.read();
    title.textContent = entry.name || now.keys.join(", ") || now.content.trim().slice(0, 60) || tr("lore_untitled");
    state.textContent = !now.enabled ? tr("lore_off") : now.constant ? tr("lore_always") : "";
  };
  describe();
  element.addEventListener("input", describe);
  element.addEventListener("change", describe);
  element.draw = () => {
    if (element.children.length === 1) drawEntry(element, entry, changed);
  };
  element.addEventListener("toggle", element.draw);
  return element;
};

const drawEntry = (element, entry, changed) => {
  const shownKeys = entry.keys.join(", ");
  const keys = make("input", { type: "text", class: "tx-field", value: shownKeys, maxlength: "20000" });
  const content = make("textarea", { class: "tx-field", rows: "3", maxlength: "2000000" });
  content.value = entry.content;
  const order = make("input", { type: "number", class: "tx-field tx-short", value: String(entry.order), step: "any", min: "-1000000000", max: "1000000000" });
  const constant = check(tr("lore_constant"), entry.constant);
  const enabled = check(tr("lore_enabled"), entry.enabled);
  const remove = make("button", { type: "button", class: "tx-button tx-danger" }, tr("lore_remove"));
  const notes = [
    entry.regex && make("p", { class: "tx-hint tx-warn" }, tr("lore_regex")),
    entry.secondary_keys?.length > 0 && make("p", { class: "tx-hint" }, tr("lore_secondary", { keys: entry.secondary_keys.join(", ") })),
  ];
  element.append(
    labeled(tr("lore_keys"), keys, tr("lore_keys_hint")),
    labeled(tr("lore_text"), content),
    ...notes.filter(Boolean),
    make("div", { class: "tx-lore-foot" }, enabled.element, constant.element, labeled(tr("lore_order"), order), remove),
  );
  remove.addEventListener("click", () => {
    const next = element.nextElementSibling ?? element.previousElementSibling;
    element.remove();
    (next?.querySelector("summary") ?? document.querySelector("#tx-lore-add"))?.focus();
    changed();
  });
  element.read = () => ({
    index: entry.index ?? null,
    keys: keys.value === shownKeys ? entry.keys : keys.value.split(SEPARATOR).map((key) => key.trim()).filter(Boolean), // a key may have a comma
    content: content.value,
    constant: constant.box.checked,
    enabled: enabled.box.checked,
    order: order.value === "" || !order.validity.valid ? entry.order : Number(order.value),
  });
};

/** Return an element with the `entries`, and a function that reads them. `changed` is called for added or removed ones. */
export function lorebookEditor(entries, changed) {
  const list = make("div", { class: "tx-lore-list" }, ...entries.map((entry) => entryOf(entry, changed)));
  const add = make("button", { type: "button", class: "tx-button", id: "tx-lore-add" }, icon("plus"), make("span", {}, tr("lore_add")));
  add.addEventListener("click", () => {
    const orders = [...list.children].map((entry) => entry.read().order);
    const entry = entryOf({ keys: [], content: "", constant: false, enabled: true, order: Math.max(0, ...orders) + ORDER_STEP, name: "" }, changed);
    list.append(entry);
    entry.draw();
    entry.open = true;
    entry.querySelector("input").focus();
    changed();
  });
  const element = make("div", { class: "tx-lorebook" }, make("p", { class: "tx-hint" }, tr("lore_hint")), list, add);
  const read = () => [...list.children].map((entry) => entry.read()).filter(({ index, keys, content }) => index !== null || keys.length || content.trim());
  return { element, read };
}
