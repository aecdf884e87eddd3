// What happens to changes that have not been saved when something else is to be shown.
import { make } from "./dom.js";
import { tr } from "./texts.js";

const guards = new Set();

/** Have the browser ask before the page is left while `isDirty` returns true. Returns a function that ends that. */
export function guard(isDirty) {
  guards.add(isDirty);
  return () => guards.delete(isDirty);
}

addEventListener("beforeunload", (event) => {
  if ([...guards].some((isDirty) => isDirty())) event.preventDefault();
});

/** Ask what to do with unsaved changes of `name`: resolves to "save", "discard", or "" to stay. */
export function askAboutChanges(name) {
  return new Promise((resolve) => {
    let answer = "";
    const button = (value, label, className = "tx-button") =>
      make("button", { type: "button", class: className, click: () => { answer = value; dialog.close(); } }, label);
    const dialog = make(
      "dialog",
      { class: "tx-dialog", "aria-labelledby": "tx-unsaved-title" },
      make("h2", { id: "tx-unsaved-title" }, tr("unsaved_title")),
      make("p", {}, tr("unsaved_text", { name })),
      make("div", { class: "tx-dialog-buttons" }, button("discard", tr("unsaved_discard"), "tx-button tx-danger"), make("span", { class: "tx-gap" }), button("", tr("unsaved_stay")), button("save", tr("ch_save"), "tx-button tx-primary")),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector(".tx-primary").focus();
  });
}
