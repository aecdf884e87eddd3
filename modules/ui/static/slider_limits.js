// Gradio changes a number beyond the ends of its slider without a word when the field is left: say so.
import { toast } from "./popups.js";
import { tr } from "./texts.js";

const SECONDS = 6;
let typed = { field: null, value: "" };

/** Watch the number fields of all sliders in `root`. */
export function watchLimitsIn(root) {
  root.addEventListener("input", ({ target }) => {
    if (target.matches("[data-testid=number-input]")) typed = { field: target, value: target.value };
  });
  root.addEventListener("focusout", ({ target }) => {
    if (typed.field !== target) return;
    const { value } = typed;
    typed = { field: null, value: "" };
    setTimeout(() => { // Gradio has changed it then
      if (!target.value || Number(target.value) === Number(value || NaN)) return;
      const option = target.closest(".block")?.querySelector("[data-testid=block-info]")?.textContent.trim() ?? "";
      toast(tr("slider_limited", { option, low: target.min, high: target.max, value: target.value }), { seconds: SECONDS });
      target.dispatchEvent(new Event("input", { bubbles: true })); // else the server knows the number that was typed
    });
  });
}
