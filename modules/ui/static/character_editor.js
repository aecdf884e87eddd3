// The editor of a character. Changes are kept until they are saved or discarded.
import { avatar } from "./avatar.js";
import { exportItems, remove, route, startChat } from "./character_gallery.js";
import { asPng } from "./character_pictures.js";
import { lorebookEditor } from "./character_lorebook.js";
import { get, post, upload } from "./chat_client.js";
import { attempt } from "./conversation_list.js";
import { make } from "./dom.js";
import { icon } from "./icons.js";
import { announce, openMenu, toast } from "./popups.js";
import { tr } from "./texts.js";
import { guard } from "./unsaved.js";

const NOTHING = { id: "", version: null, name: "", context: "", greetings: [""], examples: "", system_prompt: "", post_history: "", user_name: "", creator_notes: "", lorebook: [], picture: "", owner: true };

export const element = make("section", { class: "tx-ch-editor", "aria-label": tr("ch_editor") });

let form = null; // what is open: the character, how to read its fields, what they were; null if nothing is
let opening = 0;
const listeners = [];

/** Call `action` with the id of each character that is saved. */
export const onSaved = (action) => listeners.push(action);

/** Return the name of the open character. */
export const name = () => form?.read().name.trim() || form?.character.name || tr("ch_new_title");

const stateOf = () => JSON.stringify(form.read());

/** Return whether there are changes that have not been saved. */
export const isDirty = () => form !== null && (form.picture !== null || stateOf() !== form.baseline);
guard(isDirty);

/** Close the editor; changes that are not saved are discarded. */
export function close() {
  opening += 1;
  form = null;
  element.replaceChildren();
}

/** Show the character with that id, or an empty form for "". */
export async function open(id) {
  const number = ++opening;
  form = null;
  element.replaceChildren();
  const character = id ? await attempt(get(route(id, "form"))) : NOTHING;
  if (number !== opening) return;
  if (!character) element.append(back(), make("p", { class: "tx-ch-note" }, tr("ch_gone")));
  else draw(character);
}

// -- the form -----------------------------------------------------------------------------------------------------------

const back = () => make("a", { class: "tx-ch-back", href: "#characters" }, icon("previous"), make("span", {}, tr("ch_back")));

const row = (key, label, hint, control) => {
  control.id = `tx-ch-${key}`;
  if (hint) control.setAttribute("aria-describedby", `tx-ch-${key}-hint`);
  return make("div", { class: "tx-form-row" }, make("label", { for: control.id }, label), hint && make("p", { class: "tx-hint", id: `tx-ch-${key}-hint` }, hint), control);
};

const area = (value, rows) => {
  const field = make("textarea", { class: "tx-field", rows: String(rows), maxlength: "2000000" });
  field.value = value;
  return field;
};

const line = (value, attributes = {}) => make("input", { type: "text", class: "tx-field", value, maxlength: "200", autocomplete: "off", ...attributes });

const greetingsEditor = (greetings, changed) => {
  const list = make("div", { class: "tx-greetings" });
  const renumber = () => [...list.children].forEach((item, index) => {
    item.querySelector("label").textContent = index ? tr("ch_alternative", { number: index }) : tr("ch_greeting");
    item.querySelector("button").hidden = index === 0;
    item.querySelector("p").hidden = index !== 0;
    item.querySelector("button").setAttribute("aria-label", tr("ch_remove_alternative", { number: index }));
  });
  let numbered = 0;
  const add = (text) => {
    const field = area(text, 3);
    field.id = `tx-ch-greeting-${++numbered}`;
    const button = make("button", { type: "button", class: "tx-act", click: () => { item.remove(); renumber(); changed(); list.lastElementChild.querySelector("textarea").focus(); } }, icon("close"));
    const item = make("div", { class: "tx-form-row" }, make("div", { class: "tx-row-head" }, make("label", { for: field.id }), button), make("p", { class: "tx-hint" }, tr("ch_greeting_hint")), field);
    list.append(item);
    renumber();
    return field;
  };
  for (const greeting of greetings.length ? greetings : [""]) add(greeting);
  const more = make("button", { type: "button", class: "tx-button", click: () => { add("").focus(); changed(); } }, icon("plus"), make("span", {}, tr("ch_add_alternative")));
  return { element: make("div", {}, list, more), read: () => [...list.querySelectorAll("textarea")].map((field) => field.value).filter((text) => text.trim()) };
};

const fold = (label, hint, isOpen, ...children) => make("details", { class: "tx-ch-fold", open: isOpen }, make("summary", {}, icon("next"), make("span", {}, label), hint && make("small", {}, hint)), ...children);

function draw(character) {
  const { owner } = character;
  const fields = {
    name: line(character.name, { required: true }),
    user_name: line(character.user_name),
    context: area(character.context, 8),
    examples: area(character.examples, 4),
    system_prompt: area(character.system_prompt, 3),
    post_history: area(character.post_history, 3),
  };
  const changed = () => element.dispatchEvent(new Event("input"));
  const greetings = greetingsEditor(character.greetings, changed);
  const lorebook = lorebookEditor(character.lorebook, changed);
  const status = make("span", { class: "tx-ch-status", role: "status" });
  const more = make("button", { type: "button", class: "tx-act", "aria-haspopup": "menu", "aria-label": tr("more_for", { title: character.name }), title: tr("more_for", { title: character.name }), click: () => showMenu(more) }, icon("more"));
  const read = () => ({
    id: opened.character.id,
    ...Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, field.value])),
    greetings: greetings.read(),
    lorebook: lorebook.read(),
  });
  const opened = { character, read, picture: null, version: character.version, status, owner };
  form = opened;
  form.baseline = stateOf();
  const body = make(
    "fieldset",
    { class: "tx-ch-fields", disabled: !owner },
    make("legend", { class: "tx-unseen" }, tr("ch_editor")),
    row("name", tr("ch_name"), "", fields.name),
    row("context", tr("ch_context"), tr("ch_context_hint"), fields.context),
    greetings.element,
    fold(tr("ch_examples"), "", Boolean(character.examples), row("examples", tr("ch_examples_label"), tr("ch_examples_hint"), fields.examples)),
    fold(
      tr("ch_advanced"),
      "",
      Boolean(character.system_prompt || character.post_history || character.user_name),
      row("system", tr("ch_system"), tr("ch_system_hint"), fields.system_prompt),
      row("post", tr("ch_post"), tr("ch_post_hint"), fields.post_history),
      row("user", tr("ch_user"), tr("ch_user_hint"), fields.user_name),
    ),
    fold(tr("ch_lorebook"), character.lorebook.length ? tr("ch_entries", { count: character.lorebook.length }) : "", false, lorebook.element),
  );
  const notes = character.creator_notes && fold(tr("ch_notes"), "", false, make("p", { class: "tx-hint" }, tr("ch_notes_hint")), make("p", { class: "tx-ch-notes" }, character.creator_notes));
  element.replaceChildren(
    back(),
    make("div", { class: "tx-ch-columns" }, pictureField(character, owner), make("div", { class: "tx-ch-main" }, !owner && make("p", { class: "tx-ch-note" }, tr("ch_guest")), body, notes)),
    make(
      "div",
      { class: "tx-ch-foot" },
      status,
      character.id && more,
      make("button", { type: "button", class: "tx-button", click: chat }, icon("chat"), make("span", {}, tr("ch_chat"))),
      owner && make("button", { type: "button", class: "tx-button tx-primary", click: save }, tr("ch_save")),
    ),
  );
  showStatus();
  if (!character.id) fields.name.focus();
}

const showStatus = () => {
  if (form) form.status.textContent = isDirty() ? tr("ch_unsaved") : "";
};
element.addEventListener("input", showStatus);
element.addEventListener("change", showStatus);

// -- the picture --------------------------------------------------------------------------------------------------------

const pictureField = (character, owner) => {
  const holder = make("div", { class: "tx-ch-picture" }, avatar({ ...character, name: character.name || "?" }));
  const choose = async (file) => {
    try {
      form.picture = await asPng(file);
    } catch {
      toast(tr("ch_bad_picture", { name: file.name }));
      return;
    }
    const address = URL.createObjectURL(form.picture);
    holder.firstElementChild.replaceWith(avatar(character, address));
    showStatus();
  };
  const pick = () => {
    const picker = make("input", { type: "file", accept: "image/png,image/jpeg,image/webp" });
    picker.addEventListener("change", () => picker.files[0] && choose(picker.files[0]));
    picker.click();
  };
  if (!owner) return holder;
  holder.addEventListener("dragover", (event) => event.preventDefault());
  holder.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });
  holder.append(make("button", { type: "button", class: "tx-button", click: pick }, tr("ch_picture")));
  return holder;
};

// -- actions ------------------------------------------------------------------------------------------------------------

let saving = null;

/** Save the open character. Returns whether it was saved; a failure is shown. */
export function save() {
  saving ??= saveOnce().finally(() => {
    saving = null;
  });
  return saving;
}

async function saveOnce() {
  const open = form;
  if (!open?.owner) return false;
  const sent = open.read();
  if (!sent.name.trim()) {
    element.querySelector("#tx-ch-name").reportValidity();
    return false;
  }
  const saved = await post("/characters/save", { ...sent, version: open.version }).catch((error) => refused(error, open));
  if (!saved) return false;
  Object.assign(open, { version: saved.version, character: { ...open.character, id: saved.id, name: saved.name }, baseline: JSON.stringify({ ...sent, id: saved.id }) });
  for (const listener of listeners) listener(saved.id);
  if (open.picture && !(await attempt(upload(route(saved.id, "picture"), new File([open.picture], "picture.png"))))) return false;
  open.picture = null;
  if (form === open) {
    if (stateOf() === open.baseline) await reopen(saved.id, open);
    showStatus();
    if (form && !isDirty()) form.status.textContent = tr("ch_saved");
  }
  announce(tr("ch_saved"));
  return true;
}

/** Draw what has been saved, as the entries of the lorebook have other numbers now, without moving the reader. */
async function reopen(id, before) {
  const [active, scrolled] = [document.activeElement?.id, document.scrollingElement.scrollTop];
  const opened = [...element.querySelectorAll("details")].map((fold) => fold.open);
  const character = await attempt(get(route(id, "form")));
  if (!character || form !== before || isDirty()) return; // something was typed meanwhile
  draw(character);
  const folds = [...element.querySelectorAll("details")];
  if (folds.length === opened.length) folds.forEach((fold, index) => { fold.open = opened[index]; });
  if (active) document.getElementById(active)?.focus({ preventScroll: true });
  document.scrollingElement.scrollTop = scrolled;
}

const refused = (error, open) => {
  if (error.status === 404) {
    open.character = { ...open.character, id: "" }; // saving again creates it anew
    open.version = null;
    toast(tr("ch_deleted_meanwhile"), { seconds: 20 });
  } else if (error.status !== 409) toast(error.message);
  else {
    open.version = null; // saving again overwrites
    const id = open.character.id;
    toast(error.message, { label: tr("ch_reload"), action: () => form === open && openAgain(id), seconds: 20 });
  }
  return null;
};

const openAgain = (id) => {
  form = null;
  open(id);
};

async function chat() {
  if (isDirty() && !(await save())) return;
  if (form?.character.id) startChat(form.character.id);
  else element.querySelector("#tx-ch-name")?.reportValidity();
}

const showMenu = (button) => {
  const { id, name: title } = form.character;
  const erase = async () => {
    if (!(await remove(id, title))) return;
    close();
    location.hash = "#characters";
  };
  openMenu(button, title, [...exportItems(form.character), ...(form.owner ? [{ label: tr("delete"), danger: true, action: erase }] : [])]);
};
