// The Chat page: puts the transcript and the composer into Gradio's page, wherever Gradio has drawn their place.
import { events } from "./chat_client.js";
import * as setup from "./chat_setup.js";
import * as composer from "./composer.js";
import * as menu from "./composer_menu.js";
import "./system_message.js";
import * as templateVariables from "./template_variables.js";
import * as transcript from "./transcript.js";

composer.addControls(menu.element, setup.element, templateVariables.element);

const parts = document.createElement("div");
parts.id = "tx-chat";
parts.append(transcript.element, composer.element);

const place = () => {
  const root = document.querySelector("#tx-chat-root [data-chat]");
  if (!root || parts.parentElement === root) return;
  root.append(parts);
  events.dispatchEvent(new CustomEvent("placed")); // its data say what new conversations begin with
};
new MutationObserver(place).observe(document.documentElement, { subtree: true, childList: true });
place();
