// What is below the conversation: the box in which messages are written, and what it sends. Sending goes through Gradio,
// which knows the parameters.
import * as attachments from "./attachments.js";
import { currentId, events, keepDraft, keptDraft, open, post } from "./chat_client.js";
import { countSoon, element as meter } from "./context_meter.js";
import { iconButton, make, single } from "./dom.js";
import { icon } from "./icons.js";
import { area, focusInput, forgetText, line, moveText, offerUndo, recallText, report, reportHtml, write } from "./message_box.js";
import { choices, create } from "./new_chat.js";
import { register } from "./shortcuts.js";
import * as templateVariables from "./template_variables.js";
import { tr } from "./texts.js";
import { change, changesMade, conversation, edit, forgetEndOfModel, isAnswering, lastMessage, noteOffer, selectVersion } from "./transcript.js";

const send = iconButton("send", tr("send"), "send", { id: "tx-send" });
const stop = iconButton("stop", tr("stop"), "stop", { id: "tx-stop", hidden: true });
const start = make("input", { id: "tx-start-with", "aria-label": tr("start_reply_with"), placeholder: tr("start_reply_with") });
const startBox = make("details", { id: "tx-start-box" }, make("summary", {}, tr("start_reply_with")), start);
const box = make("div", { id: "tx-text" }, attachments.button, area, stop, send);
attachments.acceptDrops(box);

const below = make("div", { id: "tx-below", class: "tx-below" }, startBox, meter);

const incognito = make("p", { id: "tx-incognito", hidden: true }, icon("incognito"), make("span", {}, tr("incognito_note")));

export const element = make("div", { id: "tx-composer" }, incognito, line, attachments.list, box, below, attachments.picker);

new MutationObserver(noteOffer).observe(line, { childList: true });

/** Put the controls of other modules beside the text and below it. */
export function addControls(besideText, ...belowText) {
  attachments.button.after(besideText);
  below.prepend(...belowText);
}

let pending = null; // the request that Gradio has not answered
let requests = 0;
let started = false; // an answer has been begun that the transcript does not show yet
let creating = false; // the server creates the conversation
let draft = null; // {id, before}: in this conversation the model writes into the box, which had the text `before`

const usualStart = () => document.querySelector("[data-chat]")?.dataset.startWith ?? "";
const openStartWith = () => {
  startBox.open = true;
  start.focus();
};

/** Return the items of a menu for the controls that a small screen hides. */
export const hiddenControls = () => [
  ...(attachments.button.checkVisibility() ? [] : [{ label: tr("attach_file"), action: attachments.attachFiles }]),
  ...(startBox.checkVisibility() ? [] : [{ label: tr("start_reply_with"), action: openStartWith }]),
];

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
  recallText();
  attachments.recall();
  report("");
  focusInput();
});

// -- sending ----------------------------------------------------------------------------------------------------------

/** Ask for an answer: `action` as in modules/chat/runs.py. `begun` is called once it is being written; `retry` asks
 * again, with a model that has been loaded meanwhile. */
export async function request(action, body = {}, begun = () => null, retry = () => request(action, body)) {
  const id = currentId();
  await changesMade();
  if (pending !== null || started || id !== currentId()) return false;
  if (isBusy()) {
    report(tr("wait_for_answer"));
    return false;
  }
  if (!window.txAsk) { // modules/ui/chat/tab.py defines it once Gradio has drawn the page
    report(tr("page_starts"));
    return false;
  }
  const sent = { n: ++requests, action, conversation: id, rev: conversation().rev, ...choices(), start_with: start.value, template_kwargs: templateVariables.values(), ...body };
  pending = { ...sent, begun, retry };
  const mine = pending;
  report("");
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
    moveText(id);
    attachments.move(id);
    open(id);
    return true;
  } catch (error) {
    report(error.message);
    return false;
  } finally {
    creating = false;
  }
}

async function sendMessage() {
  if (!(await attachments.allAttached())) return;
  const files = attachments.attached();
  if (area.value.trim() || files.length) request("send", { text: area.value, attachments: files }, undefined, sendMessage);
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
    reportHtml(answer.error);
    if (load) {
      forgetEndOfModel();
      line.append(make("button", { type: "button", id: "tx-load-and-send", click: () => loadAndSend(load, asked.retry) }, tr("load_and_send", { model: load })));
    }
  }
  else if (answer.id && !draft) {
    if (isOpen) attachments.nameHome(answer.id);
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

function forgetSent(asked, id) {
  forgetText(asked.text, asked.conversation, id);
  attachments.forget(asked.attachments, asked.conversation, id);
  if (asked.conversation === currentId()) start.value = usualStart();
}

/** Load a model and ask again once it is ready, unless another conversation is open then. A small model may be ready
 * before it is seen loading. */
function loadAndSend(name, retry) {
  const id = currentId();
  const pill = document.querySelector("#tx-pill");
  const readyText = () => pill.querySelector(".tx-ready")?.textContent;
  const before = readyText();
  let loading = false;
  report("");
  const end = () => {
    watcher.disconnect();
    document.removeEventListener("tx-model-refused", end);
  };
  const watcher = new MutationObserver(() => {
    if (pill.querySelector(".tx-loading")) {
      loading = true;
      return;
    }
    if (!loading && readyText() === before) return;
    end();
    if (readyText() !== undefined && id === currentId()) retry();
  });
  document.addEventListener("tx-model-refused", end);
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
  post(`/chat/${encodeURIComponent(currentId())}/stop`).catch((error) => report(error.message));
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
events.addEventListener("refused", (event) => report(event.detail));
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
export const takeBack = single(async () => {
  const [before, last] = [undefined, ...conversation().order].slice(-2).map((id) => conversation().messages[id]);
  if (!last || isAnswering()) return;
  const removed = last.role !== "user" && before?.role === "user" ? [last, before] : [last];
  for (const { id } of removed) if (!(await change("remove", { message: id, rev: null }))) return;
  const question = removed.find(({ role }) => role === "user");
  if (question && !area.value) write(question.content);
});

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
  if (detail.error) reportHtml(detail.error);
});

function endDraft() {
  clearTimeout(lostTimer);
  if (!draft) return;
  const { id, before } = draft;
  setDraft(null);
  if (id !== currentId()) return;
  if (area.value === before) report(tr("impersonated_nothing"));
  else offerUndo(tr("impersonated"), () => write(before));
  focusInput();
}

// A server that still has the draft sends it at once. One that was restarted does not.
let lostTimer = 0;
events.addEventListener("connected", () => {
  if (line.textContent === tr("not_reached")) report("");
  clearTimeout(lostTimer);
  if (draft && pending === null) lostTimer = setTimeout(endDraft, 5000);
});

// -- keys -------------------------------------------------------------------------------------------------------------

const IN_CHAT = { at: "chat" };
register("Escape", tr("stop"), stopAnswer, IN_CHAT);
register("Ctrl+Enter", tr("regenerate"), () => request("regenerate", { message: lastMessage("")?.id ?? "" }), IN_CHAT);
register("Alt+Enter", tr("continue"), () => request("continue", { message: lastMessage("assistant")?.id ?? "" }), IN_CHAT);
register("ArrowLeft", tr("previous_version"), () => selectVersion(lastMessage("assistant")?.id, -1), IN_CHAT);
register("ArrowRight", tr("next_version"), () => selectVersion(lastMessage("assistant")?.id, 1), IN_CHAT);

show();
