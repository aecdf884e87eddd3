// The box in which messages are written, and what it sends. Sending goes through Gradio, which knows the parameters.
import { currentId, events, open, post, upload } from "./chat_client.js";
import { iconButton, make } from "./dom.js";
import { register } from "./shortcuts.js";
import { tr } from "./texts.js";
import { change, conversation, copyText, edit, isAnswering, lastMessage, selectVersion } from "./transcript.js";

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
const meterBar = make("i", {});
const meterText = make("span", {});
const meter = make("div", { id: "tx-meter", hidden: true, title: tr("context_meter") }, make("span", { class: "tx-meter-bar" }, meterBar), meterText);
const box = make("div", { id: "tx-text" }, attach, area, stop, send);

export const element = make("div", { id: "tx-composer" }, line, files, box, make("div", { id: "tx-below", class: "tx-below" }, startBox, meter), picker);

let attachments = [];
let pending = null; // the number of the request that Gradio has not answered
let requests = 0;
let started = false; // an answer has been begun that the transcript does not show yet
let system = null; // of a conversation that has not begun

const alertHtml = (html) => { line.innerHTML = html; };
const alertText = (text) => line.replaceChildren(...(text ? [make("div", { class: "tx-status tx-alert", role: "alert" }, text)] : []));

// -- what is written is kept ------------------------------------------------------------------------------------------

const draftKey = () => `tx-draft-${currentId()}`;
const fit = () => {
  area.style.height = "auto";
  if (area.isConnected) area.style.height = `${Math.min(area.scrollHeight + 2, Math.max(innerHeight * 0.4, 60))}px`;
};
const setText = (text) => { area.value = text; fit(); };
area.addEventListener("input", () => {
  sessionStorage.setItem(draftKey(), area.value);
  fit();
  countSoon();
});

events.addEventListener("open", () => {
  setText(sessionStorage.getItem(draftKey()) ?? "");
  attachments = [];
  system = null;
  drawFiles();
  alertText("");
  area.focus({ preventScroll: true });
});

// -- sending ----------------------------------------------------------------------------------------------------------

/** Ask for an answer: `action` as in modules/chat/runs.py. */
function request(action, body = {}) {
  if (pending !== null || started) return;
  if (isAnswering()) {
    alertText(tr("wait_for_answer"));
    return;
  }
  if (!window.txAsk) { // modules/ui/chat/tab.py defines it once Gradio has drawn the page
    alertText(tr("page_starts"));
    return;
  }
  pending = ++requests;
  alertText("");
  show();
  const sent = { n: pending, action, conversation: currentId(), rev: conversation().rev, system, start_with: start.value, ...body };
  window.txAsk(sent);
  // An answer of Gradio's that got lost must not block the page for ever.
  const mine = pending;
  setTimeout(() => pending === mine && finish({ n: mine }), 20000);
}

function sendMessage() {
  const text = area.value;
  if (!text.trim() && !attachments.length) return;
  request("send", { text, attachments });
}

document.addEventListener("tx-answer", (event) => finish(event.detail));

function finish(answer) {
  if (answer.n !== pending) return;
  pending = null;
  if (answer.error) {
    alertHtml(answer.error);
    if (answer.load) line.append(make("button", { type: "button", id: "tx-load-and-send", click: () => loadAndSend(answer.load) }, tr("load_and_send", { model: answer.load })));
  }
  else if (answer.id) {
    started = true;
    setTimeout(settle, 5000);
    if (answer.sent) {
      sessionStorage.removeItem(draftKey());
      setText("");
      attachments = [];
      drawFiles();
      start.value = "";
    }
    if (answer.id !== currentId()) open(answer.id);
  }
  show();
}

/** Load a model and send what is written once it is ready. */
function loadAndSend(name) {
  const pill = document.querySelector("#tx-pill");
  let loading = false;
  alertText("");
  const watcher = new MutationObserver(() => {
    loading ||= Boolean(pill.querySelector(".tx-loading"));
    if (!loading || pill.querySelector(".tx-loading")) return;
    watcher.disconnect();
    if (pill.querySelector(".tx-ready")) sendMessage();
  });
  watcher.observe(pill, { subtree: true, childList: true, attributes: true });
  document.dispatchEvent(new CustomEvent("tx-model", { detail: { action: "load", name } }));
}

const settle = () => {
  started = false;
  show();
};
events.addEventListener("conversation", settle);

function show() {
  const answering = isAnswering() || pending !== null || started;
  send.hidden = answering;
  stop.hidden = !answering;
  stop.disabled = !isAnswering();
}

const stopAnswer = () => {
  if (!isAnswering()) return false; // Esc may mean something else then
  post(`/chat/${encodeURIComponent(currentId())}/stop`).catch((error) => alertText(error.message));
};

events.addEventListener("shown", () => {
  show();
  countSoon();
});
events.addEventListener("ask", (event) => {
  const { action, ...body } = event.detail;
  request(action, body);
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

/** Remove the last question with its answer, and put it back into the box. */
async function takeBack() {
  const [question, answer] = [lastMessage("user"), lastMessage("")];
  if (!question || isAnswering()) return;
  const ids = answer.id === question.id ? [question.id] : [answer.id, question.id];
  for (const message of ids) if (!(await change("remove", { message, rev: null }))) return;
  if (!area.value) setText(question.content);
}

// -- files ------------------------------------------------------------------------------------------------------------

function drawFiles() {
  files.replaceChildren(...attachments.map((one, index) => {
    const remove = iconButton("close", tr("remove_file"), "close", { click: () => { attachments.splice(index, 1); drawFiles(); countSoon(); } });
    return make("li", {}, one.name, remove);
  }));
}

async function add(chosen) {
  for (const file of [...chosen].slice(0, MAX_FILES - attachments.length)) {
    try {
      attachments.push(await upload("/chat/attachments", file));
      drawFiles();
      countSoon();
    } catch (error) {
      alertText(error.message);
    }
  }
}
attach.addEventListener("click", () => picker.click());
picker.addEventListener("change", () => { add(picker.files); picker.value = ""; });
box.addEventListener("dragover", (event) => event.preventDefault());
box.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  add(event.dataTransfer.files);
});
area.addEventListener("paste", (event) => event.clipboardData.files.length && add(event.clipboardData.files));

// -- how much of the context is used ------------------------------------------------------------------------------------

let countTimer = 0;
let countNumber = 0;
function countSoon() {
  clearTimeout(countTimer);
  countTimer = setTimeout(count, COUNT_DELAY);
}
async function count() {
  if (document.hidden || isAnswering()) return;
  const number = ++countNumber;
  const path = currentId() ? `/chat/${encodeURIComponent(currentId())}/count` : "/chat/count";
  const counted = await post(path, { text: area.value, attachments, system: system ?? systemField()?.dataset.default ?? "" }).catch(() => null);
  if (number !== countNumber) return;
  meter.hidden = !counted?.context;
  if (meter.hidden) return;
  const share = counted.tokens / counted.context;
  meterBar.style.width = `${Math.min(100, share * 100)}%`;
  meter.classList.toggle("tx-full", share > 0.9);
  const number_ = new Intl.NumberFormat();
  meterText.textContent = tr("context_used", { used: number_.format(counted.tokens), context: number_.format(counted.context) });
}

// -- the system message, which belongs to the conversation ----------------------------------------------------------------

const systemField = () => document.querySelector("#tx-system");
let systemTimer = 0;

const saveSystem = (text) => {
  if (currentId()) post(`/chat/${encodeURIComponent(currentId())}/system`, { system: text }).then(countSoon, (error) => alertText(error.message));
  else {
    system = text; // sent with the first message
    countSoon();
  }
};
document.addEventListener("input", (event) => {
  if (event.target.id !== "tx-system") return;
  clearTimeout(systemTimer);
  systemTimer = setTimeout(saveSystem, 600, event.target.value);
});
const showSystem = () => {
  const field = systemField();
  if (field && field !== document.activeElement) field.value = currentId() ? conversation().system : (system ?? field.dataset.default);
};
events.addEventListener("shown", showSystem);
new MutationObserver(() => systemField() && !systemField().dataset.filled && (systemField().dataset.filled = "1", showSystem())).observe(document.body, { subtree: true, childList: true });

// -- keys -------------------------------------------------------------------------------------------------------------

register("Escape", tr("stop"), stopAnswer);
register("Ctrl+Enter", tr("regenerate"), () => request("regenerate", { message: lastMessage("")?.id ?? "" }));
register("Alt+Enter", tr("continue"), () => request("continue", { message: lastMessage("assistant")?.id ?? "" }));
register("Ctrl+Shift+K", tr("copy_last_reply"), () => copyText(lastMessage("assistant")?.content ?? ""));
register("Ctrl+Shift+Backspace", tr("take_back"), takeBack);
register("ArrowLeft", tr("previous_version"), () => selectVersion(lastMessage("assistant")?.id, -1));
register("ArrowRight", tr("next_version"), () => selectVersion(lastMessage("assistant")?.id, 1));

show();
