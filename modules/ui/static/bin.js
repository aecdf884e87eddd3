// The conversations that were deleted: restore one, or empty the bin.
import { get, post } from "./chat_client.js";
import { attempt, binCount, onList, refresh, route } from "./conversation_list.js";
import { make } from "./dom.js";
import { icon } from "./icons.js";
import { tr } from "./texts.js";

const SHOWN = 200;

const restore = async (row, id) => {
  if (!(await attempt(post(route(id, "restore"))))) return;
  const next = (row.nextElementSibling ?? row.previousElementSibling)?.querySelector("button");
  row.remove();
  (next ?? document.querySelector("#tx-bin .tx-button:last-child")).focus();
  refresh();
};

const rowOf = ({ id, title }) => {
  const name = title || tr("untitled");
  const button = make("button", { type: "button", class: "tx-button", "aria-label": tr("restore_named", { title: name }) }, tr("restore"));
  const row = make("li", {}, make("span", { title: name }, name), button);
  button.addEventListener("click", () => restore(row, id));
  return row;
};

/** Return the button that empties the bin when it is pressed twice. */
const emptyButton = (count, dialog) => {
  const button = make("button", { type: "button", class: "tx-button tx-danger" }, tr("empty_bin"));
  let sure = false;
  button.addEventListener("click", async () => {
    if (sure && (await attempt(post("/chat/bin/empty")))) {
      dialog.close();
      refresh();
    }
    sure = true;
    button.textContent = tr("empty_bin_yes", { count });
  });
  return button;
};

async function showBin() {
  const answer = await attempt(get("/chat/bin"));
  if (!answer || document.querySelector("#tx-bin")) return;
  const found = answer.conversations;
  const dialog = make("dialog", { id: "tx-bin", "aria-labelledby": "tx-bin-title" });
  dialog.append(
    make("h2", { id: "tx-bin-title" }, tr("recently_deleted", { count: found.length })),
    make("p", {}, found.length ? tr("bin_info") : tr("bin_empty")),
    make("ul", { role: "list" }, ...found.slice(0, SHOWN).map(rowOf)),
    make(
      "div",
      { class: "tx-dialog-buttons" },
      found.length ? emptyButton(found.length, dialog) : make("span"),
      make("button", { type: "button", class: "tx-button", click: () => dialog.close() }, tr("sheet_close")),
    ),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // the backdrop
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

const label = make("span");

/** The button of the sidebar, which is there while the bin is not empty. */
export const binButton = make("button", { id: "tx-show-bin", type: "button", class: "tx-side-button tx-quiet", hidden: true, click: showBin }, icon("bin"), label);

onList(() => {
  binButton.hidden = !binCount();
  label.textContent = tr("recently_deleted", { count: binCount() });
});
