// The button that says who speaks in the open conversation, and the panel that changes it: mode, character and persona.
import { avatar } from "./avatar.js";
import { currentId, events, get, open } from "./chat_client.js";
import { begin } from "./composer.js";
import { make, rendered } from "./dom.js";
import { icon } from "./icons.js";
import { focusInput, report } from "./message_box.js";
import { choices, choose } from "./new_chat.js";
import { openPanel, placeAt } from "./popups.js";
import { register } from "./shortcuts.js";
import { tr } from "./texts.js";
import { change, conversation } from "./transcript.js";

const MODES = [
  { id: "instruct", about: tr("mode_instruct") },
  { id: "chat-instruct", about: tr("mode_chat_instruct") },
  { id: "chat", about: tr("mode_chat") },
];

const button = make("button", { id: "tx-setup", type: "button", class: "tx-chip", "aria-haspopup": "dialog" });
export const element = button;

let panel = null;
let anchor = button; // beside which the panel is
let characters = [];
let personas = [];
let isOwner = true; // guests have no personas

// -- what holds now -------------------------------------------------------------------------------------------------------

/** Return mode, character and persona of the open conversation, or of the one that would be created now. */
function current() {
  if (currentId()) return { mode: "instruct", character: null, persona: null, ...conversation() };
  const { mode = "instruct", character = "" } = document.querySelector("[data-chat]")?.dataset ?? {};
  const persona = personas.find(({ id }) => id === choices().persona) ?? null;
  return { mode: choices().mode ?? mode, character: character ? { id: character, name: character, picture: "" } : null, persona };
}

const isLocked = () => conversation().order.some((id) => conversation().messages[id].role === "user");

const nameOf = ({ mode, character }) => (mode === "instruct" || !character ? mode : character.name);

function show() {
  const now = current();
  const character = now.mode === "instruct" ? null : now.character;
  const label = character ? tr("setup_of", { character: character.name, mode: now.mode }) : tr("setup_none", { mode: now.mode });
  button.setAttribute("aria-label", label);
  button.title = label;
  button.replaceChildren(character ? avatar(character) : icon("characters"), make("span", {}, nameOf(now)), icon("down"));
  if (panel) draw();
}

// -- changes --------------------------------------------------------------------------------------------------------------

/** Change the conversation, or what it will be created with. A character is there from the first message on. */
async function apply(values) {
  if (currentId()) {
    if (!(await change("setup", values))) show(); // refused: the panel shows what holds
  } else if ("character" in values) {
    if (values.character) await begin(values);
  } else {
    choose(values);
    show();
  }
}

const pickCharacter = async (id) => {
  panel?.hidePopover();
  await apply({ character: id });
  focusInput();
};

function newChat() {
  open("");
  panel.querySelector("[type=search], button.tx-person")?.focus();
}

// -- the panel ------------------------------------------------------------------------------------------------------------

const modeRow = ({ id, about }) => {
  const radio = make("input", { type: "radio", name: "tx-mode", value: id, checked: current().mode === id, "aria-labelledby": `tx-mode-${id}`, "aria-describedby": `tx-mode-about-${id}`, change: () => apply({ mode: id }) });
  return make("label", { class: "tx-choice" }, radio, make("span", {}, make("b", { id: `tx-mode-${id}` }, id), make("small", { id: `tx-mode-about-${id}` }, about)));
};

const characterRow = (one) => {
  const isCurrent = (current().character?.id ?? "") === one.id;
  return make(
    "button",
    { type: "button", class: "tx-person", "data-id": one.id, title: one.problem || one.name, disabled: Boolean(one.problem), "aria-pressed": String(isCurrent), click: () => pickCharacter(one.id) },
    one.id ? avatar(one) : make("span", { class: "tx-avatar tx-nobody", "aria-hidden": "true" }),
    make("span", {}, one.name),
  );
};

function characterList() {
  const list = make("div", { class: "tx-persons", role: "group", "aria-label": tr("character") });
  const search = make("input", { type: "search", placeholder: tr("search_characters"), "aria-label": tr("search_characters"), autocomplete: "off", spellcheck: "false" });
  const fill = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = characters.filter(({ name }) => name.toLowerCase().includes(wanted));
    list.replaceChildren(...(wanted ? found : [{ id: "", name: tr("no_character") }, ...found]).slice(0, 200).map(characterRow));
    if (!list.children.length) list.append(make("p", {}, tr("nothing_found")));
  };
  search.addEventListener("input", (event) => event.isComposing || fill());
  search.addEventListener("compositionend", fill);
  fill();
  return [characters.length > 5 ? search : null, characters.length ? list : make("p", {}, tr("no_characters"))];
}

/** Return why the character stays, with the way to another one. */
const lockedCharacter = () => [
  make("div", { class: "tx-person", "aria-current": "true" }, current().character ? avatar(current().character) : "", make("span", {}, current().character?.name ?? tr("no_character"))),
  make("p", {}, tr("character_locked")),
  make("button", { type: "button", class: "tx-button", click: newChat }, tr("other_character")),
];

function personaField() {
  const now = current().persona?.id ?? "";
  const options = [{ id: "", name: tr("no_persona") }, ...personas];
  const select = make("select", { id: "tx-persona", change: (event) => apply({ persona: event.target.value }) });
  select.append(...options.map(({ id, name }) => make("option", { value: id, selected: id === now }, name)));
  return select;
}

/** Return what is wrong with the character of the conversation, if anything is. */
function characterProblem() {
  const { missing, problem } = current().character ?? {};
  if (problem) return rendered(problem, "tx-problem");
  return missing ? make("p", {}, tr("character_missing")) : "";
}

function draw() {
  const focused = panel.contains(document.activeElement) ? document.activeElement : null;
  if (focused?.type === "search") return; // a character is being looked for
  const scrolled = panel.querySelector(".tx-persons")?.scrollTop ?? 0;
  const section = (title, ...children) => make("section", {}, make("h3", {}, title), ...children);
  const modes = make("fieldset", {}, make("legend", {}, tr("mode")), ...MODES.map(modeRow));
  panel.replaceChildren(
    modes,
    section(tr("character"), characterProblem(), ...(isLocked() ? lockedCharacter() : characterList())),
    ...(isOwner ? [make("section", {}, make("h3", {}, make("label", { for: "tx-persona" }, tr("persona"))), personaField())] : []),
    make("a", { class: "tx-panel-link", href: "#characters", click: () => panel.hidePopover() }, tr("open_characters")),
  );
  const list = panel.querySelector(".tx-persons");
  if (list) list.scrollTop = scrolled;
  if (focused?.name === "tx-mode") panel.querySelector("input[name=tx-mode]:checked")?.focus();
  else if (focused?.id === "tx-persona") panel.querySelector("#tx-persona").focus();
  placeAt(panel, anchor, false);
}

const moveFocus = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || event.isComposing || !event.target.closest(".tx-persons, [type=search]")) return;
  event.preventDefault();
  const stops = [...panel.querySelectorAll("[type=search], button.tx-person:not(:disabled)")];
  stops.at((stops.indexOf(document.activeElement) + step) % stops.length).focus();
};

async function refresh() {
  try {
    [characters, personas, isOwner] = await Promise.all([get("/characters/list"), get("/personas/list")]).then(([a, b]) => [a.characters, b.personas, b.owner]);
  } catch (error) {
    report(error.message);
  }
  if (panel) draw();
}

/** Open the panel beside `from`. */
export const openSetup = (from) => {
  if (panel) return;
  anchor = from;
  panel = openPanel(anchor, { id: "tx-setup-panel", "aria-label": tr("chat_setup") }, [], () => { panel = null; });
  panel.addEventListener("keydown", moveFocus);
  draw();
  panel.querySelector("input[name=tx-mode]:checked")?.focus();
  refresh();
};

button.addEventListener("click", () => openSetup(button));
for (const name of ["shown", "open", "placed"]) events.addEventListener(name, show);
register("Alt+C", tr("chat_setup"), () => openSetup(button), { at: "chat" });
show();
