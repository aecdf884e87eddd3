// The list of conversations: grouped by day, searched by the server, operated by pointer or keyboard.
import { avatar } from "./avatar.js";
import { currentId, events, get, open, post, upload } from "./chat_client.js";
import { make } from "./dom.js";
import { icon } from "./icons.js";
import { openMenu, toast } from "./popups.js";
import { language, tr } from "./texts.js";

const DRAWN_AT_ONCE = 100;
const UNDO_SECONDS = 10;

const list = make("div", { id: "tx-conversations" });
const note = make("p", { id: "tx-list-note", role: "status" });
export const element = make("nav", { id: "tx-conversations-scroller", "aria-label": tr("conversations") }, note, list);

let listed = []; // what the server has answered, in its order
let drawn = 0;
let query = "";
let binned = 0;
let kept = true;
let version; // what of the server's conversations has been listed
let asked = 0; // counts requests: an answer that another one has overtaken is dropped
let focusedId = ""; // the entry that Tab reaches
let renaming = false;

/** Return the entry of a conversation, undefined if it is not listed. */
export const entryOf = (id) => listed.find((entry) => entry.id === id);

/** Return the number of conversations in the bin. */
export const binCount = () => binned;

/** Return whether conversations are stored on the server's disk. */
export const isKept = () => kept;

// -- days ---------------------------------------------------------------------------------------------------------------

const locale = language === "zh" ? "zh-CN" : "en-US";
const timeOfDay = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const dayOfYear = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric" });
const wholeDate = new Intl.DateTimeFormat(locale, { year: "numeric", month: "short", day: "numeric" });
const fullTime = new Intl.DateTimeFormat(locale, { dateStyle: "long", timeStyle: "short" });

const daysAgo = (date) => Math.round((new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86400000);

const groupOf = (entry) => {
  if (entry.incognito) return tr("incognito");
  if (entry.pinned) return tr("group_pinned");
  const days = daysAgo(entry.updated * 1000);
  if (days <= 0) return tr("group_today");
  if (days === 1) return tr("group_yesterday");
  return days <= 7 ? tr("group_week") : tr("group_earlier");
};

const shortTime = (date) => {
  if (daysAgo(date) <= 1) return timeOfDay.format(date);
  return (date.getFullYear() === new Date().getFullYear() ? dayOfYear : wholeDate).format(date);
};

// -- drawing ------------------------------------------------------------------------------------------------------------

const titleOf = (entry) => entry.title || entry.character || tr("untitled");

const marked = (text) => {
  const at = query ? text.toLowerCase().indexOf(query.toLowerCase()) : -1;
  return at < 0 ? [text] : [text.slice(0, at), make("mark", {}, text.slice(at, at + query.length)), text.slice(at + query.length)];
};

const rowOf = (entry) => {
  const date = new Date(entry.updated * 1000);
  const current = entry.id === currentId();
  const link = make(
    "a",
    { class: "tx-entry", href: `#chat/${encodeURIComponent(entry.id)}`, tabindex: entry.id === focusedId ? "0" : "-1", title: `${titleOf(entry)}\n${fullTime.format(date)}`, "aria-current": current && "page" },
    entry.character && avatar({ id: entry.character, name: entry.character, picture: entry.picture }),
    make("span", { class: "tx-entry-title" }, entry.incognito && icon("incognito"), ...marked(titleOf(entry))),
    entry.running && make("span", { class: "tx-entry-running" }, make("span", { class: "tx-unseen" }, tr("answering"))),
    entry.problem && make("span", { class: "tx-entry-problem", title: entry.problem }, "!"),
    make("time", { datetime: date.toISOString() }, shortTime(date)),
    query && entry.snippet && make("span", { class: "tx-entry-snippet" }, ...marked(entry.snippet)),
  );
  const more = make("button", { type: "button", class: "tx-entry-more", tabindex: "-1", "aria-haspopup": "menu", "aria-label": tr("more_for", { title: titleOf(entry) }) }, icon("more"));
  return make("li", { "data-id": entry.id }, link, more);
};

const drawRows = (until) => {
  for (const entry of listed.slice(drawn, until)) {
    const title = query ? tr("group_found") : groupOf(entry);
    if (list.lastElementChild?.dataset.group !== title) {
      list.append(make("section", { "data-group": title }, make("h2", {}, title), make("ul", { role: "list" })));
    }
    list.lastElementChild.lastElementChild.append(rowOf(entry));
  }
  drawn = Math.min(until, listed.length);
};

const draw = () => {
  if (renaming) return;
  const focused = list.contains(document.activeElement);
  const scrolled = element.scrollTop;
  if (!entryOf(focusedId)) focusedId = (entryOf(currentId()) ?? listed[0])?.id ?? "";
  const until = Math.max(DRAWN_AT_ONCE, listed.findIndex(({ id }) => id === focusedId) + 1, drawn);
  list.replaceChildren();
  drawn = 0;
  drawRows(until);
  element.scrollTop = scrolled;
  if (focused) linkOf(focusedId)?.focus({ preventScroll: true });
};

element.addEventListener("scroll", () => {
  if (drawn < listed.length && element.scrollTop + element.clientHeight > element.scrollHeight - 600) drawRows(drawn + DRAWN_AT_ONCE);
}, { passive: true });

const rowById = (id) => list.querySelector(`li[data-id="${CSS.escape(id)}"]`);
const linkOf = (id) => rowById(id)?.querySelector(".tx-entry");

// -- what the server has ------------------------------------------------------------------------------------------------

const changed = new EventTarget();
/** Call `action` whenever the list has been read again. */
export const onList = (action) => changed.addEventListener("list", action);

/** Read the list from the server and draw it. Returns whether the server keeps conversations at all. */
export async function refresh() {
  const number = ++asked;
  try {
    const answer = await get(`/chat/list?q=${encodeURIComponent(query)}`);
    if (number !== asked) return true;
    listed = answer.conversations;
    version = answer.version;
    binned = answer.bin;
    kept = answer.kept !== false;
    const absent = listed.length ? "" : query ? tr("nothing_found") : tr("no_conversations");
    note.textContent = [absent, answer.kept === false && tr("not_kept")].filter(Boolean).join(" ");
  } catch (error) {
    if (error.status === 404) return false;
    if (number !== asked) return true;
    listed = [];
    note.textContent = error.message;
  }
  draw();
  changed.dispatchEvent(new Event("list"));
  return true;
}

/** Show the conversations whose title or messages contain `text`; all of them if it is empty. */
export function search(text) {
  if (text === query) return;
  query = text;
  drawn = 0;
  element.scrollTop = 0;
  refresh();
}

let waiting = 0;
events.addEventListener("list", ({ detail }) => {
  clearTimeout(waiting);
  if (detail?.version === undefined || detail.version !== version || !detail.running) {
    waiting = setTimeout(refresh, 200);
    return;
  }
  // Nothing but which answers are being written has changed, or this is the first event of another stream.
  const running = new Set(detail.running);
  if (listed.every((entry) => entry.running === running.has(entry.id))) return;
  for (const entry of listed) entry.running = running.has(entry.id);
  draw();
});
events.addEventListener("open", () => {
  focusedId = currentId() || focusedId;
  for (const link of list.querySelectorAll("[aria-current]")) link.removeAttribute("aria-current");
  linkOf(currentId())?.setAttribute("aria-current", "page");
});

// -- actions ------------------------------------------------------------------------------------------------------------

/** Return the address of an action on a conversation. */
export const route = (id, action) => `/chat/${encodeURIComponent(id)}/${action}`;

/** Send a request; show a failure as a toast. Returns what the server answered, null if the request failed. */
export const attempt = (request) =>
  request.catch((error) => {
    toast(error.message);
    return null;
  });

/** Return an input that asks for a new title. `done` is called once, with the title if it is to be changed. */
export function titleField(title, done) {
  const field = make("input", { class: "tx-title-field", type: "text", maxlength: "200", value: title, "aria-label": tr("title") });
  let open = true;
  const finish = (value) => {
    if (!open) return;
    open = false;
    done(value.trim() && value.trim() !== title ? value.trim() : "");
  };
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.isComposing) return;
    if (event.key === "Enter") finish(field.value);
    if (event.key === "Escape") finish("");
  });
  field.addEventListener("blur", () => finish(field.value));
  return field;
}

/** Give a conversation another title, everywhere where it is shown. */
export async function rename(id, title) {
  const entry = entryOf(id);
  if (entry) entry.title = title;
  draw();
  changed.dispatchEvent(new Event("list"));
  if (!(await attempt(post(route(id, "rename"), { title })))) refresh();
}

const startRenaming = (id) => {
  const row = rowById(id);
  if (!row) return;
  renaming = true;
  const field = titleField(entryOf(id).title, (title) => {
    renaming = false;
    if (title) rename(id, title);
    else draw();
    linkOf(id)?.focus();
  });
  row.replaceChildren(field);
  field.focus();
  field.select();
};

const restore = async (entry, wasOpen) => {
  if (!(await attempt(post(route(entry.id, "restore"))))) return;
  await refresh();
  if (wasOpen) open(entry.id);
  linkOf(entry.id)?.focus();
};

const removing = new Set();

async function remove(id) {
  if (removing.has(id)) return;
  removing.add(id);
  await removeOnce(id);
  removing.delete(id);
}

async function removeOnce(id) {
  const at = listed.findIndex((entry) => entry.id === id);
  const entry = listed[at];
  const wasOpen = id === currentId(); // once it is deleted, the server has the page leave it
  if (!entry || !(await attempt(post(route(id, "delete"))))) return;
  const hadFocus = list.contains(document.activeElement) || document.activeElement === document.body;
  listed = listed.filter((other) => other !== entry);
  focusedId = (listed[at] ?? listed[at - 1])?.id ?? "";
  draw();
  if (hadFocus) linkOf(focusedId)?.focus();
  if (wasOpen && currentId() === id) open("");
  if (entry.incognito) return toast(tr("deleted_for_good", { title: titleOf(entry) }));
  toast(tr("deleted", { title: titleOf(entry) }), { label: tr("undo"), action: () => restore(entry, wasOpen), seconds: UNDO_SECONDS });
}

const pin = async (entry) => {
  if (await attempt(post(route(entry.id, "pin"), { pinned: !entry.pinned }))) refresh();
};

const exported = (id, format) => `${route(id, "export")}?format=${format}&lang=${language}`;

const showMenu = (row) => {
  const { id } = row.dataset;
  const entry = entryOf(id);
  openMenu(row.querySelector(".tx-entry-more"), titleOf(entry), [
    { label: tr("rename"), key: "F2", action: () => startRenaming(id) },
    { label: entry.pinned ? tr("unpin") : tr("pin"), action: () => pin(entry) },
    { label: tr("export_json"), href: exported(id, "json") },
    { label: tr("export_markdown"), href: exported(id, "md") },
    { label: tr("export_original"), href: exported(id, "original") },
    { label: tr("export_openwebui"), href: exported(id, "openwebui") },
    { label: tr("export_openai"), href: exported(id, "openai") },
    { label: tr("delete"), key: "Delete", danger: true, action: () => remove(id) },
  ]);
};

/** Import files that the user picks: those of this program and of others. */
export function importFiles() {
  const picker = make("input", { type: "file", multiple: true, accept: ".json,.jsonl,.zip" });
  picker.addEventListener("change", async () => {
    const failures = []; // told at last: of many toasts only the newest are shown
    for (const file of picker.files) {
      try {
        const answer = await upload("/chat/import", file);
        const problems = answer.problems.map(String).slice(0, 3).join(" ");
        toast([tr("imported", { count: answer.ids.length, file: file.name }), problems].join(" ").trim());
      } catch (error) {
        failures.push(error.message);
      }
    }
    if (failures.length) toast(failures.join(" "));
    refresh();
  });
  picker.click();
}

// -- pointer and keyboard -----------------------------------------------------------------------------------------------

list.addEventListener("click", (event) => {
  const row = event.target.closest("li");
  if (row && event.target.closest(".tx-entry-more")) showMenu(row);
});
list.addEventListener("contextmenu", (event) => {
  const row = event.target.closest("li");
  if (!row || renaming) return;
  event.preventDefault();
  showMenu(row);
});
list.addEventListener("focusin", (event) => {
  const { id } = event.target.closest("li")?.dataset ?? {};
  if (!id || id === focusedId) return;
  linkOf(focusedId)?.setAttribute("tabindex", "-1");
  focusedId = id;
  linkOf(id)?.setAttribute("tabindex", "0");
});

/** Move the focus into the list, to the entry that had it last. */
export const focusList = () => linkOf(focusedId)?.focus();

const STEPS = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };

list.addEventListener("keydown", (event) => {
  const row = event.target.closest("li");
  if (!row || renaming || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
  const { id } = row.dataset;
  const step = STEPS[event.key];
  if (step) {
    const at = listed.findIndex((entry) => entry.id === id);
    const to = Math.max(0, Math.min(at + step, listed.length - 1));
    if (to >= drawn) drawRows(to + DRAWN_AT_ONCE);
    linkOf(listed[to].id)?.focus();
  } else if (event.key === "F2") startRenaming(id);
  else if (event.key === "Delete") event.repeat || remove(id); // held down, it would delete all that follow, too
  else if (event.key === "ArrowRight") row.querySelector(".tx-entry-more").focus();
  else if (event.key === "ArrowLeft") linkOf(id).focus();
  else return;
  event.preventDefault();
  event.stopPropagation();
});
