// Create elements without parsing text as HTML.
import { icon } from "./icons.js";

/** Return a new element: `attributes` are set as such, functions among them as event listeners. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return `action`, but for calls while an earlier one is still under way, as by a double click: these do nothing. */
export function single(action) {
  let running = null;
  return (...args) => (running ??= Promise.resolve(action(...args)).finally(() => { running = null; }));
}

/** Return whether a click is the second one of a double click, which is no answer to what the first one has asked. */
export const isDoubled = (event) => event.detail > 1;

/** Return an element of the HTML that the server has rendered and escaped. */
export function rendered(html, className) {
  const element = make("div", { class: className });
  element.innerHTML = html;
  return element;
}

/** Return a button that shows an icon of icons.js and is called `label`. */
export const iconButton = (act, label, name, attributes = {}) =>
  make("button", { type: "button", class: "tx-act", "data-act": act, "aria-label": label, title: label, ...attributes }, icon(name));
