// Fields of the views of perplexity and of prices: rows of labels, inputs and help, and lists of boxes to tick.
import { make } from "./dom.js";
import { tr } from "./texts.js";

/** Return an option of a menu. */
export const choice = (value, label = value) => make("option", { value }, label);

/** Fill a menu again; what was chosen stays chosen if it is still there. */
export function fillMenu(menu, options) {
  const { value } = menu;
  menu.replaceChildren(...options);
  if ([...menu.options].some((one) => one.value === value)) menu.value = value;
}

/** Return a row of the form: a label, its input and what it means. */
export function fieldRow(id, label, input, help = "") {
  input.id = id;
  const info = make("p", { class: "tx-s-info", id: `${id}-help` }, help);
  input.setAttribute("aria-describedby", info.id);
  if (input.type === "checkbox") {
    return make("div", { class: "tx-p-row" }, make("div", { class: "tx-p-box" }, input, make("label", { for: id }, label)), info);
  }
  return make("div", { class: "tx-p-row" }, make("label", { for: id }, label), input, info);
}

/** Return the input of an option as the server describes it. */
export function inputOf(field) {
  if (typeof field.default === "boolean") return make("input", { type: "checkbox", checked: field.default });
  if (field.choices.length) {
    const menu = make("select", {}, ...field.choices.map((value) => choice(value)));
    menu.value = field.default;
    return menu;
  }
  return make("input", { type: "text", inputmode: "numeric", value: String(field.default), autocomplete: "off" });
}

/** A fieldset of boxes to tick; `set` draws them again and keeps those ticked. */
export function boxList(id, title) {
  const list = make("div", { class: "tx-p-boxes" });
  const element = make("fieldset", { class: "tx-p-row tx-p-list", id }, make("legend", {}, title), list);
  const boxes = () => [...list.querySelectorAll("input")];
  const chosen = () => boxes().filter(({ checked, disabled }) => checked && !disabled).map(({ value }) => value);
  const set = (items, empty) => {
    const kept = new Set(chosen());
    list.replaceChildren(
      ...items.map(({ value, label, disabled = false }, number) => {
        const box = make("input", { type: "checkbox", value, id: `${id}-${number}`, checked: kept.has(value) && !disabled, disabled });
        return make("div", { class: "tx-p-box" }, box, make("label", { for: `${id}-${number}` }, label));
      }),
      ...(items.length ? [] : [make("p", { class: "tx-s-quiet" }, empty)]),
    );
  };
  const tick = (values) => boxes().forEach((box) => { box.checked = values.includes(box.value) && !box.disabled; });
  return { element, chosen, set, tick };
}

/** Return a time in its largest two units. */
export function timeText(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return tr("pp_seconds", { seconds: whole });
  if (whole < 3600) return tr("pp_minutes", { minutes: Math.floor(whole / 60), seconds: whole % 60 });
  return tr("pp_hours", { hours: Math.floor(whole / 3600), minutes: Math.floor(whole / 60) % 60 });
}

export const bytesText = (bytes) => {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} KB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
};

/** Return a number with so many significant digits; a dash for none. */
export const figure = (value, digits = 4) => (value === null || value === undefined ? "—" : value >= 1e6 ? value.toExponential(2) : String(Number(value.toPrecision(digits))));
