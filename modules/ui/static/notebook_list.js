// The texts of the notebook, in a panel below their name: search, open, rename, delete, and prompts to begin with.
import { get } from "./chat_client.js";
import { make, single } from "./dom.js";
import { icon } from "./icons.js";
import * as client from "./notebook_client.js";
import { placeAt, toast } from "./popups.js";
import { language, tr } from "./texts.js";

const when = new Intl.DateTimeFormat(language === "zh" ? "zh-CN" : "en-US", { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const SHOWN = 200;

const field = make("input", { type: "search", id: "nb-search", placeholder: tr("nb_search"), "aria-label": tr("nb_search"), autocomplete: "off" });
const list = make("div", { id: "nb-list" });
const panel = make("div", { id: "nb-panel", popover: "auto", role: "dialog", "aria-label": tr("nb_texts") }, field, list);
document.body.append(panel);

let asked = 0;
let opener = null;

export const address = (name) => (name ? `#notebook/${encodeURIComponent(name)}` : "#notebook");

async function draw() {
  const number = ++asked;
  const answer = await get(`/notebook/list?q=${encodeURIComponent(field.value.trim())}`).catch((error) => ({ texts: [], prompts: [], problem: error.message }));
  if (number !== asked) return;
  const rows = answer.texts.slice(0, SHOWN).map(rowOf);
  const prompts = answer.prompts.map((name) => make("li", {}, make("button", { type: "button", class: "nb-open", click: () => usePrompt(name) }, make("span", { class: "nb-name" }, name))));
  const note = answer.problem ?? (rows.length || prompts.length ? "" : tr(field.value.trim() ? "nothing_found" : "nb_none"));
  list.replaceChildren(
    ...(answer.kept === false ? [make("p", {}, tr("nb_guest"))] : []),
    ...(note ? [make("p", {}, note)] : []),
    make("ul", { role: "list" }, ...rows),
    ...(prompts.length ? [make("h2", {}, tr("nb_prompts")), make("ul", { role: "list" }, ...prompts)] : []),
  );
}

function rowOf(entry) {
  const row = make("li", { "data-name": entry.name });
  const open = make("button", { type: "button", class: "nb-open", title: entry.problem || entry.name, "aria-current": entry.name === client.currentName() && "true", click: () => go(entry.name) },
    make("span", { class: "nb-name" }, entry.name), entry.running && make("span", { class: "tx-entry-running" }), make("time", {}, when.format(new Date(entry.updated * 1000))),
    (entry.problem || entry.snippet) && make("span", { class: "nb-snippet" }, entry.problem || entry.snippet));
  const remove = make("button", { type: "button", class: "tx-icon-button nb-remove", "aria-label": `${tr("delete")} ${entry.name}`, title: tr("delete"), click: single(() => discard(entry.name)) }, icon("bin"));
  row.append(open, remove);
  return row;
}

const go = (name) => {
  panel.hidePopover();
  location.hash = address(name);
};

async function usePrompt(name) {
  panel.hidePopover();
  try {
    const { text } = await get(`/notebook/prompt?name=${encodeURIComponent(name)}`);
    client.begin(text, name);
  } catch (error) {
    toast(error.message);
  }
}

async function discard(name) {
  const wasOpen = name === client.currentName();
  if (!(await client.remove(name))) return;
  const next = list.querySelector(`li:not([data-name="${CSS.escape(name)}"]) .nb-open`);
  if (wasOpen) {
    client.begin("");
    location.hash = address("");
  }
  await draw();
  (next?.isConnected ? next : field).focus();
  const back = async () => {
    try {
      await client.restore(name);
      if (wasOpen) location.hash = address(name);
    } catch (error) {
      toast(error.message);
    }
  };
  toast(tr("nb_deleted", { name }), { label: tr("undo"), action: back });
}

let timer = 0;
field.addEventListener("input", (event) => {
  if (event.isComposing) return;
  clearTimeout(timer);
  timer = setTimeout(draw, 100);
});
field.addEventListener("compositionend", draw);
panel.addEventListener("keydown", (event) => {
  const items = [...list.querySelectorAll(".nb-open")];
  const at = items.indexOf(document.activeElement);
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || event.isComposing || !items.length) return;
  event.preventDefault();
  if (at + step < 0) field.focus();
  else items[Math.min(at + step, items.length - 1)].focus();
});
panel.addEventListener("toggle", (event) => {
  opener?.setAttribute("aria-expanded", String(event.newState === "open"));
  if (event.newState !== "open" && panel.contains(document.activeElement)) opener?.focus();
});
client.events.addEventListener("list", () => panel.matches(":popover-open") && draw());

/** Open the panel below a button, which it tells whether it is open. */
export async function openPanel(button) {
  opener = button;
  field.value = "";
  await draw();
  panel.showPopover();
  placeAt(panel, button, false);
  field.focus();
}

/** Return the name of the text that was changed last, "" if there is none. */
export async function latest() {
  const answer = await get("/notebook/list").catch(() => ({ texts: [] }));
  return answer.texts.find(({ problem }) => !problem)?.name ?? "";
}
