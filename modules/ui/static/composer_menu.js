// The menu beside the text: what can be done with what is written, other than to send it, and with the last messages.
import { element as setupButton, openSetup } from "./chat_setup.js";
import { begin, hiddenControls, impersonate, takeBack } from "./composer.js";
import { currentId, post } from "./chat_client.js";
import { iconButton, single } from "./dom.js";
import { focusInput, forgetText, offerUndo, replaceText, report, text, write } from "./message_box.js";
import { address } from "./notebook_list.js";
import { openMenu } from "./popups.js";
import { register } from "./shortcuts.js";
import { tr } from "./texts.js";
import { change, isAnswering, lastMessage } from "./transcript.js";

const button = iconButton("menu", tr("more_for_message"), "more", { id: "tx-more", "aria-haspopup": "menu" });
export const element = button;

/** Return the last reply, or say that there is none. */
function lastReply() {
  const reply = lastMessage("assistant");
  if (!reply) report(tr("no_reply_yet"));
  return reply;
}

const isWritten = () => {
  if (!text().trim()) report(tr("write_first"));
  return Boolean(text().trim());
};

const isFree = () => {
  if (isAnswering()) report(tr("wait_for_answer"));
  return !isAnswering();
};

const replaceLastReply = single(async () => {
  if (!isFree() || !isWritten()) return;
  const reply = lastReply();
  const [id, content] = [currentId(), text()];
  if (!reply || !(await change("edit", { message: reply.id, content }))) return;
  forgetText(content, id);
  if (id !== currentId()) return; // another conversation was opened meanwhile
  offerUndo(tr("reply_replaced"), () => {
    change("edit", { message: reply.id, content: reply.content, rev: null });
    write(content);
  });
});

function copyLastReply() {
  const reply = lastReply();
  if (reply) replaceText(reply.content, tr("text_replaced"));
}

/** Add what is written as a message of `role`; no answer is asked for. */
async function addMessage(role) {
  if (!isFree() || !isWritten() || !(await begin())) return;
  const [id, content] = [currentId(), text()];
  if (!(await change("add", { role, content }))) return;
  forgetText(content, id);
  if (id !== currentId()) return; // another conversation was opened meanwhile
  report("");
  focusInput();
}

/** Make a notebook of the prompt that would continue the conversation, and open it. */
async function sendToNotebook() {
  try {
    const { text: prompt } = await post(`/chat/${encodeURIComponent(currentId())}/prompt`, {});
    const { id } = await post("/notebook/new", { text: prompt });
    location.hash = address(id);
  } catch (error) {
    report(error.message);
  }
}

const ITEMS = [
  { label: tr("impersonate"), key: "Ctrl+Shift+M", action: impersonate },
  { label: tr("replace_last_reply"), key: "Ctrl+Shift+L", action: replaceLastReply },
  { label: tr("copy_last_reply"), key: "Ctrl+Shift+K", action: copyLastReply },
  { label: tr("dummy_message"), action: () => addMessage("user") },
  { label: tr("dummy_reply"), action: () => addMessage("assistant") },
  { label: tr("take_back"), key: "Ctrl+Shift+Backspace", action: takeBack },
];

const open = () =>
  openMenu(button, tr("more_for_message"), [
    ...(setupButton.checkVisibility() ? [] : [{ label: tr("chat_setup"), action: () => openSetup(button) }]),
    ...hiddenControls(),
    ...ITEMS.map(({ key = "", ...item }) => ({ ...item, key: key.replaceAll("+", " ") })),
    ...(currentId() ? [{ label: tr("send_to_notebook"), action: sendToNotebook }] : []),
  ]);

button.addEventListener("click", open);
for (const { key, label, action } of ITEMS) if (key) register(key, label, action, { at: "chat" });
