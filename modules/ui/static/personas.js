// The personas: who the user is in a conversation.
import { avatar } from "./avatar.js";
import { binOf } from "./character_bin.js";
import { get, post } from "./chat_client.js";
import { attempt } from "./conversation_list.js";
import { make, single } from "./dom.js";
import { icon } from "./icons.js";
import { toast } from "./popups.js";
import { tr } from "./texts.js";
import { askAboutChanges, guard } from "./unsaved.js";

const UNDO_SECONDS = 10;

const list = make("ul", { class: "tx-persona-list", role: "list" });
const note = make("p", { class: "tx-ch-note" }, tr("persona_hint"));
const add = make("button", { type: "button", class: "tx-button tx-primary", click: () => edit({ id: "", name: "", bio: "" }) }, icon("plus"), make("span", {}, tr("persona_new")));
const bin = binOf("personas", () => refresh());
export const element = make("section", { class: "tx-personas", "aria-label": tr("ch_personas") }, make("div", { class: "tx-ch-bar" }, note, add), list, bin.button);

let isOwner = true;

const rowOf = (persona) => {
  const { name, bio, problem } = persona;
  const about = make("span", { class: "tx-ch-about" }, make("strong", {}, name), make("span", { class: problem ? "tx-ch-line tx-ch-problem" : "tx-ch-line" }, problem ? tr("ch_broken", { problem }) : bio));
  const actions = isOwner && make(
    "div",
    { class: "tx-ch-actions" },
    !problem && make("button", { type: "button", class: "tx-button", "aria-label": tr("persona_edit", { name }), click: () => edit(persona) }, tr("ch_edit")),
    make("button", { type: "button", class: "tx-act", "aria-label": tr("persona_delete", { name }), title: tr("persona_delete", { name }), click: single(() => remove(persona)) }, icon("bin")),
  );
  return make("li", { class: "tx-persona", "data-id": persona.id }, avatar({ name }), about, actions);
};

/** Read the personas from the server and draw them. */
export async function refresh() {
  const answer = await attempt(get("/personas/list"));
  if (!answer) return;
  isOwner = answer.owner;
  add.hidden = !isOwner;
  note.textContent = tr(isOwner ? "persona_hint" : "persona_guest");
  bin.update(isOwner ? answer.bin : 0);
  list.replaceChildren(...answer.personas.map(rowOf));
}

async function remove({ id, name }) {
  if (!(await attempt(post(`/personas/${encodeURIComponent(id)}/delete`)))) return;
  const restore = async () => {
    if (await attempt(post(`/personas/${encodeURIComponent(id)}/restore`))) refresh();
  };
  toast(tr("ch_deleted", { name }), { label: tr("undo"), action: restore, seconds: UNDO_SECONDS });
  await refresh();
  (list.querySelector("button") ?? add).focus();
}

function edit(persona) {
  const nameField = make("input", { type: "text", class: "tx-field", id: "tx-persona-name", value: persona.name, maxlength: "200", required: true, autocomplete: "off" });
  const bio = make("textarea", { class: "tx-field", id: "tx-persona-bio", rows: "6", maxlength: "2000000" });
  bio.value = persona.bio;
  const isDirty = () => nameField.value !== persona.name || bio.value !== persona.bio;
  const unguard = guard(isDirty);
  const save = single(async () => {
    if (!nameField.reportValidity()) return;
    const sent = { id: persona.id, name: nameField.value, bio: bio.value };
    const saved = await attempt(post("/personas/save", sent));
    if (!saved) return;
    persona = { ...sent, id: saved.id };
    if (isDirty()) return refresh(); // something was typed meanwhile
    dialog.close();
    await refresh();
    list.querySelector(`[data-id="${CSS.escape(saved.id)}"] button`)?.focus();
  });
  const leave = async () => {
    const answer = isDirty() ? await askAboutChanges(nameField.value || tr("persona_new")) : "discard";
    if (answer === "save") await save();
    else if (answer === "discard") dialog.close();
  };
  const dialog = make(
    "dialog",
    { class: "tx-dialog tx-persona-dialog", "aria-labelledby": "tx-persona-title" },
    make("h2", { id: "tx-persona-title" }, persona.id ? tr("persona_edit", { name: persona.name }) : tr("persona_new")),
    make(
      "form",
      { submit: (event) => { event.preventDefault(); save(); } },
      make("div", { class: "tx-form-row" }, make("label", { for: "tx-persona-name" }, tr("ch_name")), nameField),
      make("div", { class: "tx-form-row" }, make("label", { for: "tx-persona-bio" }, tr("persona_bio")), make("p", { class: "tx-hint" }, tr("persona_bio_hint")), bio),
      make("div", { class: "tx-dialog-buttons" }, make("span", { class: "tx-gap" }), make("button", { type: "button", class: "tx-button", click: leave }, tr("ch_cancel")), make("button", { type: "submit", class: "tx-button tx-primary" }, tr("ch_save"))),
    ),
  );
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    leave();
  });
  dialog.addEventListener("close", () => {
    unguard();
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  nameField.focus();
}
