// Names for screen readers that Gradio has in English alone.
import { tr } from "./texts.js";

const FOUND = "[aria-label^='number input for '], [aria-label^='range slider for '], [aria-label='Reset to default value'], img[alt$=' icon']";

const nameOf = (name) =>
  name
    .replace(/^number input for (.*)$/s, (all, option) => option)
    .replace(/^range slider for (.*)$/s, (all, option) => tr("slider_of", { option }))
    .replace(/^Reset to default value$/, () => tr("reset"));

const rename = (root) => {
  for (const element of root.querySelectorAll(FOUND)) {
    if (element.tagName === "IMG") element.alt = ""; // the text beside it says the same
    else element.ariaLabel = nameOf(element.ariaLabel);
    if (element.title) element.title = element.ariaLabel ?? "";
  }
};

let waiting = false;

/** Rename what Gradio has drawn in `root`, and what it will draw there outside of the chat. */
export function renameIn(root) {
  rename(root);
  new MutationObserver((changes) => {
    if (waiting || changes.every(({ target }) => target.closest("#tx-page-chat"))) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      rename(root);
    }, 100);
  }).observe(root, { subtree: true, childList: true });
}
