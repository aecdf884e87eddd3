// The Characters page: which of its views is shown, by the address after #characters/.
import * as editor from "./character_editor.js";
import * as gallery from "./character_gallery.js";
import { make } from "./dom.js";
import * as personas from "./personas.js";
import { register } from "./shortcuts.js";
import { tr } from "./texts.js";
import { askAboutChanges } from "./unsaved.js";

const PERSONAS = "@personas"; // no address of a character: there, @ is written %40
const NEW = "@new";

const tab = (address, label) => make("a", { href: address ? `#characters/${address}` : "#characters", "data-view": address }, label);
const tabs = make("nav", { class: "tx-ch-tabs", "aria-label": tr("ch_views") }, tab("", tr("characters")), tab(PERSONAS, tr("ch_personas")));
const view = make("div", { class: "tx-ch-view" });
const element = make("div", { id: "tx-characters" }, tabs, view);

let shown = null; // the address of the view, null before the first one
let wasElsewhere = true;

const addressNow = () => {
  const [at, ...rest] = location.hash.slice(1).split("/");
  return at === "characters" ? rest.join("/") : null;
};

const hashOf = (address) => (address ? `#characters/${address}` : "#characters");

const decoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // an address that somebody has shortened
  }
};

/** Return whether another view may replace the editor, after asking about changes that are not saved. */
async function mayLeave() {
  if (!editor.isDirty()) return true;
  const answer = await askAboutChanges(editor.name());
  if (answer === "save") return editor.save();
  return answer === "discard";
}

async function show(address) {
  shown = address;
  const isEditor = address !== "" && address !== PERSONAS;
  tabs.hidden = isEditor;
  for (const link of tabs.children) {
    if (link.dataset.view === address) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!isEditor) editor.close();
  if (address === "") view.replaceChildren(gallery.element);
  else if (address === PERSONAS) view.replaceChildren(personas.element);
  else view.replaceChildren(editor.element);
  if (address === "") {
    await gallery.refresh();
    tabs.hidden = !gallery.isOwners(); // guests have no personas
  } else if (address === PERSONAS) await personas.refresh();
  else await editor.open(address === NEW ? "" : decoded(address));
}

async function route() {
  const address = addressNow();
  if (address === null) {
    wasElsewhere = true;
    return;
  }
  const arrives = wasElsewhere;
  wasElsewhere = false;
  if (address === shown) {
    if (address === "") gallery.refresh();
    else if (address === PERSONAS) personas.refresh();
    return;
  }
  if (shown !== null && editor.isDirty()) {
    history.replaceState(null, "", hashOf(shown)); // back from another page, to what has not been saved
    if (arrives || !(await mayLeave())) return;
    editor.close();
    history.pushState(null, "", hashOf(address));
  }
  await show(address);
}

editor.onSaved((id) => {
  shown = encodeURIComponent(id);
  history.replaceState(null, "", hashOf(shown));
});

register("Ctrl+S", tr("ch_key_save"), () => {
  if (addressNow() === null || !element.contains(editor.element)) return false;
  editor.save();
}, { at: "characters" });

const place = () => {
  const root = document.querySelector("#tx-characters-root [data-characters]");
  if (root && element.parentElement !== root) root.append(element);
};
new MutationObserver(place).observe(document.documentElement, { subtree: true, childList: true });
place();
addEventListener("hashchange", route);
route();
