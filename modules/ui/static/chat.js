// The Chat page: puts the transcript and the composer into Gradio's page, wherever Gradio has drawn their place.
import * as composer from "./composer.js";
import * as transcript from "./transcript.js";

const parts = document.createElement("div");
parts.id = "tx-chat";
parts.append(transcript.element, composer.element);

const place = () => {
  const root = document.querySelector("#tx-chat-root [data-chat]");
  if (root && parts.parentElement !== root) root.append(parts);
};
new MutationObserver(place).observe(document.documentElement, { subtree: true, childList: true });
place();
