// The box in which messages are written, which keeps its text when another conversation is opened or the page reloaded,
// and the line above it, which says why something was not done and offers to undo what was.
import { currentId, events } from "./chat_client.js";
import { make } from "./dom.js";
import { tr } from "./texts.js";

export const area = make("textarea", { id: "tx-input", rows: "1", "aria-label": tr("message"), placeholder: tr("write"), enterkeyhint: "send" });
export const line = make("div", { id: "tx-chat-line" });

export const text = () => area.value;
export const focusInput = () => area.focus({ preventScroll: true });

// -- the line above the text --------------------------------------------------------------------------------------------

/** Show why something was not done. */
export const report = (problem) => line.replaceChildren(...(problem ? [make("div", { class: "tx-status tx-alert", role: "alert" }, problem)] : []));

/** Show what the server has rendered and escaped. */
export const reportHtml = (html) => { line.innerHTML = html; };

/** Say `note`, with a button that undoes what it says. */
export function offerUndo(note, undo) {
  const button = make("button", { type: "button", class: "tx-button", click: () => { report(""); undo(); focusInput(); } }, tr("undo"));
  line.replaceChildren(make("div", { class: "tx-status tx-put-back", role: "status" }, make("span", {}, note), button));
}

// -- what is written is kept ----------------------------------------------------------------------------------------------

const keyOf = (id) => `tx-draft-${id}`;
const fit = () => {
  area.style.height = "auto";
  if (area.offsetParent) area.style.height = `${Math.min(area.scrollHeight, Math.max(innerHeight * 0.4, 60))}px`; // 0 while it is hidden
};
const setText = (after) => { area.value = after; fit(); };
const keepText = () => sessionStorage.setItem(keyOf(currentId()), area.value);
const noteChange = () => events.dispatchEvent(new CustomEvent("written"));

area.addEventListener("input", () => {
  line.querySelector(".tx-put-back")?.remove();
  keepText();
  fit();
  noteChange();
});

/** Put `after` into the box as if it had been typed. */
export function write(after) {
  setText(after);
  keepText();
  noteChange();
}

/** Replace the text of the box, which can be undone if there was one. */
export function replaceText(after, note) {
  const before = area.value;
  report("");
  write(after);
  if (before && before !== after) offerUndo(note, () => write(before));
  focusInput();
}

/** Show what was written in the open conversation. */
export const recallText = () => setText(sessionStorage.getItem(keyOf(currentId())) ?? "");

/** Keep the text for the conversation `id`, which is about to replace the open one. */
export function moveText(id) {
  const written = area.value;
  sessionStorage.removeItem(keyOf(currentId()));
  sessionStorage.setItem(keyOf(id), written);
}

/** Keep of what is written in a conversation, or was when another one was opened, only what came after `sent`; the
 * server may have given the conversation an id. */
export function forgetText(sent, before, id = before) {
  const written = sessionStorage.getItem(keyOf(before)) ?? "";
  const rest = written.startsWith(sent) ? written.slice(sent.length) : written;
  sessionStorage.removeItem(keyOf(before));
  if (rest) sessionStorage.setItem(keyOf(id), rest);
  if (before !== currentId()) return;
  setText(rest);
  noteChange();
}
