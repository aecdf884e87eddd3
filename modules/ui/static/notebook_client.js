// The text that is open in the notebook: it is saved a second after typing, and follows what the server writes.
//
// `events` dispatches:
//   "text"    another text, or a text that was changed elsewhere: everything is to be drawn anew
//   "live"    a piece was written into it
//   "state"   what is saved, whether a model writes, what can be undone, or a message: see `view()`
//   "list"    the list of texts has changed
import { get, post } from "./chat_client.js";
import { commonPrefix, cut, toUnits } from "./notebook_positions.js";
import { giveUpAll, request } from "./notebook_requests.js";
import { language, tr } from "./texts.js";

const SAVE_DELAY = 1000;
const EMPTY = { name: "", rev: null, text: "", passages: [], undo: 0, redo: 0, running: false, forgotten: false, last: null };

export const events = new EventTarget();
const emit = (name) => events.dispatchEvent(new Event(name));

let doc = { ...EMPTY };
let suggested = ""; // the name for a text that is not stored yet
let live = null; // what a run has written: {start, text, tokens, line}
let status = "";
let line = ""; // about the last run
let error = "";
let endError = ""; // why the last run ended, shown once its text is read
let load = ""; // a model that can be loaded, as none is
let conflict = false;
let starting = 0; // the number of the request for a model to write, which the text does not show yet

const route = (action, name = doc.name) => `/notebook/${encodeURIComponent(name)}/${action}`;

/** Return what is to be shown beside the text. */
export const view = () => ({ ...doc, status, line: live?.line ?? line, error, load, conflict, starting: starting > 0 });
export const currentName = () => doc.name;

/** Return the text with what a model has written so far, and where that begins and ends. */
export function shown() {
  if (!live) return { text: doc.text, start: -1, end: -1 };
  const start = toUnits(doc.text, live.start);
  return { text: doc.text.slice(0, start) + live.text + doc.text.slice(start), start, end: start + live.text.length };
}

/** Return the passages that a model has written, as {start, tokens, fills}. */
export function passages() {
  if (!live?.tokens.length) return doc.passages;
  const found = [...doc.passages];
  const end = ({ start, tokens }) => start + tokens.reduce((sum, [text]) => sum + [...text].length, 0);
  const joined = found.length && end(found.at(-1)) === live.start ? found.pop() : { start: live.start, tokens: [], fills: false };
  return [...found, { ...joined, tokens: [...joined.tokens, ...live.tokens] }];
}

// -- opening --------------------------------------------------------------------------------------------------------------

let opening = 0;

/** Return a number that grows whenever a text is opened or begun. */
export const openings = () => opening;

/** Open a text by its name. Returns whether it is there. */
export async function open(name) {
  if (!(await leave())) return false;
  const number = ++opening;
  try {
    const answer = await get(route("text", name));
    if (!(await leave())) return false; // something was typed meanwhile
    if (number !== opening) return true;
    take(answer);
    recall();
    return true;
  } catch (problem) {
    if (number !== opening) return true;
    take({ ...EMPTY });
    error = messageOf(problem);
    emit("state");
    return false;
  }
}

/** Begin a text, which is stored when there is something in it. Returns false if the open one cannot be saved. */
export async function begin(text, name = "") {
  if (!(await leave())) return false;
  opening += 1;
  suggested = name;
  take({ ...EMPTY, text });
  if (text) typed(text, "now");
  return true;
}

/** Save what is typed before another text is shown; as a copy, if the text was changed elsewhere. Returns false, with a
 * message, if it cannot be saved. */
async function leave() {
  if (await flush()) return true;
  if (!conflict) return false;
  try {
    await post("/notebook/new", { text: doc.text, name: doc.name });
    unsaved = false;
    return true;
  } catch (problem) {
    fail(problem);
    return false;
  }
}

const messageOf = (problem) => (problem.status === undefined ? tr("nb_offline") : problem.message);

// What is typed and not saved yet when the page is left is there when it comes back.
const DRAFT = "tx-notebook-draft";

/** Take up what was typed into the open text before the page was left. Returns whether there was anything. */
export function recall() {
  const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "null");
  if (draft?.name !== doc.name) return false;
  sessionStorage.removeItem(DRAFT);
  if (draft.text === doc.text || doc.running) return false;
  doc.rev = draft.rev;
  typed(draft.text, "now");
  emit("text");
  return true;
}

function take(answer) {
  const other = answer.name !== doc.name;
  doc = { ...answer };
  // The stream may be ahead of this answer.
  if (!doc.running || other) live = null;
  if (doc.running) live ??= { start: doc.text.length, text: "", tokens: [], line: tr("nb_writing"), unknown: true };
  if (doc.running) starting = 0;
  conflict = false;
  error = endError;
  endError = load = "";
  if (other) line = "";
  status = doc.name ? tr("nb_saved") : "";
  if (other) connect();
  emit("text");
  emit("state");
}

const reload = async () => {
  const { name, rev } = doc;
  const number = ++opening;
  const answer = await get(route("text", name)).catch(() => null);
  if (saving) await saving;
  if (!answer || number !== opening || doc.name !== name) return;
  if (!unsaved && doc.rev !== rev) reload(); // it was saved meanwhile
  else takeUnlessTyped(answer);
};

/** Show a state of the open text, or ask which one to keep if something was typed while it was read. */
function takeUnlessTyped(answer) {
  if (!unsaved) take(answer);
  else if (answer.rev !== doc.rev || answer.running !== doc.running) {
    conflict = true;
    emit("state");
  }
}

// -- saving ---------------------------------------------------------------------------------------------------------------

let timer = 0;
let saving = null; // the request under way
let unsaved = false;

/** Remember a text that the user has typed, and save it soon. */
export function typed(text, when = "soon") {
  if (text === doc.text && !unsaved && when !== "now") return;
  const at = commonPrefix(doc.text, text);
  doc.passages = cut(doc.passages, doc.text, at);
  doc.text = text;
  unsaved = true;
  status = tr("nb_unsaved");
  clearTimeout(timer);
  if (!conflict) timer = setTimeout(flush, when === "now" ? 0 : SAVE_DELAY);
  emit("state");
}

/** Save what is typed. Returns whether the server has everything. */
export async function flush() {
  clearTimeout(timer);
  if (saving) await saving;
  if (!unsaved) return true;
  if (conflict) return false;
  saving = save();
  const saved = await saving;
  saving = null;
  return saved;
}

async function save(step = false) {
  const { text, name } = doc;
  unsaved = false;
  status = tr("nb_saving");
  emit("state");
  try {
    const answer = name ? await post(route("save"), { text, rev: doc.rev, step }) : await post("/notebook/new", { text, name: suggested });
    if (doc.name !== name) return true;
    Object.assign(doc, name ? answer : { name: answer.id, rev: answer.rev });
    if (!unsaved) status = tr("nb_saved");
    error = "";
    if (!name) connect();
    emit("state");
    return true;
  } catch (problem) {
    if (doc.name !== name) return false;
    unsaved = true;
    status = tr("nb_unsaved");
    if (problem.status === 409 && !live) conflict = true;
    else {
      error = messageOf(problem);
      if (problem.status !== 409) timer = setTimeout(flush, 5000);
    }
    emit("state");
    return false;
  }
}

/** Settle a conflict: store the text that was typed here, and if it is not `kept`, show the other one again. */
export async function settle(kept) {
  const other = await get(route("text")).catch(() => null);
  if (!other) return;
  doc.rev = other.rev;
  conflict = false;
  if (!(await save(true))) return;
  if (kept) await reload();
  else await step("undo");
}

addEventListener("pagehide", () => {
  if (!unsaved) return;
  sessionStorage.setItem(DRAFT, JSON.stringify({ name: doc.name, text: doc.text, rev: doc.rev }));
  if (conflict || !doc.name) return;
  const body = JSON.stringify({ text: doc.text, rev: doc.rev });
  fetch(`${route("save")}?lang=${language}`, { method: "POST", headers: { "Content-Type": "application/json" }, body, keepalive: body.length < 60000 }).catch(() => null);
});

// -- undo, redo, rename, delete -------------------------------------------------------------------------------------------

/** Go one generation back ("undo") or forward ("redo"). */
export async function step(action) {
  if (doc.running || !(await flush()) || !doc.name) return;
  const { name } = doc;
  try {
    const answer = await post(route(action), { rev: doc.rev });
    if (saving) await saving;
    if (doc.name === name) takeUnlessTyped(answer); // else another text was opened meanwhile
  } catch (problem) {
    fail(problem);
  }
}

/** Rename the text. Returns its new name, null if it was refused. */
export async function rename(name) {
  if (!(await flush())) return null;
  if (!doc.name) {
    suggested = name;
    typed(doc.text, "now");
    return (await flush()) ? doc.name : null;
  }
  try {
    doc.name = (await post(route("rename"), { name })).id;
    error = "";
    connect();
    emit("state");
    return doc.name;
  } catch (problem) {
    fail(problem);
    return null;
  }
}

/** Delete a text. Returns whether it is gone. */
export async function remove(name) {
  if (name === doc.name) await flush(); // as it can be brought back
  try {
    await post(route("delete", name));
  } catch (problem) {
    fail(problem);
    return false;
  }
  if (name === doc.name) {
    clearTimeout(timer);
    unsaved = false;
  }
  return true;
}

export const restore = (name) => post(route("restore", name));

function fail(problem) {
  if (problem.status === 409 && problem.message) reload();
  error = messageOf(problem);
  emit("state");
}

// -- the model writes -----------------------------------------------------------------------------------------------------

let writes = 0;

/** Ask for an action that needs the parameters, as `request`. */
export const ask = (action, body = {}) => request({ action, name: doc.name, rev: doc.rev, ...body });

/** Have the model write: `action` is "generate", "regenerate" or "pick". What cannot be done changes nothing. */
export async function write(action, body) {
  if (doc.running || starting) return false;
  const mine = ++writes;
  starting = mine;
  error = load = "";
  emit("state");
  try {
    if (!doc.name) typed(doc.text, "now");
    if (!(await flush())) return false;
    await ask(action, body);
    return true;
  } catch (problem) {
    if (starting !== mine) return true; // only its answer got lost
    error = problem.message;
    load = problem.load ?? "";
    if (problem.status === 409) reload();
    return false;
  } finally {
    if (starting === mine) starting = 0;
    emit("state");
  }
}

/** Stop the model. Returns false if it is not writing. */
export const stop = () => (doc.running ? void post(route("stop")).catch(fail) : false);

// -- the stream of events ----------------------------------------------------------------------------------------------------

let source = null;
let visible = false;

/** Follow the open text while the page is shown. */
export function watch(shownNow) {
  if (visible === shownNow) return;
  visible = shownNow;
  connect();
}

function connect() {
  source?.close();
  source = null;
  if (document.hidden || !visible) return;
  const stream = new EventSource(`/notebook/events?name=${encodeURIComponent(doc.name)}&lang=${language}`);
  source = stream;
  for (const [name, action] of Object.entries({ state: onState, live: onLive, ended: onEnded, list: () => emit("list") })) {
    stream.addEventListener(name, (event) => stream === source && action(JSON.parse(event.data)));
  }
  // EventSource reconnects by itself, but not after an error status, such as that of a server which is starting.
  stream.addEventListener("error", () => {
    if (stream === source) giveUpAll();
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => stream === source && connect(), 2000);
  });
}
document.addEventListener("visibilitychange", connect);

async function onState(state) {
  if (saving) await saving;
  if (state.name !== doc.name) return;
  if (state.gone || state.problem) {
    error = state.problem ?? tr("nb_gone");
    emit("state");
  } else if (state.running !== doc.running) {
    if (state.running && unsaved) conflict = true;
    else await reload();
  } else if (!state.running && state.rev !== doc.rev) {
    if (unsaved) conflict = true;
    else await reload();
  }
  if (conflict) emit("state");
}

function onLive(body) {
  if (!live || live.unknown || body.from === 0) live = { start: body.start, text: "", tokens: [], line: "" };
  if (body.from > live.text.length) return connect(); // which begins anew
  live.text = live.text.slice(0, body.from) + body.text;
  live.tokens.splice(body.first_token, Infinity, ...body.tokens);
  live.line = line = body.line;
  if (!doc.running) return; // the state of the text arrives in a moment
  emit("live");
}

function onEnded(body) {
  line = body.line;
  if (live) live.line = body.line;
  endError = body.error;
}
