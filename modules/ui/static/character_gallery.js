// The gallery of characters: search, import, and what can be done with each of them.
import { avatar } from "./avatar.js";
import { binOf } from "./character_bin.js";
import { asPng, exportCard } from "./character_pictures.js";
import { get, post, upload } from "./chat_client.js";
import { attempt } from "./conversation_list.js";
import { make, single } from "./dom.js";
import { icon } from "./icons.js";
import { announce, openMenu, toast } from "./popups.js";
import { language, tr } from "./texts.js";

const SEARCH_DELAY = 120;
const UNDO_SECONDS = 10;
const ACCEPTED = ".png,.json,.yaml,.yml,.jpg,.jpeg,.webp";

const list = make("ul", { class: "tx-ch-list", role: "list" });
const note = make("p", { class: "tx-ch-note", role: "status" });
const search = make("input", { type: "search", class: "tx-field", placeholder: tr("ch_search"), "aria-label": tr("ch_search"), autocomplete: "off", spellcheck: "false" });
const newLink = make("a", { class: "tx-button tx-primary", href: "#characters/@new" }, icon("plus"), make("span", {}, tr("ch_new")));
const importButton = make("button", { type: "button", class: "tx-button", click: () => pickFiles() }, icon("upload"), make("span", {}, tr("ch_import")));
const bar = make("div", { class: "tx-ch-bar" }, search, importButton, newLink);
const empty = make("div", { class: "tx-ch-empty", hidden: true });
const bin = binOf("characters", () => refresh());
export const element = make("section", { class: "tx-ch-gallery", "aria-label": tr("characters") }, bar, note, list, empty, bin.button);

let isOwner = true;
let asked = 0;

/** Return the address of an action on a character. */
export const route = (id, action) => `/characters/${encodeURIComponent(id)}/${action}`;

/** Return the address of the editor. */
const editorOf = (id) => `#characters/${encodeURIComponent(id)}`;

/** Begin a conversation with a character, and open it. */
export const startChat = single(async (id) => {
  const answer = await attempt(post("/chat/new", { character: id }));
  if (answer) location.hash = `#chat/${encodeURIComponent(answer.id)}`;
});

const withNames = (text, name) => text.replace(/\{\{(char|user)\}\}/gi, (_, who) => (who.toLowerCase() === "char" ? name : tr("ch_you")));

// -- drawing ------------------------------------------------------------------------------------------------------------

const cardOf = (character) => {
  const { id, name, line, problem } = character;
  const face = [avatar(character), make("span", { class: "tx-ch-about" }, make("strong", {}, name), make("span", { class: problem ? "tx-ch-line tx-ch-problem" : "tx-ch-line" }, problem ? tr("ch_broken", { problem }) : withNames(line, name)))];
  const more = make("button", { type: "button", class: "tx-act", "aria-haspopup": "menu", "aria-label": tr("more_for", { title: name }), title: tr("more_for", { title: name }), click: () => showMenu(more, character) }, icon("more"));
  return make(
    "li",
    { class: "tx-ch-card", "data-id": id },
    problem ? make("div", { class: "tx-ch-open" }, ...face) : make("a", { class: "tx-ch-open", href: editorOf(id) }, ...face),
    make(
      "div",
      { class: "tx-ch-actions" },
      !problem && make("button", { type: "button", class: "tx-button", "aria-label": tr("ch_chat_with", { name }), click: () => startChat(id) }, icon("chat"), make("span", {}, tr("ch_chat"))),
      (isOwner || !problem) && more,
    ),
  );
};

const exported = (id, format) => `${route(id, "export")}?format=${format}&lang=${language}`;

/** Return the items of a menu that export a character. */
export const exportItems = (character) => [
  character.png ? { label: tr("ch_export_png"), href: exported(character.id, "png") } : { label: tr("ch_export_png"), action: () => exportCard(character) },
  { label: tr("ch_export_json"), href: exported(character.id, "json") },
  { label: tr("ch_export_yaml"), href: exported(character.id, "yaml") },
];

const showMenu = (button, character) => {
  const { id, name, problem } = character;
  openMenu(button, name, [
    ...(isOwner && !problem ? [{ label: tr("ch_edit"), action: () => { location.hash = editorOf(id); } }] : []),
    ...(problem ? [] : exportItems(character)),
    ...(isOwner ? [{ label: tr("delete"), danger: true, action: () => remove(id, name) }] : []),
  ]);
};

const showEmpty = () => {
  const example = make("button", { type: "button", class: "tx-button tx-primary", click: addExample }, tr("ch_add_example"));
  empty.replaceChildren(
    make("h2", {}, tr("ch_empty_title")),
    make("p", {}, tr("ch_empty_text")),
    make("p", { class: "tx-ch-formats" }, tr("ch_formats")),
    isOwner && example,
  );
};

/** Return whether the user may change characters, as the server said last. */
export const isOwners = () => isOwner;

/** Read the characters from the server and draw them. */
export async function refresh() {
  const number = ++asked;
  const query = search.value.trim();
  const answer = await attempt(get(`/characters/list?q=${encodeURIComponent(query)}`));
  if (!answer || number !== asked) return;
  isOwner = answer.owner;
  newLink.hidden = importButton.hidden = !isOwner;
  const focused = list.contains(document.activeElement) && document.activeElement.closest("[data-id]")?.dataset.id;
  list.replaceChildren(...answer.characters.map(cardOf));
  if (focused) focusCard(focused);
  const none = answer.characters.length === 0;
  empty.hidden = !none || query !== "";
  search.hidden = none && !query;
  if (!empty.hidden) showEmpty();
  bin.update(isOwner ? answer.bin : 0);
  note.textContent = none && query ? tr("nothing_found") : "";
}

const cardById = (id) => list.querySelector(`[data-id="${CSS.escape(id)}"]`);
const focusCard = (id) => cardById(id)?.querySelector("a, button")?.focus();

let searching = 0;
search.addEventListener("input", (event) => {
  if (event.isComposing) return;
  clearTimeout(searching);
  searching = setTimeout(refresh, SEARCH_DELAY);
});
search.addEventListener("compositionend", refresh);

// -- actions ------------------------------------------------------------------------------------------------------------

/** Delete a character; a toast offers to undo that. Returns whether it was deleted. */
export async function remove(id, name) {
  if (!(await attempt(post(route(id, "delete"))))) return false;
  const card = cardById(id);
  const next = (card?.nextElementSibling ?? card?.previousElementSibling)?.dataset.id;
  const restore = async () => {
    if (!(await attempt(post(route(id, "restore"))))) return;
    await refresh();
    focusCard(id);
  };
  toast(tr("ch_deleted", { name }), { label: tr("undo"), action: restore, seconds: UNDO_SECONDS });
  await refresh();
  if (next) focusCard(next);
  return true;
}

const addExample = single(async () => {
  const answer = await attempt(post("/characters/example"));
  if (!answer) return;
  await refresh();
  focusCard(answer.id);
});

const stemOf = (file) => file.name.replace(/\.[^.]*$/, "");
const isPicture = (file) => /^image\/(png|jpeg|webp)$/.test(file.type);

async function importFiles(files) {
  const names = [];
  let last = "";
  const texts = files.filter((file) => !isPicture(file));
  const stems = new Set(texts.map(stemOf)); // pictures of these belong to them, as in the folder of the characters
  for (const file of [...texts, ...files.filter((file) => isPicture(file) && !stems.has(stemOf(file)))]) {
    const answer = await attempt(upload("/characters/import", file));
    if (!answer) continue;
    const picture = texts.includes(file) && files.find((other) => isPicture(other) && stemOf(other) === stemOf(file));
    if (picture) await attempt(asPng(picture).then((png) => upload(route(answer.id, "picture"), new File([png], picture.name))));
    names.push(answer.id);
    last = answer.id;
    for (const warning of answer.warnings) toast(`${answer.id}: ${warning}`);
  }
  if (!last) return;
  search.value = "";
  await refresh();
  focusCard(last);
  const text = names.length === 1 ? tr("ch_imported", { name: names[0] }) : tr("ch_imported_many", { count: names.length });
  toast(text);
  announce(text);
}

function pickFiles() {
  const picker = make("input", { type: "file", multiple: true, accept: ACCEPTED });
  picker.addEventListener("change", () => importFiles([...picker.files]));
  picker.click();
}

const hasFiles = (event) => isOwner && event.dataTransfer?.types.includes("Files");
element.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  element.toggleAttribute("data-drop", true);
});
element.addEventListener("dragleave", (event) => {
  if (!element.contains(event.relatedTarget)) element.removeAttribute("data-drop");
});
element.addEventListener("drop", (event) => {
  element.removeAttribute("data-drop");
  if (!hasFiles(event)) return;
  event.preventDefault();
  importFiles([...event.dataTransfer.files]);
});
