// The models that are loaded, being loaded or asleep: the card on the Model page, and what other parts show of them.
//
// `events` dispatches "residents" after each answer of the server, whose `residents` have name, state ("loading", "ready",
// "answering", "unreachable", "asleep" or "failed"), facts, pinned, chosen and error; see modules/ui/model/residents.py.
import { get, post } from "./chat_client.js";
import { iconButton, make } from "./dom.js";
import { toast } from "./popups.js";
import { tr } from "./texts.js";

const POLL_SECONDS = 2;

export const events = new EventTarget();

let shown = { residents: [], owner: true };
let asked = 0;

export const residents = () => shown.residents;

// -- the server -----------------------------------------------------------------------------------------------------------

const take = (answer) => {
  shown = answer;
  draw();
  events.dispatchEvent(new Event("residents"));
  document.dispatchEvent(new CustomEvent("tx-residents", { detail: shown.residents })); // for model_list.js
};

/** Ask the server again; of several answers, the one to the last request counts. */
export async function refresh() {
  const number = ++asked;
  const answer = await get("/residents").catch(() => null); // the page says by itself that the server does not answer
  if (answer && number === asked) take(answer);
}

/** Have the server choose, pin or unload a resident. */
export async function change(action, body) {
  const number = ++asked;
  try {
    const answer = await post(`/residents/${action}`, body);
    if (number === asked) take(answer);
  } catch (error) {
    toast(error.message);
  }
}

/** Make a resident the model of the page; the form of the Model page follows. */
export const choose = (name) => document.dispatchEvent(new CustomEvent("tx-model", { detail: { action: "load", name } }));

// -- the card -------------------------------------------------------------------------------------------------------------

const place = () => document.querySelector("[data-residents]");

function row(resident) {
  const { name, state, facts, pinned, chosen, error } = resident;
  const { owner } = shown;
  const isKept = ["ready", "answering", "unreachable"].includes(state);
  const pin = iconButton("pin", tr("resident_pin"), "pin", {
    "aria-pressed": String(pinned),
    disabled: !owner,
    click: () => change("pin", { name, pinned: !pinned }),
  });
  pin.setAttribute("aria-label", `${tr("resident_pin")} ${name}`);
  const end = tr(state === "loading" ? "cancel_load" : isKept ? "unload" : "resident_remove");
  return make(
    "li",
    { class: "tx-resident", "data-name": name, "data-state": state, "aria-current": chosen && "true" },
    make("span", { class: "tx-dot" }),
    make("div", { class: "tx-resident-text" }, make("b", {}, name), make("span", {}, error || facts)),
    make(
      "div",
      { class: "tx-resident-actions" },
      chosen && make("span", { class: "tx-resident-chosen" }, tr("resident_chosen")),
      !chosen && state !== "failed" && make("button", { type: "button", class: "tx-button", "data-act": "choose", disabled: !owner || state === "loading", "aria-label": `${tr("resident_use")} ${name}`, click: () => choose(name) }, tr("resident_use")),
      isKept && pin,
      make("button", { type: "button", class: "tx-button", "data-act": "unload", disabled: !owner, "aria-label": `${end} ${name}`, click: () => change("unload", { name }) }, end),
    ),
  );
}

let drawn = "";
function draw() {
  const card = place();
  if (!card) return;
  const now = JSON.stringify(shown);
  if (now === drawn && card.childElementCount) return;
  drawn = now;
  const focused = card.contains(document.activeElement) && document.activeElement;
  const [name, act] = focused ? [focused.closest("[data-name]")?.dataset.name, focused.dataset.act] : [];
  card.hidden = !shown.residents.length;
  card.replaceChildren(
    make("h2", { class: "tx-ml-title", id: "tx-residents-title" }, tr("residents_title")),
    make("ul", { "aria-labelledby": "tx-residents-title" }, ...shown.residents.map(row)),
  );
  if (name) card.querySelector(`[data-name="${CSS.escape(name)}"] [data-act="${act}"]`)?.focus();
}

// -- news -----------------------------------------------------------------------------------------------------------------

const isInView = () => !document.hidden && Boolean(place()?.checkVisibility());

document.addEventListener("tx-news", refresh); // see page.js
document.addEventListener("tx-model-state", refresh); // see model_list.py
document.addEventListener("tx-resident-unload", ({ detail }) => change("unload", detail)); // from model_list.js
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => isInView() && shown.residents.length && refresh(), POLL_SECONDS * 1000);

const whenDrawn = new MutationObserver(() => {
  if (!place()) return;
  whenDrawn.disconnect();
  draw();
  // Gradio draws the element anew when the tab is selected for the first time.
  new MutationObserver(() => place()?.childElementCount || draw()).observe(place().closest("#tx-residents"), { subtree: true, childList: true });
});
whenDrawn.observe(document.documentElement, { subtree: true, childList: true });
refresh();
