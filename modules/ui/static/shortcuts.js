// The keys of the page, in one table: what is pressed is looked up in it, and the sheet of keys is drawn from it.
import { make } from "./dom.js";
import { tr } from "./texts.js";

const table = [];

const parse = (keys) => {
  const parts = keys.split("+");
  const key = parts.at(-1).toLowerCase();
  const has = (name) => parts.slice(0, -1).includes(name);
  return { key: key === "esc" ? "escape" : key, ctrl: has("Ctrl"), shift: has("Shift"), alt: has("Alt") };
};

const matches = ({ key, ctrl, shift, alt }, event) => {
  // Shift is part of "?", and where it is depends on the keyboard. With Alt, some systems report another letter.
  const pressed = event.key.toLowerCase() === key || event.code.toLowerCase() === `key${key}`;
  return pressed && ctrl === (event.ctrlKey || event.metaKey) && alt === event.altKey && (key === "?" || shift === event.shiftKey);
};

const isTyping = (element) =>
  Boolean(element?.closest?.("textarea, select, [contenteditable=true], input:not([type=checkbox], [type=radio], [type=range], [type=button])"));

/**
 * Run `action` when `keys`, such as "Ctrl+Shift+O", are pressed. `label` describes it in the sheet; "" leaves it out.
 *
 * Of several entries with the same keys, those that are `first` come first, then those registered last, until one does
 * not return false. Keys without Ctrl or Alt do nothing while a text is being typed, except Esc. Without an `action`, the
 * entry is only described: some element handles it. With `at`, it is there at that destination only. Keys with Ctrl or Alt
 * act once however long they are held down, unless it `repeats`. Returns a function that removes the entry.
 */
export function register(keys, label, action = null, { first = false, at = "", repeats = false } = {}) {
  const entry = { keys, label, action, first, at, repeats, ...parse(keys) };
  table.push(entry);
  return () => table.splice(table.indexOf(entry), 1);
}

// The address changes first, and what is shown a moment later.
const isHere = ({ at }) => !at || at === document.documentElement.dataset.at || at === location.hash.split(/[#/]/)[1];

// Esc closes what is open above the page first: the browser does that.
const OPEN = "dialog[open], [popover=auto]:popover-open, [role=combobox][aria-expanded=true]:focus";

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229 || event.defaultPrevented) return; // an input method has the key
  if (document.querySelector(OPEN)) return;
  const latestFirst = table.filter(isHere).reverse();
  for (const entry of [...latestFirst.filter(({ first }) => first), ...latestFirst.filter(({ first }) => !first)]) {
    if (!entry.action || !matches(entry, event)) continue;
    if (!entry.ctrl && !entry.alt && entry.key !== "escape" && isTyping(event.target)) continue;
    if (event.repeat && !entry.repeats && (entry.ctrl || entry.alt)) return event.preventDefault();
    if (entry.action(event) === false) continue;
    event.preventDefault();
    return;
  }
});

const CAPS = { Escape: "Esc", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const keyCaps = (keys) => keys.split("+").flatMap((key, index) => [index ? " " : null, make("kbd", {}, CAPS[key] ?? key)]);

/** Show all keys that are described. */
export function showSheet() {
  if (document.querySelector("#tx-keys")) return;
  const rows = table.filter((entry) => entry.label && isHere(entry)).map(({ keys, label }) => make("div", {}, make("dt", {}, label), make("dd", {}, ...keyCaps(keys))));
  const close = make("button", { type: "button", class: "tx-button", click: () => sheet.close() }, tr("sheet_close"));
  const sheet = make(
    "dialog",
    { id: "tx-keys", "aria-labelledby": "tx-keys-title" },
    make("h2", { id: "tx-keys-title" }, tr("shortcuts")),
    make("dl", {}, ...rows),
    close,
  );
  sheet.addEventListener("click", (event) => event.target === sheet && sheet.close()); // the backdrop
  sheet.addEventListener("close", () => sheet.remove());
  document.body.append(sheet);
  sheet.showModal();
}

register("?", tr("key_sheet"), showSheet);
