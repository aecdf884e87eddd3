// The messages of the open conversation. Each is drawn once; of an answer that is being written only the last block is
// drawn again.
import { currentId, events, open, post } from "./chat_client.js";
import { toggleWrapping } from "./code_wrapping.js";
import { iconButton, isDoubled, make, rendered, single } from "./dom.js";
import { keepEdit, keptEdits } from "./kept_edits.js";
import { draw, grow, nameSpeaker, update } from "./message.js";
import { showReceipt } from "./receipt.js";
import { tr } from "./texts.js";

const scroller = make("div", { id: "tx-transcript", tabindex: "0", role: "region", "aria-label": tr("conversation") });
const list = make("div", { id: "tx-messages" });
const toBottom = iconButton("bottom", tr("scroll_down"), "to_bottom", { id: "tx-to-bottom", hidden: true });
const announcer = make("div", { class: "tx-unseen", role: "status" });
scroller.append(list);

export const element = make("div", { id: "tx-conversation" }, scroller, toBottom, announcer);

const showEmpty = (empty) => document.documentElement.toggleAttribute("data-chat-empty", empty);
showEmpty(true);

/** The open conversation as the server last sent it; `messages` are bodies by id. */
let shown = { id: "", rev: null, order: [], messages: {}, running: "", title: "", system: "" };
const nodes = new Map();

export const conversation = () => shown;
export const lastMessage = (role) => shown.order.map((id) => shown.messages[id]).filter((one) => !role || one.role === role).at(-1);
export const isAnswering = () => Boolean(shown.running);

// -- scrolling: follow the text only while its end is in view -----------------------------------------------------------

let following = true;
const atEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
const scrollToEnd = () => { scroller.scrollTop = scroller.scrollHeight; };
let heightBefore = 0;

scroller.addEventListener("scroll", () => {
  // Text that grows moves the end away without anybody having scrolled.
  if (atEnd()) following = true;
  else if (scroller.scrollHeight === heightBefore) following = false;
  heightBefore = scroller.scrollHeight;
  toBottom.hidden = following || atEnd();
}, { passive: true });
scroller.addEventListener("wheel", (event) => { if (event.deltaY < 0) following = false; }, { passive: true });
toBottom.addEventListener("click", () => {
  following = true;
  scrollToEnd();
});
new ResizeObserver(() => following && scrollToEnd()).observe(list);
new ResizeObserver(() => following && scrollToEnd()).observe(scroller);

// -- drawing ----------------------------------------------------------------------------------------------------------

function show(body) {
  if (body.id !== currentId()) return;
  if (body.problem) {
    list.replaceChildren(rendered(body.problem, "tx-problem"));
    showEmpty(false);
    return;
  }
  // The server sends each message once: those of other branches are kept for when they are shown again.
  const messages = { ...shown.messages, ...body.messages };
  const drawn = body.order.filter((id) => !nodes.has(id));
  const wanted = [];
  for (const id of body.order) {
    if (!nodes.has(id)) nodes.set(id, draw(messages[id]));
    const node = nodes.get(id);
    if (body.messages[id] && !node.classList.contains("tx-editing")) update(node, messages[id]);
    nameSpeaker(node, messages[id].role, body);
    if (id === body.dropped_until) wanted.push(make("div", { class: "tx-memory-line", role: "separator" }, tr("memory_begins")));
    wanted.push(node);
  }
  if (body.error) wanted.push(failureOf(body));
  const stopped = shown.running && !body.running;
  shown = { ...body, messages };
  arrange(wanted);
  for (const id of drawn) if (id in keptEdits(body.id)) openEditor(messages[id], keptEdits(body.id)[id]);
  showEmpty(wanted.length === 0);
  element.classList.toggle("tx-answering", Boolean(body.running));
  if (stopped) announcer.textContent = tr("answer_complete");
  events.dispatchEvent(new CustomEvent("shown", { detail: shown }));
}

/** Return why the last answer failed, with a button if its model has ended and can be loaded again. */
function failureOf({ error, load }) {
  const node = rendered(error, "tx-run-error");
  const loadAgain = () => {
    node.remove();
    noteOffer();
    events.dispatchEvent(new CustomEvent("load", { detail: load }));
  };
  if (load) node.firstElementChild.append(make("button", { type: "button", class: "tx-load-again", click: loadAgain }, tr("load_again")));
  return node;
}

const loadAgainButton = () => list.lastElementChild?.querySelector(".tx-load-again");

/** Remove why the last answer failed if that was the end of its model, which is said elsewhere or holds no longer. */
export function forgetEndOfModel() {
  loadAgainButton()?.closest(".tx-run-error").remove();
  noteOffer();
}
document.addEventListener("tx-model-status", ({ detail }) => detail === "ready" && forgetEndOfModel());

/** Hide the card that offers to load a model while a button of the conversation does. An attribute, as `:has` is slow. */
export const noteOffer = () =>
  document.documentElement.toggleAttribute("data-offers-load", Boolean(loadAgainButton() ?? document.getElementById("tx-load-and-send")));
events.addEventListener("shown", noteOffer);

/** Put these nodes into the list, and touch only those that have to move: a moved node loses its focus and selection. */
function arrange(wanted) {
  const keep = new Set(wanted);
  for (const child of [...list.children]) if (!keep.has(child)) child.remove();
  wanted.forEach((node, index) => {
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
  });
}

function live(body) {
  const node = nodes.get(body.message);
  if (body.id !== currentId() || !node) return;
  shown.rev = body.rev;
  grow(node, body);
}

events.addEventListener("open", () => {
  shown = { id: "", rev: null, order: [], messages: {}, running: "", title: "", system: "" };
  nodes.clear();
  list.replaceChildren();
  showEmpty(currentId() === "");
  following = true;
  element.classList.remove("tx-answering");
  events.dispatchEvent(new CustomEvent("shown", { detail: shown }));
});
events.addEventListener("conversation", (event) => show(event.detail));
events.addEventListener("live", (event) => live(event.detail));
events.addEventListener("gone", () => open(""));

// -- what the buttons do ------------------------------------------------------------------------------------------------

let lastChange = Promise.resolve();

/** Wait for the answer to the last change, without which the next request would have an older `rev`. */
export const changesMade = () => lastChange.catch(() => null);

/** Change the conversation on the server, which then sends it anew. A change of what it no longer is, is refused, unless
 * `body` has a `rev` that is null, or undefined where the server asks for none. */
export async function change(action, body) {
  const id = currentId();
  await changesMade();
  if (currentId() !== id) return null; // another conversation was opened meanwhile
  const before = shown;
  lastChange = post(`/chat/${encodeURIComponent(id)}/${action}`, { rev: before.rev, ...body });
  try {
    const answer = await lastChange;
    // Each change adds one. The next request need not wait until the conversation arrives anew.
    if (shown === before && before.rev !== null && action !== "branch" && body.rev !== null) shown.rev += 1;
    return answer;
  } catch (error) {
    events.dispatchEvent(new CustomEvent("refused", { detail: error.message }));
    return null;
  }
}

export function selectVersion(id, step) {
  const versions = shown.messages[id]?.versions ?? [];
  const next = versions[versions.indexOf(id) + step];
  if (next && !isAnswering()) change("select", { message: next });
}

export async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // pages of other machines, by http, have no clipboard
    const area = make("textarea", { class: "tx-unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announcer.textContent = tr("copied");
  button?.classList.add("tx-done");
  setTimeout(() => button?.classList.remove("tx-done"), 1200);
}

const ask = (action, body) => events.dispatchEvent(new CustomEvent("ask", { detail: { action, ...body } }));

const buttons = {
  previous: (body) => selectVersion(body.id, -1),
  next: (body) => selectVersion(body.id, 1),
  copy: (body, button) => copyText(body.content, button),
  edit: (body) => edit(body),
  again: (body) => ask("regenerate", { message: body.id }),
  more: (body) => ask("continue", { message: body.id }),
  branch: async (body) => {
    const made = await change("branch", { message: body.id });
    if (made) open(made.id);
  },
  receipt: (body) => showReceipt(shown.id, body.id, () => ask("again", { message: body.id })),
  remove: (body, button) => confirmRemoval(body, button),
  expand: (body, button) => {
    button.closest(".tx-actions").classList.add("tx-all");
    button.closest(".tx-actions").querySelector("[data-act=branch]").focus();
  },
};

list.addEventListener("click", (event) => {
  toggleWrapping(event.target);
  const code = event.target.closest(".tx-copy-code");
  if (code) copyText(code.closest(".tx-code")?.querySelector("pre")?.innerText ?? "", code);
  const button = event.target.closest("[data-act]");
  const body = shown.messages[button?.closest("[data-id]")?.dataset.id];
  if (body) buttons[button.dataset.act]?.(body, button);
});

function confirmRemoval(body, button) {
  const bar = button.closest(".tx-actions");
  const before = [...bar.children];
  const back = () => { bar.replaceChildren(...before); button.focus(); };
  const remove = single(() => change("remove", { message: body.id }));
  const yes = make("button", { type: "button", class: "tx-danger", click: (event) => isDoubled(event) || remove() }, tr("remove_yes"));
  const no = make("button", { type: "button", click: (event) => isDoubled(event) || back() }, tr("cancel"));
  bar.replaceChildren(make("span", {}, tr("remove_question")), yes, no);
  bar.addEventListener("keydown", (event) => event.key === "Escape" && back(), { once: true });
  yes.focus();
}

export function edit(body) {
  const node = nodes.get(body?.id);
  if (!node || isAnswering() || node.classList.contains("tx-editing")) return;
  openEditor(body, body.content).focus();
}

/** Show a box with `text` in place of a message, and return it. */
function openEditor(body, text) {
  const conversationId = currentId();
  const node = nodes.get(body.id);
  const { content } = node.parts;
  const area = make("textarea", { class: "tx-edit", "aria-label": tr("edit_message"), rows: "1" });
  area.value = text;
  const fit = () => { area.style.height = "auto"; area.style.height = `${Math.min(area.scrollHeight + 2, innerHeight * 0.6)}px`; };
  let isSaving = false;
  let isClosed = false;
  const finish = () => {
    if (isClosed) return;
    isClosed = true;
    keepEdit(conversationId, body.id);
    node.classList.remove("tx-editing");
    box.remove();
    content.hidden = false;
    update(node, shown.messages[body.id] ?? body);
    node.querySelector("[data-act=edit]")?.focus();
  };
  // What has been typed since stays in the box.
  const finishUnlessChanged = (saved) => area.value === saved && finish();
  const save = async () => {
    if (isSaving) return;
    isSaving = true;
    const content = area.value;
    if (await change("edit", { message: body.id, content })) finishUnlessChanged(content);
    isSaving = false;
  };
  const again = () => {
    const text = area.value;
    if (box.isConnected) ask("edit", { message: body.id, text, begun: () => finishUnlessChanged(text), retry: again });
  };
  const box = make("div", { class: "tx-edit-box" }, area, make("div", { class: "tx-edit-buttons" },
    body.role === "user" && make("button", { type: "button", class: "tx-primary", "data-edit": "again", click: again }, tr("save_and_answer")),
    make("button", { type: "button", "data-edit": "save", click: save }, tr("save_edit")),
    make("button", { type: "button", "data-edit": "cancel", click: finish }, tr("cancel"))));
  area.addEventListener("input", () => {
    fit();
    keepEdit(conversationId, body.id, area.value);
  });
  box.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") finish();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  node.classList.add("tx-editing");
  content.hidden = true;
  content.after(box);
  fit();
  return area;
}
