// The frame of the page: which destination is shown, its title, and the drawers. Gradio's tab bar is hidden and operated
// from here, as Gradio draws a tab only once it has been selected.
import { currentId, events, open } from "./chat_client.js";
import * as conversations from "./conversation_list.js";
import "./model_menu.js";
import { make, single } from "./dom.js";
import "./effect.js";
import { renameIn } from "./names.js";
import { create } from "./new_chat.js";
import * as parameters from "./parameter_drawer.js";
import "./parameters.js";
import "./residents.js";
import "./session_card.js";
import { register } from "./shortcuts.js";
import * as sidebar from "./sidebar.js";
import { watchLimitsIn } from "./slider_limits.js";
import { tr } from "./texts.js";

const root = document.documentElement;
const product = window.gradio_config?.title ?? document.title;

// -- destinations -------------------------------------------------------------------------------------------------------

const tabButton = (id) => document.querySelector(`#tx-page-${id}-button`);

const decoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return ""; // an address that somebody has shortened
  }
};

const readAddress = () => {
  const [id, conversation = ""] = location.hash.slice(1).split("/");
  const known = sidebar.DESTINATIONS.some((destination) => destination.id === id);
  return { at: known ? id : "chat", conversation: known ? decoded(conversation) : "" };
};

let opened = false; // whether a conversation, or a new one, has been opened at all

const showDestination = () => {
  const { at, conversation } = readAddress();
  const changed = root.dataset.at !== at;
  root.dataset.at = at;
  for (const link of sidebar.element.querySelectorAll("[data-to]")) {
    if (link.dataset.to === at) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  tabButton(at)?.click();
  parameters.update();
  if (at === "chat" && location.hash === "#chat" && opened && currentId()) {
    history.replaceState(null, "", addressOf(currentId())); // back from another page, to the conversation left there
  } else if (at === "chat" && (!opened || conversation !== currentId())) {
    opened = true;
    open(conversation);
  }
  showTitle();
  if (changed && document.activeElement?.closest("#tx-tabs")) document.querySelector("#tx-main-start")?.focus();
};

const addressOf = (id) => (id ? `#chat/${encodeURIComponent(id)}` : "#chat");

const newChat = () => {
  opened = true;
  open("");
  if (location.hash !== "#chat") location.hash = "#chat";
  document.querySelector("#tx-chat-root textarea, #tx-text textarea")?.focus();
};

const newIncognito = single(async () => {
  const id = await conversations.attempt(create({ incognito: true }));
  if (!id) return;
  opened = true;
  if (readAddress().at !== "chat") history.pushState(null, "", "#chat");
  open(id);
  showDestination();
});

events.addEventListener("open", ({ detail }) => {
  if (readAddress().at === "chat" && readAddress().conversation !== detail.id) history.pushState(null, "", addressOf(detail.id));
  titles.delete("");
  showTitle();
});

// -- title --------------------------------------------------------------------------------------------------------------

const titles = new Map(); // of the open conversation, which the list has only once its first message is sent

const chatTitle = () => conversations.entryOf(currentId())?.title || titles.get(currentId()) || conversations.entryOf(currentId())?.character || tr(currentId() ? "untitled" : "new_chat");

const showTitle = () => {
  const heading = document.querySelector("#tx-title");
  if (!heading || heading.querySelector("input")) return;
  const { at } = readAddress();
  const text = at === "chat" ? chatTitle() : sidebar.DESTINATIONS.find(({ id }) => id === at).name;
  document.title = `${text} · ${product}`;
  if (heading.dataset.text === text && heading.dataset.at === at) return;
  Object.assign(heading.dataset, { text, at });
  const canRename = at === "chat" && currentId();
  heading.replaceChildren(canRename ? make("button", { type: "button", title: tr("rename"), click: startRenaming }, text) : text);
};

const startRenaming = () => {
  const heading = document.querySelector("#tx-title");
  const id = currentId();
  const field = conversations.titleField(chatTitle(), (title) => {
    field.remove();
    delete heading.dataset.text;
    if (title) conversations.rename(id, title);
    showTitle();
  });
  heading.replaceChildren(field);
  field.focus();
  field.select();
};

events.addEventListener("conversation", ({ detail }) => {
  titles.set(currentId(), detail.title ?? "");
  showTitle();
});
conversations.onList(showTitle);

// -- start --------------------------------------------------------------------------------------------------------------

sidebar.build(newChat, newIncognito);
document.body.prepend(make("a", { id: "tx-skip", href: "#tx-main-start", click: (event) => {
  event.preventDefault();
  document.querySelector("#tx-main-start")?.focus();
} }, tr("skip"))); // before the sidebar, which it skips
const listed = conversations.refresh();

document.addEventListener("click", (event) => {
  if (event.target.closest("#tx-open-menu")) sidebar.show();
});
register("Ctrl+S", tr("toggle_parameters"), () => (readAddress().at === "chat" ? parameters.toggle() : false));
addEventListener("hashchange", showDestination);

// Gradio draws its part of the page later than this script runs.
const whenDrawn = new MutationObserver(() => {
  if (!tabButton("chat") || !document.querySelector("#tx-title")) return;
  whenDrawn.disconnect();
  renameIn(document.querySelector("#tx-tabs"));
  watchLimitsIn(document.querySelector("#tx-tabs"));
  listed.then((kept) => {
    opened = !kept; // nothing to open on a server that keeps no conversations
    showDestination();
  });
});
whenDrawn.observe(document.body, { subtree: true, childList: true });
