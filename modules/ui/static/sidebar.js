// The sidebar: new chat, search, conversations, destinations, theme and language. On a phone it is a drawer.
import { binButton } from "./bin.js";
import { make } from "./dom.js";
import * as conversations from "./conversation_list.js";
import { icon } from "./icons.js";
import { register, showSheet } from "./shortcuts.js";
import { language, tr } from "./texts.js";

const SEARCH_DELAY = 80;

/** The destinations, in their order. `id` is that of the `gr.Tab` and the beginning of the address after #. */
export const DESTINATIONS = [
  { id: "chat", name: tr("chat") },
  { id: "characters", name: tr("characters") },
  { id: "notebook", name: tr("notebook") },
  { id: "training", name: tr("training") },
  { id: "parameters", name: tr("parameters") },
  { id: "model", name: tr("model") },
  { id: "session", name: tr("session") },
];

const iconButton = (id, name, label, action, attributes = {}) =>
  make("button", { id, type: "button", class: "tx-icon-button", "aria-label": label, title: label, click: action, ...attributes }, icon(name));

// -- on a phone: a drawer that keeps the focus ----------------------------------------------------------------------------

const phone = matchMedia("(max-width: 760px), (max-height: 500px) and (max-width: 1000px)");
const root = document.documentElement;

/** Return whether the screen is so small that the sidebar and the parameters lie above the chat. */
export const isPhone = () => phone.matches;

/** Call `action` when the screen becomes small or large. */
export const onPhone = (action) => phone.addEventListener("change", action);

let opener = null;

const setDrawer = (open) => {
  root.toggleAttribute("data-menu", open);
  for (const other of document.querySelectorAll("gradio-app, #tx-skip")) other.toggleAttribute("inert", open);
  for (const button of document.querySelectorAll("#tx-open-menu")) button.setAttribute("aria-expanded", String(open));
  if (open) {
    opener = document.activeElement;
    element.querySelector("#tx-close-menu").focus();
  } else opener?.focus?.();
};

/** Show the sidebar: on a phone as a drawer. */
export function show() {
  if (isPhone()) setDrawer(true);
  else setCollapsed(false);
}

/** Close the drawer on a phone. Returns false if it was not open. */
export function closeDrawer() {
  if (!root.hasAttribute("data-menu")) return false;
  setDrawer(false);
  return true;
}

// -- on the desktop: collapsed or not, which is remembered ------------------------------------------------------------------

function setCollapsed(collapsed) {
  root.toggleAttribute("data-collapsed", collapsed);
  localStorage.setItem("tx-collapsed", collapsed ? "1" : "");
}

const toggle = () => {
  if (isPhone()) return closeDrawer() || setDrawer(true);
  setCollapsed(!root.hasAttribute("data-collapsed"));
  if (root.hasAttribute("data-collapsed")) document.querySelector("#tx-open-menu")?.focus();
  else element.querySelector("#tx-close-menu").focus();
};

// -- search -----------------------------------------------------------------------------------------------------------------

const searchField = make("input", { id: "tx-search", type: "search", placeholder: tr("search"), "aria-label": tr("search_conversations"), autocomplete: "off", spellcheck: "false" });
let searching = 0;
searchField.addEventListener("input", (event) => {
  if (event.isComposing) return;
  clearTimeout(searching);
  searching = setTimeout(() => conversations.search(searchField.value.trim()), SEARCH_DELAY);
});
searchField.addEventListener("compositionend", () => conversations.search(searchField.value.trim()));
searchField.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Escape" && searchField.value) {
    event.preventDefault();
    searchField.value = "";
    conversations.search("");
  } else if (event.key === "ArrowDown" || event.key === "Enter") {
    event.preventDefault();
    conversations.focusList();
  }
});

const focusSearch = () => {
  show();
  searchField.focus();
  searchField.select();
};

// -- the whole ----------------------------------------------------------------------------------------------------------------

const destination = ({ id, name }) => make("a", { href: `#${id}`, class: "tx-destination", "data-to": id }, icon(id), make("span", {}, name));

const otherLanguage = language === "zh" ? "en" : "zh";
const languageLink = make("a", { id: "tx-language", class: "tx-icon-button", href: `/language/${otherLanguage}`, lang: otherLanguage, hreflang: otherLanguage }, tr("other_language"));
// The address after # says which conversation is open: keep it.
languageLink.addEventListener("click", () => {
  languageLink.href = `/language/${otherLanguage}${location.hash}`;
});

export const element = make(
  "aside",
  { id: "tx-sidebar", "aria-label": tr("sidebar") },
  make(
    "div",
    { class: "tx-side-head" },
    make("a", { class: "tx-brand", href: "#chat" }, window.gradio_config?.title ?? document.title),
    iconButton("tx-close-menu", "sidebar", tr("hide_sidebar"), toggle),
  ),
  make(
    "div",
    { class: "tx-side-new" },
    make("button", { id: "tx-new-chat", type: "button", class: "tx-side-button" }, icon("plus"), make("span", {}, tr("new_chat"))),
    make("button", { id: "tx-new-incognito", type: "button", class: "tx-side-button", "aria-label": tr("incognito"), title: tr("incognito") }, icon("incognito")),
  ),
  make("search", { class: "tx-search" }, icon("search"), searchField, make("kbd", { "aria-hidden": "true" }, "Ctrl K")),
  conversations.element,
  make("button", { id: "tx-import", type: "button", class: "tx-side-button tx-quiet", click: conversations.importFiles }, icon("upload"), make("span", {}, tr("import"))),
  binButton,
  make("nav", { id: "tx-destinations", "aria-label": tr("pages") }, ...DESTINATIONS.map(destination)),
  make(
    "div",
    { class: "tx-side-foot" },
    iconButton("tx-theme", "theme", tr("theme"), null),
    iconButton("tx-show-keys", "keys", tr("shortcuts"), showSheet),
    languageLink,
  ),
);

const backdrop = make("div", { id: "tx-backdrop", click: closeDrawer });

/** Put the sidebar into the page. `newChat` is called for a new chat, `newIncognito` for one that is never stored. */
export function build(newChat, newIncognito) {
  const startChat = () => {
    newChat();
    closeDrawer();
  };
  element.querySelector("#tx-new-chat").addEventListener("click", startChat);
  const incognito = element.querySelector("#tx-new-incognito");
  incognito.addEventListener("click", () => {
    newIncognito();
    closeDrawer();
  });
  conversations.onList(() => { incognito.hidden = !conversations.isKept(); });
  element.addEventListener("click", (event) => event.target.closest("a[href^='#']") && closeDrawer());
  root.toggleAttribute("data-collapsed", Boolean(localStorage.getItem("tx-collapsed")));
  document.body.prepend(element, backdrop);
  onPhone(() => closeDrawer());
  register("Esc", "", closeDrawer, { first: true });
  register("Ctrl+K", tr("search_conversations"), focusSearch);
  register("Ctrl+Shift+O", tr("new_chat"), startChat);
  register("Ctrl+Shift+S", tr("toggle_sidebar"), toggle);
  register("F2", tr("key_rename"));
  register("Delete", tr("key_delete"));
}
