// The box in which messages are written, and what it sends. Sending goes through Gradio, which knows the parameters.
import { currentId, events, keepDraft, keptDraft, open, post, upload } from "./chat_client.js";
import { iconButton, make } from "./dom.js";
import { icon } from "./icons.js";
import { choices, chosenSystem, create } from "./new_chat.js";
import { register } from "./shortcuts.js";
import * as templateVariables from "./template_variables.js";
import { tr } from "./texts.js";
import { change, changesMade, conversation, edit, forgetEndOfModel, isAnswering, lastMessage, noteOffer, selectVersion } from "./transcript.js";

const COUNT_DELAY = 400;
const MAX_FILES = 10;

const area = make("textarea", { id: "tx-input", rows: "1", "aria-label": tr("message"), placeholder: tr("write"), enterkeyhint: "send" });
const send = iconButton("send", tr("send"), "send", { id: "tx-send" });
const stop = iconButton("stop", tr("stop"), "stop", { id: "tx-stop", hidden: true });
const attach = iconButton("attach", tr("attach_file"), "attach", { id: "tx-attach" });
const picker = make("input", { type: "file", multiple: true, hidden: true, tabindex: "-1" });
const files = make("ul", { id: "tx-attached", class: "tx-attached" });
const start = make("input", { id: "tx-start-with", "aria-label": tr("start_reply_with"), placeholder: tr("start_reply_with") });
const startBox = make("details", { id: "tx-start-box" }, make("summary", {}, tr("start_reply_with")), start);
const line = make("div", { id: "tx-chat-line" });
new MutationObserver(noteOffer).observe(line, { childList: true });
const meterBar = make("i", {});
const meterText = make("span", {});
const meter = make("div", { id: "tx-meter", hidden: true, title: tr("context_meter") }, make("span", { class: "tx-meter-bar" }, meterBar), meterText);
const box = make("div", { id: "tx-text" }, attach, area, stop, send);

const below = make("div", { id: "tx-below", class: "tx-below" }, startBox, meter);

const incognito = make("p", { id: "tx-incognito", hidden: true }, icon("incognito"), make("span", {}, tr("incognito_note")));

export const element = make("div", { id: "tx-composer" }, incognito, line, files, box, below, picker);

/** Put the controls of other modules beside the text and below it. */
export function addControls(besideText, ...belowText) {
  attach.after(besideText);
  below.prepend(...belowText);
}

let home = { id: "" }; // of what is written now: the server gives a new conversation its id later
const uploads = new Set(); // files that are being uploaded: {home, name, done}
let pending = null; // the request that Gradio has not answered
let requests = 0;
let started = false; // an answer has been begun that the transcript does not show yet
let creating = false; // the server creates the conversation
let draft = null; // {id, before}: in this conversation the model writes into the box, which had the text `before`

const usualStart = () => document.querySelector("[data-chat]")?.dataset.startWith ?? "";
const alertHtml = (html) => { line.innerHTML = html; };
const alertText = (text) => line.replaceChildren(...(text ? [make("div", { class: "tx-status tx-alert", role: "alert" }, text)] : []));

/** Show above the text why something was not done. */
export const report = alertText;

// -- what is written is kept ------------------------------------------------------------------------------------------

const draftKey = () => `tx-draft-${currentId()}`;
const fit = () => {
  area.style.height = "auto";
  if (area.offsetParent) area.style.height = `${Math.min(area.scrollHeight, Math.max(innerHeight * 0.4, 60))}px`; // 0 while it is hidden
};
const setText = (text) => { area.value = text; fit(); };
const keepText = () => sessionStorage.setItem(draftKey(), area.value);
area.addEventListener("input", () => {
  line.querySelector(".tx-put-back")?.remove();
  keepText();
  fit();
  countSoon();
});

export const text = () => area.value;
export const focusInput = () => area.focus({ preventScroll: true });
const openStartWith = () => {
  startBox.open = true;
  start.focus();
};

/** Return the items of a menu for the controls that a small screen hides. */
export const hiddenControls = () => [
  ...(attach.checkVisibility() ? [] : [{ label: tr("attach_file"), action: attachFiles }]),
  ...(startBox.checkVisibility() ? [] : [{ label: tr("start_reply_with"), action: openStartWith }]),
];

/** Put `after` into the box as if it had been typed. */
export function write(after) {
  setText(after);
  keepText();
  countSoon();
}

/** Say `note` above the text, with a button that undoes what it says. */
export function offerUndo(note, undo) {
  const button = make("button", { type: "button", class: "tx-button", click: () => { alertText(""); undo(); focusInput(); } }, tr("undo"));
  line.replaceChildren(make("div", { class: "tx-status tx-put-back", role: "status" }, make("span", {}, note), button));
}

/** Replace the text of the box, which can be undone if there was one. */
export function replaceText(after, note) {
  const before = area.value;
  alertText("");
  write(after);
  if (before && before !== after) offerUndo(note, () => write(before));
  focusInput();
}

const useStart = () => {
  start.value ||= usualStart();
  startBox.open ||= start.value !== "";
};
events.addEventListener("placed", useStart);

events.addEventListener("conversation", ({ detail }) => {
  if (detail.id === currentId()) incognito.hidden = !detail.incognito;
});

events.addEventListener("open", () => {
  incognito.hidden = true;
  useStart();
  if (draft && draft.id !== currentId()) {
    post(`/chat/${encodeURIComponent(draft.id)}/stop`).catch(() => null);
    endDraft();
  }
  if (keptDraft()?.id === currentId()) setDraft(keptDraft()); // the page was loaded again meanwhile
  setText(sessionStorage.getItem(draftKey()) ?? "");
  home = { id: currentId() };
  drawFiles();
  alertText("");
  area.focus({ preventScroll: true });
});

// -- sending ----------------------------------------------------------------------------------------------------------

/** Ask for an answer: `action` as in modules/chat/runs.py. `begun` is called once it is being written; `retry` asks
 * again, with a model that has been loaded meanwhile. */
export async function request(action, body = {}, begun = () => null, retry = () => request(action, body)) {
  const id = currentId();
  await changesMade();
  if (pending !== null || started || id !== currentId()) return false;
  if (isBusy()) {
    alertText(tr("wait_for_answer"));
    return false;
  }
  if (!window.txAsk) { // modules/ui/chat/tab.py defines it once Gradio has drawn the page
    alertText(tr("page_starts"));
    return false;
  }
  const sent = { n: ++requests, action, conversation: id, rev: conversation().rev, ...choices(), start_with: start.value, template_kwargs: templateVariables.values(), ...body };
  pending = { ...sent, begun, retry };
  const mine = pending;
  alertText("");
  show();
  window.txAsk(sent);
  // An answer of Gradio's that got lost must not block the page for ever.
  setTimeout(() => pending === mine && finish({ n: mine.n }), 20000);
  return true;
}

/** Have the server create the open conversation with what was chosen and `values`; what is written stays. */
export async function begin(values = {}) {
  if (currentId()) return true;
  if (creating) return false;
  creating = true;
  try {
    const id = await create(values);
    const written = area.value;
    sessionStorage.removeItem(draftKey());
    sessionStorage.setItem(`tx-draft-${id}`, written);
    keepFiles(id, keptFiles(""));
    keepFiles("", []);
    home.id = id;
    open(id);
    return true;
  } catch (error) {
    alertText(error.message);
    return false;
  } finally {
    creating = false;
  }
}

async function sendMessage() {
  const id = home.id;
  if (!(await uploadsDone()) || id !== home.id) return;
  const attachments = keptFiles(home.id);
  if (area.value.trim() || attachments.length) request("send", { text: area.value, attachments }, undefined, sendMessage);
}

document.addEventListener("tx-answer", (event) => finish(event.detail));

function finish(answer) {
  if (answer.n !== pending?.n) return;
  const asked = pending;
  const isOpen = asked.conversation === currentId(); // else another conversation was opened meanwhile
  pending = null;
  if (answer.error) {
    const load = draft || !isOpen ? "" : answer.load;
    endDraft();
    alertHtml(answer.error);
    if (load) {
      forgetEndOfModel();
      line.append(make("button", { type: "button", id: "tx-load-and-send", click: () => loadAndSend(load, asked.retry) }, tr("load_and_send", { model: load })));
    }
  }
  else if (answer.id && !draft) {
    if (isOpen) home.id = answer.id;
    if (answer.sent) forgetSent(asked, answer.id);
    asked.begun();
    if (isOpen) {
      started = true;
      setTimeout(settle, 5000);
      if (answer.id !== currentId()) open(answer.id);
    }
  }
  show();
}

/** Keep of what is written in a conversation, or was when another one was opened, only what came after `sent`; the
 * server may have given the conversation an id. */
export function forgetText(sent, before, id = before) {
  const key = `tx-draft-${before}`;
  const written = sessionStorage.getItem(key) ?? "";
  const rest = written.startsWith(sent) ? written.slice(sent.length) : written;
  sessionStorage.removeItem(key);
  if (rest) sessionStorage.setItem(`tx-draft-${id}`, rest);
  if (before !== currentId()) return;
  setText(rest);
  countSoon();
}

function forgetSent(asked, id) {
  forgetText(asked.text, asked.conversation, id);
  const more = keptFiles(asked.conversation).filter(({ sha256 }) => !asked.attachments.some((one) => one.sha256 === sha256));
  keepFiles(asked.conversation, []);
  keepFiles(id, more);
  if (asked.conversation !== currentId()) return;
  drawFiles();
  start.value = usualStart();
}

/** Load a model and ask again once it is ready, unless another conversation is open then. A small model may be ready
 * before it is seen loading. */
function loadAndSend(name, retry) {
  const id = currentId();
  const pill = document.querySelector("#tx-pill");
  const readyText = () => pill.querySelector(".tx-ready")?.textContent;
  const before = readyText();
  let loading = false;
  alertText("");
  const watcher = new MutationObserver(() => {
    if (pill.querySelector(".tx-loading")) {
      loading = true;
      return;
    }
    if (!loading && readyText() === before) return;
    watcher.disconnect();
    if (readyText() !== undefined && id === currentId()) retry();
  });
  watcher.observe(pill, { subtree: true, childList: true, attributes: true });
  loadModel(name);
}

const loadModel = (name) => document.dispatchEvent(new CustomEvent("tx-model", { detail: { action: "load", name } }));
events.addEventListener("load", ({ detail }) => {
  loadModel(detail);
  focusInput();
});

const settle = () => {
  started = false;
  show();
};
events.addEventListener("conversation", settle);

const isBusy = () => isAnswering() || draft !== null;

function show() {
  const answering = isBusy() || pending !== null || started;
  send.hidden = answering;
  stop.hidden = !answering;
  stop.disabled = !isBusy();
  area.readOnly = draft !== null;
}

const stopAnswer = () => {
  if (!isBusy()) return false; // Esc may mean something else then
  post(`/chat/${encodeURIComponent(currentId())}/stop`).catch((error) => alertText(error.message));
};

events.addEventListener("shown", () => {
  const { mode, character } = conversation();
  area.placeholder = mode && mode !== "instruct" && character?.name ? tr("write_to", { name: character.name }) : tr("write");
  show();
  countSoon();
});
events.addEventListener("ask", (event) => {
  const { action, begun, retry, ...body } = event.detail;
  request(action, body, begun, retry);
});
events.addEventListener("refused", (event) => alertText(event.detail));
send.addEventListener("click", sendMessage);
stop.addEventListener("click", stopAnswer);
area.addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229) return;
  if (event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey) {
    event.preventDefault();
    sendMessage();
  } else if (["ArrowLeft", "ArrowRight"].includes(event.key) && !area.value) {
    selectVersion(lastMessage("assistant")?.id, event.key === "ArrowLeft" ? -1 : 1);
  } else if (event.key === "ArrowUp" && !area.value) {
    event.preventDefault();
    edit(lastMessage("user"));
  }
});

/** Remove the last reply with its question, and put that back into the box. */
export async function takeBack() {
  const [before, last] = [undefined, ...conversation().order].slice(-2).map((id) => conversation().messages[id]);
  if (!last || isAnswering()) return;
  const removed = last.role !== "user" && before?.role === "user" ? [last, before] : [last];
  for (const { id } of removed) if (!(await change("remove", { message: id, rev: null }))) return;
  const question = removed.find(({ role }) => role === "user");
  if (question && !area.value) write(question.content);
}

// -- the model writes the user's next message into the box -----------------------------------------------------------------

const setDraft = (value) => {
  draft = value;
  keepDraft(value);
  show();
};

/** Have the model write the user's next message, after what is in the box. */
export async function impersonate() {
  if (!isBusy() && !(await begin())) return;
  if (await request("impersonate", { text: area.value })) setDraft({ id: currentId(), before: area.value });
}

events.addEventListener("draft", ({ detail }) => {
  clearTimeout(lostTimer);
  if (!draft) return; // another page has asked for it
  if (detail.text) write(detail.text);
  area.scrollTop = area.scrollHeight;
  if (!detail.done) return;
  endDraft();
  if (detail.error) alertHtml(detail.error);
});

function endDraft() {
  clearTimeout(lostTimer);
  if (!draft) return;
  const { id, before } = draft;
  setDraft(null);
  if (id !== currentId()) return;
  if (area.value === before) alertText(tr("impersonated_nothing"));
  else offerUndo(tr("impersonated"), () => write(before));
  focusInput();
}

// A server that still has the draft sends it at once. One that was restarted does not.
let lostTimer = 0;
events.addEventListener("connected", () => {
  if (line.textContent === tr("not_reached")) alertText("");
  clearTimeout(lostTimer);
  if (draft && pending === null) lostTimer = setTimeout(endDraft, 5000);
});

// -- files ------------------------------------------------------------------------------------------------------------

const previews = new Map(); // addresses of the pictures that were attached, by hash
const filesKey = (id) => `tx-files-${id}`;

/** Return the files that are attached to what is written in a conversation, as the server has answered their uploads. */
const keptFiles = (id) => JSON.parse(sessionStorage.getItem(filesKey(id)) ?? "[]");
const keepFiles = (id, kept) => (kept.length ? sessionStorage.setItem(filesKey(id), JSON.stringify(kept)) : sessionStorage.removeItem(filesKey(id)));
const uploadsHere = () => [...uploads].filter((one) => one.home.id === home.id);

/** Wait for the files that are being uploaded. Returns whether all of them were attached. */
const uploadsDone = async () => (await Promise.all(uploadsHere().map(({ done }) => done))).every(Boolean);

function drawFiles() {
  const attached = keptFiles(home.id);
  const everywhere = Object.keys(sessionStorage).filter((key) => key.startsWith(filesKey(""))).map((key) => sessionStorage.getItem(key));
  for (const [hash, address] of previews) {
    if (everywhere.some((kept) => kept.includes(hash))) continue;
    URL.revokeObjectURL(address);
    previews.delete(hash);
  }
  const shown = attached.map((one, index) => {
    const removeFile = () => {
      keepFiles(home.id, keptFiles(home.id).filter((_, at) => at !== index));
      drawFiles();
      countSoon();
    };
    const address = previews.get(one.sha256);
    return make("li", {}, address && make("img", { src: address, alt: "" }), one.name, iconButton("close", tr("remove_file"), "close", { click: removeFile }));
  });
  files.replaceChildren(...shown, ...uploadsHere().map(({ name }) => make("li", { "aria-busy": "true" }, `${name} · ${tr("uploading")}`)));
}

/** Attach files, one after the other, to what is written now. */
function add(chosen) {
  const room = Math.max(MAX_FILES - keptFiles(home.id).length - uploadsHere().length, 0);
  const picked = [...chosen];
  const problems = picked.length > room ? [tr("too_many_files", { count: MAX_FILES })] : [];
  if (problems.length) alertText(problems[0]);
  let before = Promise.all(uploadsHere().map(({ done }) => done));
  for (const file of picked.slice(0, room)) {
    const one = { home, name: file.name };
    one.done = before.then(() => uploadFile(file, one, problems));
    before = one.done;
    uploads.add(one);
  }
  drawFiles();
}

async function uploadFile(file, one, problems) {
  try {
    const added = await upload(`/chat/attachments?id=${encodeURIComponent(one.home.id)}`, file);
    if (added.kind === "image" && !previews.has(added.sha256)) previews.set(added.sha256, URL.createObjectURL(file));
    keepFiles(one.home.id, [...keptFiles(one.home.id), added]);
    return true;
  } catch (error) {
    problems.push(error.message);
    alertText(problems.join(" "));
    return false;
  } finally {
    uploads.delete(one);
    drawFiles();
    countSoon();
  }
}
const attachFiles = () => picker.click();
attach.addEventListener("click", attachFiles);
picker.addEventListener("change", () => { add(picker.files); picker.value = ""; });
box.addEventListener("dragover", (event) => event.preventDefault());
box.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  add(event.dataTransfer.files);
});
area.addEventListener("paste", ({ clipboardData: { files: pasted, types } }) => {
  // Office programs offer a picture of the text that was copied, beside the text.
  if (pasted.length && !(types.includes("text/plain") && types.includes("text/html"))) add(pasted);
});

// -- how much of the context is used ------------------------------------------------------------------------------------

let countTimer = 0;
let countNumber = 0;
export function countSoon() {
  clearTimeout(countTimer);
  countTimer = setTimeout(count, COUNT_DELAY);
}
async function count() {
  if (document.hidden || isAnswering()) return;
  const number = ++countNumber;
  const path = currentId() ? `/chat/${encodeURIComponent(currentId())}/count` : "/chat/count";
  const { mode, persona } = choices();
  const counts = currentId() ? {} : { mode, persona, system: chosenSystem() };
  const counted = await post(path, { ...counts, text: area.value, attachments: keptFiles(home.id), template_kwargs: templateVariables.values() }).catch(() => null);
  if (number !== countNumber) return;
  meter.hidden = !counted?.context;
  if (meter.hidden) return;
  const share = counted.tokens / counted.context;
  meterBar.style.width = `${Math.min(100, share * 100)}%`;
  meter.classList.toggle("tx-full", share > 0.9);
  const number_ = new Intl.NumberFormat();
  meterText.textContent = tr("context_used", { used: number_.format(counted.tokens), context: number_.format(counted.context) });
}

// -- keys -------------------------------------------------------------------------------------------------------------

const IN_CHAT = { at: "chat" };
register("Escape", tr("stop"), stopAnswer, IN_CHAT);
register("Ctrl+Enter", tr("regenerate"), () => request("regenerate", { message: lastMessage("")?.id ?? "" }), IN_CHAT);
register("Alt+Enter", tr("continue"), () => request("continue", { message: lastMessage("assistant")?.id ?? "" }), IN_CHAT);
register("ArrowLeft", tr("previous_version"), () => selectVersion(lastMessage("assistant")?.id, -1), IN_CHAT);
register("ArrowRight", tr("next_version"), () => selectVersion(lastMessage("assistant")?.id, 1), IN_CHAT);

show();
