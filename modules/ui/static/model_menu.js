// The menu behind the model's state in the header: choose a model in memory or load another one, unload it, see how far
// a load is.
import { get } from "./chat_client.js";
import { make } from "./dom.js";
import { announce, placeAt, toast } from "./popups.js";
import { events as residentEvents, refresh as refreshResidents, residents } from "./residents.js";
import { register } from "./shortcuts.js";
import { language, tr } from "./texts.js";

const pill = () => document.querySelector("#tx-pill .tx-pill");
const send = (detail) => document.dispatchEvent(new CustomEvent("tx-model", { detail }));

let menu = null;
let answer = null;
let closed = 0; // when the menu was closed: the click on the state that closes it must not open it again

// -- the list -----------------------------------------------------------------------------------------------------------

const rowOf = (name, facts, attributes) =>
  make(
    "button",
    { type: "button", class: "tx-model", "data-name": name, title: name, ...attributes },
    make("span", { class: "tx-model-name" }, name),
    make("span", { class: "tx-model-facts" }, facts),
  );

const residentRow = ({ name, state, facts, chosen, error }) =>
  rowOf(name, error || facts, { "data-state": state, disabled: !answer.owner, "aria-current": chosen && "true" });

const modelRow = ({ name, quantization, size, problem }) => {
  const facts = [quantization, size, problem && tr("model_unusable")].filter(Boolean).join(" · ");
  return rowOf(name, facts, { disabled: Boolean(problem) || !answer.owner, title: problem || name });
};

const group = (title, rows) => (rows.length && title ? [make("p", { class: "tx-model-group" }, title), ...rows] : rows);

const statusOf = ({ status }) => {
  const stop = (text) => make("button", { type: "button", class: "tx-button", click: () => send({ action: "unload" }), disabled: !answer.owner }, text);
  if (status.state === "loading") {
    const bar = make("progress", { max: "1", value: status.progress, "aria-label": tr("loading") });
    return [make("p", {}, `${tr("loading")} ${status.name}`), bar, stop(tr("cancel_load"))];
  }
  if (status.state === "asleep") return [make("p", {}, make("b", {}, status.name), ` ${tr("model_asleep")}`), stop(tr("resident_remove"))];
  if (status.state === "ready") return [make("p", {}, make("b", {}, status.name), ` ${status.facts}`), stop(tr("unload"))];
  if (status.error) return [make("p", { class: "tx-model-error" }, status.error)];
  return [make("p", {}, tr("no_model"))];
};

const draw = () => {
  const wanted = menu.querySelector("input").value.trim().toLowerCase();
  const isWanted = ({ name }) => name.toLowerCase().includes(wanted);
  const loaded = residents().filter(isWanted);
  const others = answer.models.filter((model) => isWanted(model) && residents().every(({ name }) => name !== model.name));
  menu.querySelector(".tx-model-status").replaceChildren(...statusOf(answer));
  const list = menu.querySelector(".tx-models");
  const focused = list.contains(document.activeElement) && document.activeElement.dataset.name;
  list.replaceChildren(
    ...group(tr("residents_title"), loaded.map(residentRow)),
    ...group(loaded.length ? tr("residents_others") : "", others.slice(0, 200).map(modelRow)),
  );
  if (!loaded.length && !others.length) list.append(make("p", {}, tr(answer.models.length ? "nothing_found" : "no_models_short")));
  if (focused) list.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
};

const refresh = async () => {
  refreshResidents();
  answer = await get("/models/list").catch((error) => {
    toast(error.message);
    return null;
  });
  if (menu && answer) draw();
};

// -- the menu -----------------------------------------------------------------------------------------------------------

const moveFocus = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || event.isComposing) return;
  event.preventDefault();
  const stops = [menu.querySelector("input"), ...menu.querySelectorAll(".tx-model:not(:disabled)")];
  stops.at((stops.indexOf(document.activeElement) + step) % stops.length).focus();
};

const load = (event) => {
  const picked = event.target.closest(".tx-model");
  if (!picked) return;
  send({ action: "load", name: picked.dataset.name });
  menu.querySelector("input").focus();
};

const open = () => {
  const anchor = pill();
  if (menu || !anchor || performance.now() - closed < 300) return;
  const search = make("input", { type: "search", placeholder: tr("search_models"), "aria-label": tr("search_models"), autocomplete: "off", spellcheck: "false", input: () => answer && draw() });
  menu = make(
    "div",
    { id: "tx-models-menu", popover: "auto", role: "dialog", "aria-label": tr("model") },
    make("div", { class: "tx-model-status" }),
    search,
    make("div", { class: "tx-models", click: load }),
    make("a", { class: "tx-model-page", href: "#model", click: () => menu.hidePopover() }, tr("open_model_page")),
  );
  menu.addEventListener("keydown", moveFocus);
  menu.addEventListener("toggle", ({ newState }) => {
    if (newState === "open") return;
    closed = performance.now();
    if (menu.contains(document.activeElement) || document.activeElement === document.body) pill()?.focus();
    menu.remove();
    menu = null;
  });
  document.body.append(menu);
  menu.showPopover();
  placeAt(menu, anchor);
  search.focus();
  refresh();
};

residentEvents.addEventListener("residents", () => menu && answer && draw());
document.addEventListener("click", (event) => event.target.closest("#tx-pill .tx-pill") && open());
document.addEventListener("tx-model-refused", ({ detail }) => toast(detail)); // before a load began, of which the state would tell
register("Alt+M", tr("key_models"), open);

// -- news: Gradio redraws the state in the header -------------------------------------------------------------------------

const stateOf = () => /tx-(empty|loading|ready|asleep|failed)/.exec(pill()?.className ?? "")?.[1] ?? "";
let lastState = "";

const update = () => {
  const state = stateOf();
  if (state !== lastState) {
    // Only changes are read out, not each percent.
    if (lastState) announce({ empty: tr("no_model"), loading: tr("loading"), ready: tr("model_is_loaded"), asleep: tr("model_asleep"), failed: pill()?.querySelector(".tx-pill-rest")?.textContent }[state] ?? "");
    lastState = state;
    document.dispatchEvent(new CustomEvent("tx-model-status", { detail: state }));
  }
  if (menu) refresh();
};

const whenDrawn = new MutationObserver(() => {
  const part = document.querySelector("#tx-pill");
  if (!part) return;
  whenDrawn.disconnect();
  new MutationObserver(update).observe(part, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["class", "data-loader"] });
  update();
});
whenDrawn.observe(document.documentElement, { subtree: true, childList: true });
