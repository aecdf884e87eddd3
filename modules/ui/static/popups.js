// What appears above the page for a moment: menus, toasts, and words for screen readers.
import { make } from "./dom.js";

// -- menus --------------------------------------------------------------------------------------------------------------

/** Place a popover below `anchor`, or above it where there is no room; `end` aligns the right edges. */
export function placeAt(popover, anchor, end = true) {
  const from = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popover;
  const left = end ? from.right - width : from.left;
  const below = from.bottom + 4 + height <= innerHeight;
  popover.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  popover.style.top = `${Math.max(8, below ? from.bottom + 4 : from.top - height - 4)}px`;
}

const itemOf = (menu, { label, action, href, danger = false, key = "" }) => {
  const attributes = { role: "menuitem", tabindex: "-1", class: danger ? "tx-menu-item tx-danger" : "tx-menu-item" };
  const choose = () => {
    menu.hidePopover();
    action?.();
  };
  const hint = key && make("kbd", {}, key);
  return href
    ? make("a", { ...attributes, href, download: true, click: choose }, label, hint)
    : make("button", { ...attributes, type: "button", click: choose }, label, hint);
};

const moveFocus = (menu, event) => {
  const items = [...menu.querySelectorAll("[role=menuitem]")];
  const at = items.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
  if (event.key === "Tab") menu.hidePopover();
  if (to === undefined) return;
  event.preventDefault();
  items.at(to % items.length).focus();
};

/** Open a menu below the button `anchor`. Each of `items` has a `label` and an `action` or the `href` of a file. */
export function openMenu(anchor, label, items) {
  const menu = make("div", { popover: "auto", role: "menu", class: "tx-menu", "aria-label": label });
  menu.append(...items.map((item) => itemOf(menu, item)));
  menu.addEventListener("keydown", (event) => moveFocus(menu, event));
  menu.addEventListener("toggle", (event) => {
    if (event.newState === "open") return;
    if (menu.contains(document.activeElement) || document.activeElement === document.body) anchor.focus();
    anchor.removeAttribute("aria-expanded");
    menu.remove();
  });
  document.body.append(menu);
  menu.showPopover();
  anchor.setAttribute("aria-expanded", "true");
  placeAt(menu, anchor);
  menu.querySelector("[role=menuitem]").focus();
}

// -- panels -------------------------------------------------------------------------------------------------------------

/** Show a panel with `children` beside the button `anchor`, which closes it again, and return it. */
export function openPanel(anchor, attributes, children, onClose) {
  const panel = make("div", { class: "tx-panel", popover: "auto", role: "dialog", ...attributes }, ...children);
  panel.addEventListener("toggle", ({ newState }) => {
    if (newState === "open") return;
    if (panel.contains(document.activeElement) || document.activeElement === document.body) anchor.focus();
    anchor.removeAttribute("aria-expanded");
    anchor.popoverTargetElement = null;
    panel.remove();
    onClose();
  });
  document.body.append(panel);
  panel.showPopover();
  anchor.setAttribute("aria-expanded", "true");
  placeAt(panel, anchor, false);
  setTimeout(() => panel.isConnected && (anchor.popoverTargetElement = panel)); // not for the click that opens it
  return panel;
}

// -- toasts -------------------------------------------------------------------------------------------------------------

const toasts = make("div", { id: "tx-toasts", role: "status" });
const announcer = make("div", { class: "tx-unseen", role: "status" });
document.body.append(toasts, announcer);

/** Show a sentence for some seconds, which do not pass while the pointer or the focus is on it, and perhaps a button. */
export function toast(text, { label, action, seconds = 10 } = {}) {
  const note = make("div", { class: "tx-toast" }, make("span", {}, text));
  let timer = 0;
  const close = () => {
    clearTimeout(timer);
    note.remove();
  };
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(close, seconds * 1000);
  };
  const pause = () => clearTimeout(timer);
  for (const name of ["pointerenter", "focusin"]) note.addEventListener(name, pause);
  for (const name of ["pointerleave", "focusout"]) note.addEventListener(name, wait);
  if (label) note.append(make("button", { type: "button", click: () => { close(); action(); } }, label));
  toasts.append(note);
  while (toasts.children.length > 3) toasts.firstElementChild.remove();
  wait();
}

/** Have a screen reader say `text` once. */
export const announce = (text) => {
  announcer.textContent = text;
};
