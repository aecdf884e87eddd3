// The Notebook page: a text that a model goes on with, and views of it.
import { toggleWrapping } from "./code_wrapping.js";
import { iconButton, make } from "./dom.js";
import { icon } from "./icons.js";
import * as client from "./notebook_client.js";
import { address, latest, openPanel } from "./notebook_list.js";
import * as tokens from "./notebook_tokens.js";
import { toPoints, toUnits } from "./notebook_positions.js";
import { drawNext, drawPieces, drawRendered } from "./notebook_views.js";
import { copyText } from "./transcript.js";
import { register } from "./shortcuts.js";
import { tr } from "./texts.js";

const COUNT_DELAY = 500;
const ASKED_AT_ONCE = 5000; // Characters of a text that is read to show what comes next, without being asked to.
const VIEWS = [["raw", tr("nb_raw")], ["rendered", tr("nb_rendered")], ["tokens", tr("nb_tokens_view")], ["next", tr("nb_next")], ["probabilities", tr("nb_probabilities")]];

const area = make("textarea", { id: "nb-text", "aria-label": tr("nb_text"), placeholder: tr("nb_placeholder"), spellcheck: "false" });
const other = make("div", { id: "nb-view", tabindex: "0", role: "tabpanel", hidden: true });
const name = make("button", { type: "button", id: "nb-name", "aria-haspopup": "dialog", "aria-expanded": "false", click: () => openPanel(name) });
const add = iconButton("new", tr("nb_new"), "plus", { id: "nb-new", class: "tx-icon-button", click: startNew });
const edit = iconButton("rename", tr("nb_rename"), "edit", { id: "nb-rename", class: "tx-icon-button", click: startRenaming });
const tabs = make("div", { id: "nb-tabs", role: "tablist", "aria-label": tr("nb_views") }, ...VIEWS.map(([id, text]) => make("button", { type: "button", role: "tab", id: `nb-tab-${id}`, "data-view": id, "aria-controls": id === "raw" ? "nb-text" : "nb-view", click: () => show(id) }, text)));
const beside = iconButton("beside", tr("nb_beside"), "columns", { id: "nb-beside", class: "tx-icon-button", click: () => setBeside(!isBeside()) });
const notice = make("div", { id: "nb-notice" });
const action = (id, text, picture, act) => make("button", { type: "button", id: `nb-${id}`, class: "tx-button", "aria-label": text, title: text, click: act }, picture && icon(picture), make("span", {}, text));
const generate = action("generate", tr("nb_generate"), "", () => start("generate"));
const stop = action("stop", tr("stop"), "stop", client.stop);
const again = action("regenerate", tr("nb_regenerate"), "again", () => start("regenerate"));
const undo = action("undo", tr("nb_undo"), "undo", () => client.step("undo"));
const redo = action("redo", tr("nb_redo"), "redo", () => client.step("redo"));
const status = make("span", { id: "nb-status", role: "status" });
const line = make("span", { id: "nb-line" });
const meter = make("span", { id: "nb-meter", title: tr("nb_meter") });
const hint = make("p", { id: "nb-cursor-note", hidden: true });
const memory = make("p", { id: "nb-memory", hidden: true });

const element = make("div", { id: "tx-notebook" },
  make("div", { id: "nb-head" }, make("div", { id: "nb-title" }, name, edit, add), make("div", { id: "nb-views" }, tabs, beside)), notice, make("div", { id: "nb-body" }, area, other), memory, hint,
  make("div", { id: "nb-foot" }, generate, stop, again, undo, redo, make("div", { id: "nb-facts" }, line, status, meter)));

let shown = "raw";
let following = true;
let fit = null; // what the server has counted
let revealing = false; // the text is selected to be shown, not by the user
let caret = Infinity; // where the cursor was last, in UTF-16 units

// -- the text and a view beside each other, where there is room -----------------------------------------------------------

const roomy = matchMedia("(min-width: 1000px)");
const isBeside = () => roomy.matches && Boolean(localStorage.getItem("tx-notebook-beside"));

function setBeside(wanted) {
  localStorage.setItem("tx-notebook-beside", wanted ? "1" : "");
  show(wanted && shown === "raw" ? "rendered" : shown);
}
roomy.addEventListener("change", () => show(shown));

// -- views ----------------------------------------------------------------------------------------------------------------

function show(id) {
  if (isBeside() && id === "raw") id = "rendered";
  shown = id;
  element.classList.toggle("nb-two", isBeside());
  beside.setAttribute("aria-pressed", String(isBeside()));
  for (const tab of tabs.children) {
    const selected = tab.dataset.view === id;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
  }
  tabs.querySelector("[data-view=raw]").hidden = isBeside();
  area.hidden = id !== "raw" && !isBeside();
  other.hidden = id === "raw";
  other.setAttribute("aria-labelledby", `nb-tab-${id}`);
  tokens.hideCandidates();
  drawView(true);
}

const position = () => toPoints(client.shown().text, cursor());
position.units = () => cursor();

function drawView(fresh = false) {
  // An answer that comes after the view was left is drawn into an element that is no longer there.
  if (fresh) other.replaceChildren(make("div", {}));
  const place = other.firstElementChild;
  if (shown === "rendered") drawRendered(place);
  else if (shown === "tokens" && (fresh || !client.view().running)) drawPieces(place);
  else if (shown === "next" && fresh) drawNext(place, position, cursor() < ASKED_AT_ONCE);
  else if (shown === "probabilities") {
    const bottom = other.scrollHeight - other.scrollTop - other.clientHeight < 60;
    const top = other.scrollTop;
    tokens.drawTokens(place, () => fit?.begins ?? 0);
    other.scrollTop = bottom && !fresh ? other.scrollHeight : fresh ? other.scrollHeight : top;
  }
}

tabs.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const views = VIEWS.filter(([id]) => id !== "raw" || !isBeside());
  const at = views.findIndex(([id]) => id === shown);
  const [id] = views.at((at + step) % views.length);
  show(id);
  tabs.querySelector(`[data-view=${id}]`).focus();
});
tokens.listen(other);
other.addEventListener("click", (event) => {
  toggleWrapping(event.target);
  const button = event.target.closest(".tx-copy-code");
  if (button) copyText(button.closest(".tx-code").querySelector("code").textContent, button);
});

// -- the text -------------------------------------------------------------------------------------------------------------

/** Return where the model is to write: at the cursor, or at the end if the cursor has not been moved. */
const cursor = () => Math.min(caret, client.shown().text.length);
const isInside = () => Boolean(client.shown().text.slice(cursor()).trim());

function drawText() {
  const { text, end } = client.shown();
  const writing = client.view().running;
  area.readOnly = writing;
  if (area.value === text) return;
  const scrolled = area.scrollTop;
  if (writing && text.startsWith(area.value)) area.setRangeText(text.slice(area.value.length), area.value.length, area.value.length, "preserve");
  else area.value = text;
  if (end >= 0) caret = end < text.length ? end : Infinity;
  const at = Math.min(caret, text.length);
  area.setSelectionRange(at, at);
  if (following && writing && end === text.length) area.scrollTop = area.scrollHeight;
  else area.scrollTop = scrolled;
}

let redrawing = 0;
area.addEventListener("input", () => {
  rememberCursor();
  client.typed(area.value);
  if (!isBeside()) return;
  clearTimeout(redrawing);
  redrawing = setTimeout(() => drawView(), COUNT_DELAY);
});
function rememberCursor() {
  const before = caret;
  caret = area.selectionEnd >= area.value.trimEnd().length ? Infinity : area.selectionEnd;
  if (before !== caret) {
    drawHint();
    countSoon();
  }
}
for (const event of ["select", "keyup", "pointerup", "focus"]) area.addEventListener(event, () => !area.readOnly && !revealing && rememberCursor());
area.addEventListener("scroll", () => { following = area.scrollHeight - area.scrollTop - area.clientHeight < 60; }, { passive: true });

// -- what the buttons do --------------------------------------------------------------------------------------------------

const start = (what) => {
  if (client.view().running || client.view().starting) return;
  following = true;
  client.write(what, { at: Number.isFinite(caret) ? position() : -1, fills: isInside() });
};

async function startNew() {
  if (!(await client.begin(""))) return;
  history.pushState(null, "", "#notebook");
  area.focus();
}

function startRenaming() {
  const field = make("input", { id: "nb-rename-field", value: client.currentName(), maxlength: "200", "aria-label": tr("nb_name") });
  let open = true;
  const finish = async (wanted) => {
    if (!open) return;
    open = false;
    field.replaceWith(name);
    edit.focus();
    if (!wanted.trim() || wanted.trim() === client.currentName()) return;
    const renamed = await client.rename(wanted.trim());
    if (renamed) history.replaceState(null, "", address(renamed));
  };
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.isComposing) return;
    if (!["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault(); // or Enter would press the button that gets the focus
    finish(event.key === "Enter" ? field.value : "");
  });
  field.addEventListener("blur", () => finish(field.value));
  name.replaceWith(field);
  field.focus();
  field.select();
}

// -- the state ------------------------------------------------------------------------------------------------------------

function drawState() {
  const state = client.view();
  const busy = state.running || state.starting;
  const title = state.name || tr("nb_untitled");
  name.replaceChildren(make("span", {}, title), icon("down"));
  name.setAttribute("aria-label", tr("nb_choose", { name: title }));
  name.title = title;
  generate.hidden = state.running;
  stop.hidden = !state.running;
  generate.disabled = busy;
  again.disabled = busy || !state.last;
  undo.disabled = busy || !state.undo;
  redo.disabled = busy || !state.redo;
  line.textContent = state.line;
  meter.hidden = state.running || !fit; // what is counted is the prompt of the next generation
  status.textContent = state.running ? "" : state.status;
  status.classList.toggle("nb-unsaved", state.status === tr("nb_unsaved"));
  drawNotice(state);
  if (atNotebook() && state.name && location.hash !== address(state.name)) history.replaceState(null, "", address(state.name));
}

function drawNotice({ conflict, error, load, forgotten }) {
  const alert = (text, ...buttons) => make("div", { class: "nb-alert", role: "alert" }, make("span", {}, text), ...buttons);
  const button = (id, text, act) => make("button", { type: "button", id, class: "tx-button", click: act }, text);
  const parts = [
    conflict && alert(tr("nb_conflict"), button("nb-keep", tr("nb_keep_mine"), () => client.settle(true)), button("nb-other", tr("nb_take_other"), () => client.settle(false))),
    error && alert(error, load && button("nb-load", tr("nb_load", { model: load }), () => document.dispatchEvent(new CustomEvent("tx-model", { detail: { action: "load", name: load } })))),
    forgotten && make("div", { class: "nb-alert nb-mild", role: "status" }, tr("nb_forgotten")),
  ].filter(Boolean);
  const key = JSON.stringify([conflict, error, load, forgotten]);
  if (notice.dataset.key === key) return; // a button with the focus stays
  notice.dataset.key = key;
  notice.replaceChildren(...parts);
}

function drawHint() {
  hint.hidden = !isInside() || client.view().running;
  if (!hint.hidden) hint.textContent = fit?.fills ? tr("nb_fills") : tr("nb_inserts");
}

// -- tokens ---------------------------------------------------------------------------------------------------------------

let timer = 0;
let counting = 0;
const countSoon = () => {
  clearTimeout(timer);
  timer = setTimeout(count, COUNT_DELAY);
};

async function count() {
  const state = client.view();
  if (!atNotebook() || document.hidden || state.running || state.conflict || !state.name || !window.txNotebookAsk) return;
  if (!document.querySelector("#tx-pill .tx-ready")) fit = null;
  else {
    const number = ++counting;
    if (!(await client.flush())) return;
    const answer = await client.ask("count", { at: Number.isFinite(caret) ? position() : -1, fills: isInside() }).catch(() => null);
    if (number !== counting) return;
    fit = answer?.fit ?? null;
  }
  drawFit();
}

function drawFit() {
  const number = new Intl.NumberFormat();
  meter.hidden = !fit;
  meter.textContent = fit ? tr("context_used", { used: number.format(fit.tokens), context: number.format(fit.limit) }) : "";
  meter.classList.toggle("nb-over", Boolean(fit?.begins));
  memory.hidden = !fit?.begins;
  if (fit?.begins) {
    const { text } = client.shown();
    const at = toUnits(text, fit.begins);
    const words = text.slice(at, at + 40).replaceAll("\n", " ").trim();
    memory.replaceChildren(make("span", {}, tr("nb_memory", { text: words, limit: number.format(fit.limit) })), make("button", { type: "button", id: "nb-show-memory", class: "tx-button", click: () => reveal(at) }, tr("nb_show_memory")));
  }
  drawHint();
}

/** Select the text from a position on and scroll there. The model still writes where it would have before. */
function reveal(at) {
  show("raw"); // which is there in any case with a view beside it
  revealing = true;
  area.focus();
  area.setSelectionRange(at, at);
  const whole = area.value;
  area.scrollTop = (at / whole.length) * area.scrollHeight - area.clientHeight / 3; // about there, as lines differ in length
  area.setSelectionRange(at, Math.min(at + 40, whole.length));
  setTimeout(() => { revealing = false; }, 300);
}

// -- events ---------------------------------------------------------------------------------------------------------------

client.events.addEventListener("text", () => {
  drawText();
  drawHint();
  drawView();
  countSoon();
});
client.events.addEventListener("state", () => {
  drawState();
  const { running, starting } = client.view();
  area.readOnly = running || starting;
  if (!running) countSoon();
});
let drawing = 0;
client.events.addEventListener("live", () => {
  drawState();
  drawText();
  if (shown === "raw" || drawing) return;
  drawing = setTimeout(() => { drawing = 0; drawView(); }, 300); // the other views are drawn as a whole
});

const atNotebook = () => document.documentElement.dataset.at === "notebook";
const HERE = { at: "notebook" };
register("Ctrl+Enter", tr("nb_generate"), () => start("generate"), HERE);
register("Ctrl+Shift+Enter", tr("nb_regenerate"), () => start("regenerate"), HERE);
register("Alt+Z", tr("nb_undo"), () => void client.step("undo"), { ...HERE, repeats: true });
register("Alt+Shift+Z", tr("nb_redo"), () => void client.step("redo"), { ...HERE, repeats: true });
register("Esc", tr("stop"), client.stop, HERE);

// -- the address ------------------------------------------------------------------------------------------------------------

async function follow() {
  const [page, wanted = ""] = location.hash.slice(1).split("/");
  const shownNow = page === "notebook";
  client.watch(shownNow);
  if (!shownNow) {
    client.flush();
    tokens.hideCandidates();
    return;
  }
  let id = "";
  try {
    id = decodeURIComponent(wanted);
  } catch {
    // an address that somebody has shortened
  }
  if (id && id !== client.currentName()) await client.open(id);
  else if (!id && !client.currentName() && !client.shown().text && !client.recall()) {
    const number = client.openings();
    const last = await latest();
    if (number !== client.openings()) return; // a text was begun meanwhile
    if (last) await client.open(last);
    else client.begin("");
  }
  drawState();
  countSoon();
}
addEventListener("hashchange", follow);

const put = () => {
  const root = document.querySelector("#tx-notebook-root [data-notebook]");
  if (root && element.parentElement !== root) {
    root.append(element);
    drawText();
    new MutationObserver(countSoon).observe(document.querySelector("#tx-pill"), { subtree: true, childList: true, attributes: true });
  }
};
new MutationObserver(put).observe(document.documentElement, { subtree: true, childList: true });
put();
show("raw");
drawState();
follow();
