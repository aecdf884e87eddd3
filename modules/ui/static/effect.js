// The panel of the Parameters page that shows what the samplers do to the chances of the next token, at a position of the
// open conversation's last reply. It asks the server only while it is open and visible, and never during an answer.
import { currentId, events } from "./chat_client.js";
import { make } from "./dom.js";
import { tr } from "./texts.js";

const DELAY = 400;
const PATIENCE = 30_000; // after which another request is sent although the last one was not answered
const NEARBY = 120; // words shown before and after the position
const OPEN = "tx-effect-open";

let asked = 0;
let stale = true;
let running = false;
let waiting = 0; // when the answer that is awaited was asked for, 0 for none
let timer = 0;
let visible = false;
let shown = { key: "", words: [], at: 0, rows: [] };

// -- elements -------------------------------------------------------------------------------------------------------------

const note = make("p", { class: "tx-effect-note", role: "status" });
const text = make("p", { class: "tx-effect-text", "aria-hidden": "true", title: tr("effect_click") });
const slider = make("input", { type: "range", min: "0", step: "1", "aria-label": tr("effect_position") });
const titles = [tr("effect_token"), tr("effect_before"), tr("effect_after")];
const head = make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
const body = make("tbody");
const table = make("table", { "aria-label": tr("effect_title") }, make("thead", {}, head), body);
const summary = make("p", { class: "tx-effect-sum" });
const content = make("div", { class: "tx-effect-content" }, text, slider, table, summary);
const fold = make(
  "details",
  { id: "tx-effect" },
  make("summary", {}, tr("effect_title")),
  make("p", { class: "tx-effect-help" }, tr("effect_help")),
  note,
  content,
);

// -- draw -----------------------------------------------------------------------------------------------------------------

const readable = ({ text, id }) => (text === "" ? `#${id}` : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣"));

const percent = (chance) => {
  if (chance === 0) return "0";
  const value = chance * 100;
  return `${value >= 99.95 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value >= 0.01 ? value.toFixed(2) : "<0.01"}%`;
};

function bar(kind, chance, words) {
  const fill = make("span", { class: "tx-effect-fill" });
  fill.style.width = `${Math.max(chance * 100, chance > 0 ? 1 : 0)}%`;
  return make("td", { class: kind }, make("span", { class: "tx-effect-bar" }, fill), make("span", { class: "tx-effect-number" }, words));
}

function row(token) {
  const cut = token.before > 0 && token.after === 0;
  const name = make("th", { scope: "row" }, make("code", {}, readable(token)));
  if (token.said) name.append(make("span", { class: "tx-effect-said", title: tr("effect_said") }, "✓"), make("span", { class: "tx-unseen" }, tr("effect_said")));
  return make(
    "tr",
    { class: cut ? "tx-effect-cut" : "" },
    name,
    bar("tx-before", token.before, percent(token.before)),
    bar("tx-after", token.after, cut ? tr("effect_cut") : percent(token.after)),
  );
}

function drawText() {
  const { words, at } = shown;
  const first = Math.max(0, at - NEARBY);
  const last = Math.min(words.length, at + NEARBY);
  const pieces = words.slice(first, last).map((piece, index) => {
    const number = first + index;
    const side = number < at ? "tx-effect-past" : number === at ? "tx-effect-next" : "";
    return make("span", { "data-at": String(number), class: side }, piece);
  });
  text.replaceChildren(first > 0 ? "… " : "", ...pieces, last < words.length ? " …" : "");
  const next = text.querySelector(".tx-effect-next");
  if (next) text.scrollTop = next.offsetTop - text.clientHeight / 2;
  slider.max = String(words.length);
  slider.value = String(at);
  slider.setAttribute("aria-valuetext", tr("effect_before_word", { word: (words[at] ?? tr("effect_end")).trim() }));
}

function draw(answer) {
  const { key, words, at, rows, notes, left, note: reason } = answer;
  content.hidden = reason !== undefined;
  if (reason !== undefined) {
    note.textContent = reason;
    return;
  }
  shown = { key, words: words ?? shown.words, at, rows };
  note.textContent = notes.join(" ");
  drawText();
  body.replaceChildren(...rows.map(row));
  summary.textContent = left === null ? tr("effect_left_many") : tr("effect_left", { count: left });
}

// -- ask ------------------------------------------------------------------------------------------------------------------

function ask() {
  clearTimeout(timer);
  timer = 0;
  if (!fold.open || !visible || !window.txEffect) return;
  if (running) {
    stale = false;
    draw({ note: tr("effect_busy") });
    return;
  }
  if (waiting && Date.now() - waiting < PATIENCE) return; // asked again once the answer has come
  stale = false;
  waiting = Date.now();
  asked += 1;
  fold.setAttribute("aria-busy", "true");
  window.txEffect({ n: asked, conversation: currentId(), at: shown.at, known: shown.key });
}

function refresh(delay = DELAY) {
  stale = true;
  clearTimeout(timer);
  timer = setTimeout(ask, delay);
}

const moveTo = (at) => {
  shown.at = at;
  drawText();
  refresh(150);
};

slider.addEventListener("input", () => moveTo(Number(slider.value)));
text.addEventListener("click", (event) => {
  const piece = event.target.closest("[data-at]");
  if (piece) moveTo(Number(piece.dataset.at));
});
fold.addEventListener("toggle", () => {
  localStorage.setItem(OPEN, fold.open ? "1" : "");
  if (fold.open) refresh(0);
});
document.addEventListener("tx-effect", ({ detail }) => {
  if (detail.n !== asked) return; // given up
  waiting = 0;
  fold.setAttribute("aria-busy", String(stale));
  if (stale) refresh(0);
  else draw(detail);
});
document.addEventListener("tx-parameters", () => refresh());
events.addEventListener("open", () => {
  running = false;
  shown = { key: "", words: [], at: 0, rows: [] };
  refresh();
});
events.addEventListener("conversation", ({ detail }) => {
  running = Boolean(detail.running);
  refresh(running ? 0 : DELAY);
});

// -- place ----------------------------------------------------------------------------------------------------------------

content.hidden = true;
fold.open = localStorage.getItem(OPEN) === "1";
new IntersectionObserver((entries) => {
  visible = entries.at(-1).isIntersecting;
  if (visible && stale) refresh(0);
}).observe(fold);
const place = () => {
  const root = document.querySelector("#tx-effect-card [data-effect]");
  if (root && fold.parentElement !== root) root.append(fold);
};
const watchPanel = () => {
  const panel = document.querySelector("#tx-page-parameters");
  if (panel) new MutationObserver(place).observe(panel, { childList: true, subtree: true });
  return panel !== null;
};
if (!watchPanel()) {
  const observer = new MutationObserver(() => watchPanel() && observer.disconnect());
  observer.observe(document.documentElement, { childList: true, subtree: true });
}
place();
