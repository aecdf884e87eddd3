// The Parameters page as a drawer beside the chat. It is Gradio's tab itself, shown by a style rule, not a copy of it.
import { isPhone, onPhone } from "./sidebar.js";
import { register } from "./shortcuts.js";
import { tr } from "./texts.js";

const root = document.documentElement;
const panel = () => document.querySelector("#tx-page-parameters");
const button = () => document.querySelector("#tx-toggle-parameters");
const tab = (id) => document.querySelector(`#tx-page-${id}-button`);

let wanted = !isPhone() && Boolean(localStorage.getItem("tx-parameters"));

/** Have Gradio draw the panel, which it does when its tab is selected for the first time. */
const drawPanel = () => {
  if (panel()?.childElementCount) return;
  tab("parameters")?.click();
  tab("chat")?.click();
};

/** Show or hide the drawer, as is wanted and the destination allows. */
export function update() {
  const open = wanted && root.dataset.at === "chat";
  if (open) drawPanel();
  root.toggleAttribute("data-parameters", open);
  button()?.setAttribute("aria-expanded", String(open));
  const sheet = open && isPhone();
  for (const other of document.querySelectorAll("#tx-page-chat, #tx-header, #tx-sidebar, #tx-skip")) other.toggleAttribute("inert", sheet);
  if (panel()) {
    panel().setAttribute("role", open ? "complementary" : "tabpanel");
    panel().setAttribute("aria-label", tr("parameters"));
  }
}

/** Open or close the drawer. On the desktop, the choice is remembered. */
export function toggle() {
  wanted = !wanted;
  if (!isPhone()) localStorage.setItem("tx-parameters", wanted ? "1" : "");
  update();
  if (wanted) setTimeout(() => document.querySelector("#tx-close-parameters")?.focus(), 50);
  else button()?.focus();
}

const close = () => {
  if (!wanted || root.dataset.at !== "chat") return false;
  if (!isPhone() && !panel()?.contains(document.activeElement)) return false; // Esc elsewhere is not meant for the drawer
  toggle();
};

document.addEventListener("click", (event) => {
  if (event.target.closest("#tx-toggle-parameters, #tx-close-parameters")) toggle();
  else if (event.target.id === "tx-backdrop") close();
});
register("Esc", tr("key_escape"), close, { first: true });
onPhone(() => {
  if (isPhone()) wanted = false;
  update();
});
