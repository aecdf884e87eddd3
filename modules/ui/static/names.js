// Names for screen readers that Gradio has in English alone, and the states of its folds, which it does not tell them.
import { tr } from "./texts.js";

const FOUND = "[aria-label^='number input for '], [aria-label^='range slider for '], [aria-label='Reset to default value'], img[alt$=' icon']";

const nameOf = (name) =>
  name
    .replace(/^number input for (.*)$/s, (all, option) => option)
    .replace(/^range slider for (.*)$/s, (all, option) => tr("slider_of", { option }))
    .replace(/^Reset to default value$/, () => tr("reset"));

const tellState = (fold) => { fold.ariaExpanded = String(fold.classList.contains("open")); };

const rename = (root) => {
  for (const element of root.querySelectorAll(FOUND)) {
    if (element.tagName === "IMG") element.alt = ""; // the text beside it says the same
    else element.ariaLabel = nameOf(element.ariaLabel);
    if (element.title) element.title = element.ariaLabel ?? "";
  }
  for (const arrow of root.querySelectorAll(".label-wrap > .icon:not([aria-hidden])")) {
    arrow.ariaHidden = "true";
    tellState(arrow.parentElement);
  }
};

let waiting = false;

/** Rename what Gradio has drawn in `root`, and what it will draw there outside of the chat. */
export function renameIn(root) {
  rename(root);
  root.addEventListener("click", ({ target }) => {
    const fold = target.closest(".label-wrap");
    if (fold) setTimeout(() => tellState(fold)); // Gradio has opened or closed it then
  });
  new MutationObserver((changes) => {
    if (waiting || changes.every(({ target }) => target.closest("#tx-page-chat"))) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      rename(root);
    }, 100);
  }).observe(root, { subtree: true, childList: true });
}
