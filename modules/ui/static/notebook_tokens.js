// The Probabilities view: what a model has written, each token in the color of its probability. A token that is pointed at
// or has the focus shows its candidates; choosing one cuts the text there and lets the model go on.
import { get } from "./chat_client.js";
import { make } from "./dom.js";
import * as client from "./notebook_client.js";
import { percent, visibleText } from "./notebook_views.js";
import { tr } from "./texts.js";

const HOVER_DELAY = 120;
const LEVELS = [0.8, 0.5, 0.2, 0.05, 0]; // the least probability of each color

const level = (logprob) => LEVELS.findIndex((least) => Math.exp(logprob) >= least);

const bubble = make("div", { id: "nb-candidates", popover: "manual", role: "menu" });
document.body.append(bubble);

let place = null;
let memoryBegins = () => 0;
let focused = -1; // the number of the token that Tab reaches
let shownFor = null;
let timer = 0;

// -- drawing --------------------------------------------------------------------------------------------------------------

/** Draw the view in `element`. `begins` returns where the model's memory begins, in characters. */
export function drawTokens(element, begins) {
  const hadFocus = place?.contains(document.activeElement) && document.activeElement.matches(".nb-token");
  place = element;
  memoryBegins = begins;
  hideCandidates();
  const { text } = client.shown();
  const passages = client.passages();
  if (!passages.length) {
    place.replaceChildren(make("p", { class: "nb-message" }, tr("nb_no_probabilities")));
    return;
  }
  const flow = make("div", { id: "nb-flow", role: "group", "aria-label": tr("nb_probabilities") });
  const line = memoryBegins();
  let at = 0; // in characters
  const characters = [...text];
  const plain = (until) => {
    if (line > at && line <= until) {
      flow.append(characters.slice(at, line).join(""), make("span", { class: "nb-memory-line", role: "separator" }, tr("nb_memory_here")));
      at = line;
    }
    flow.append(characters.slice(at, until).join(""));
    at = until;
  };
  for (const { start, tokens } of passages) {
    plain(start);
    tokens.forEach((token, number) => {
      flow.append(draw(token, start, number));
      at += [...token[0]].length;
    });
  }
  plain(characters.length);
  place.replaceChildren(legend(), make("p", { class: "nb-hint" }, tr("nb_token_hint")), flow);
  const all = spans();
  focused = Math.min(Math.max(focused, 0), all.length - 1);
  all[focused]?.setAttribute("tabindex", "0");
  if (hadFocus) all[focused]?.focus({ preventScroll: true });
}

const spans = () => [...place.querySelectorAll(".nb-token")];

function draw([text, logprob], start, number) {
  return make("span", { class: `nb-token nb-p${level(logprob)}${text.startsWith("\n") ? " nb-break" : ""}`, role: "button", "aria-haspopup": "menu", tabindex: "-1", "data-start": start, "data-number": number, "data-logprob": logprob,
    "aria-label": tr("nb_candidate", { text: text || tr("nb_fragment"), percent: percent(Math.exp(logprob)) }) }, text);
}

const legend = () => make("div", { class: "nb-legend" }, `${tr("nb_legend")} `, ...LEVELS.map((least, number) => {
  const most = LEVELS[number - 1] ?? 1;
  return make("span", { class: `nb-p${number}` }, `${least * 100}–${most * 100}%`);
}));

// -- candidates -----------------------------------------------------------------------------------------------------------

let asked = 0;

async function showCandidates(span, take = false) {
  clearTimeout(timer);
  if (shownFor === span && bubble.matches(":popover-open")) {
    if (take) bubble.querySelector("button:not(:disabled)")?.focus();
    return;
  }
  const number = ++asked;
  const { start, number: token } = span.dataset;
  const query = `passage=${start}&token=${token}`;
  const answer = await get(`/notebook/${encodeURIComponent(client.currentName())}/candidates?${query}`).catch(() => null);
  if (number !== asked || !span.isConnected) return;
  if (!answer) return hideCandidates(); // the text has changed: the view is drawn anew in a moment
  shownFor = span;
  const listed = answer.candidates.some(({ id }) => id === answer.id);
  const candidates = listed ? answer.candidates : [...answer.candidates, { ...answer, pickable: false }];
  bubble.setAttribute("aria-label", tr("nb_candidates", { text: answer.text }));
  bubble.replaceChildren(...candidates.map((one) => rowOf(one, one.id === answer.id, span)));
  if (!bubble.matches(":popover-open")) bubble.showPopover();
  const from = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const below = from.bottom + 4 + bubble.offsetHeight <= innerHeight;
  bubble.style.left = `${Math.max(8, Math.min(from.left, innerWidth - bubble.offsetWidth - 8))}px`;
  bubble.style.top = `${Math.max(8, below ? from.bottom + 2 : from.top - bubble.offsetHeight - 2)}px`;
  if (take) bubble.querySelector("button:not(:disabled)")?.focus();
}

function rowOf({ id, text, logprob, pickable }, chosen, span) {
  const probability = Math.exp(logprob);
  const label = tr("nb_candidate", { text: text || tr("nb_fragment"), percent: percent(probability) });
  const disabled = !pickable || client.view().running;
  return make("button", { type: "button", role: "menuitem", class: chosen ? "nb-chosen" : "", disabled, "aria-label": chosen ? `${label}, ${tr("nb_chosen")}` : label, "data-id": id, "data-logprob": logprob, click: () => pick(span, id) },
    make("i", { style: `width:${(probability * 100).toFixed(2)}%` }), make("span", { class: "nb-candidate-text" }, visibleText(text)), make("span", {}, percent(probability)));
}

export function hideCandidates() {
  clearTimeout(timer);
  asked += 1;
  shownFor = null;
  if (bubble.matches(":popover-open")) bubble.hidePopover();
}

function pick(span, candidate) {
  const { start, number } = span.dataset;
  focused = spans().indexOf(span);
  hideCandidates();
  client.write("pick", { passage: Number(start), token: Number(number), candidate });
}

// -- pointer and keyboard -------------------------------------------------------------------------------------------------

const tokenOf = (event) => event.target.closest?.(".nb-token");
const hideSoon = () => {
  clearTimeout(timer);
  timer = setTimeout(() => !bubble.matches(":hover") && !bubble.contains(document.activeElement) && hideCandidates(), 250);
};

function moveTo(number) {
  const all = spans();
  const to = Math.max(0, Math.min(number, all.length - 1));
  all[focused]?.setAttribute("tabindex", "-1");
  focused = to;
  all[to]?.setAttribute("tabindex", "0");
  all[to]?.focus();
}

/** Attach the handlers to the element that the view is drawn in. */
export function listen(element) {
  element.addEventListener("pointerover", (event) => {
    const span = tokenOf(event);
    if (!span || event.pointerType === "touch") return;
    clearTimeout(timer);
    timer = setTimeout(() => showCandidates(span), HOVER_DELAY);
  });
  element.addEventListener("pointerout", (event) => tokenOf(event) && hideSoon());
  element.addEventListener("click", (event) => {
    const span = tokenOf(event);
    if (!span) return hideCandidates();
    moveTo(spans().indexOf(span));
    showCandidates(span);
  });
  element.addEventListener("focusin", (event) => tokenOf(event)?.matches(":focus-visible") && showCandidates(tokenOf(event)));
  element.addEventListener("keydown", (event) => {
    const span = tokenOf(event);
    if (!span || event.ctrlKey || event.altKey || event.metaKey) return;
    const at = spans().indexOf(span);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: Infinity }[event.key];
    if (to !== undefined) moveTo(to);
    else if (["Enter", " ", "ArrowDown"].includes(event.key)) showCandidates(span, true);
    else return;
    event.preventDefault();
  });
  element.addEventListener("scroll", () => {
    hideCandidates();
    const span = document.activeElement; // the page also scrolls to a token that the keyboard has moved to
    if (span?.matches(".nb-token:focus-visible")) timer = setTimeout(() => showCandidates(span), HOVER_DELAY);
  }, { passive: true });
}
bubble.addEventListener("pointerleave", hideSoon);
bubble.addEventListener("keydown", (event) => {
  const rows = [...bubble.querySelectorAll("button:not(:disabled)")];
  const at = rows.indexOf(document.activeElement);
  if (event.key === "ArrowDown" || event.key === "ArrowUp") rows.at((at + (event.key === "ArrowDown" ? 1 : -1)) % rows.length)?.focus();
  else if (event.key === "Escape" || event.key === "Tab") {
    const span = shownFor;
    hideCandidates();
    span?.focus();
  } else return;
  event.preventDefault();
  event.stopPropagation();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && bubble.matches(":popover-open")) {
    hideCandidates();
    event.preventDefault();
  }
});
