// What was deleted: a dialog to restore it or to empty the bin, and the bin of the conversations.
import { get, post } from "./chat_client.js";
import { attempt, binCount, onList, refresh, route } from "./conversation_list.js";
import { isDoubled, make, single } from "./dom.js";
import { icon } from "./icons.js";
import { tr } from "./texts.js";

const SHOWN = 200;

const rowOf = ({ id, title }, restore) => {
  const name = title || tr("untitled");
  const button = make("button", { type: "button", class: "tx-button", "aria-label": tr("restore_named", { title: name }) }, tr("restore"));
  const row = make("li", {}, make("span", { title: name }, name), button);
  button.addEventListener("click", single(async () => {
    if (!(await restore(id))) return;
    const next = (row.nextElementSibling ?? row.previousElementSibling)?.querySelector("button");
    row.remove();
    (next ?? document.querySelector("#tx-bin .tx-button:last-child")).focus();
  }));
  return row;
};

/** Return the button that empties the bin when it is pressed twice. */
const emptyButton = (sureLabel, empty, dialog) => {
  const button = make("button", { type: "button", class: "tx-button tx-danger" }, tr("empty_bin"));
  let sure = false;
  const emptyOnce = single(empty);
  button.addEventListener("click", async (event) => {
    if (isDoubled(event)) return;
    if (sure && (await emptyOnce())) dialog.close();
    sure = true;
    button.textContent = sureLabel;
  });
  return button;
};

/**
 * Show what was deleted: `entries` with an `id` and a `title`. `info` says how long it is kept, `sureLabel` what emptying
 * the bin means. `restore`, which is called with an id, and `empty` return whether they have succeeded.
 */
export function openBin({ entries, info, sureLabel, restore, empty }) {
  if (document.querySelector("#tx-bin")) return;
  const dialog = make("dialog", { id: "tx-bin", "aria-labelledby": "tx-bin-title" });
  dialog.append(
    make("h2", { id: "tx-bin-title" }, tr("recently_deleted", { count: entries.length })),
    make("p", {}, entries.length ? info : tr("bin_empty")),
    make("ul", { role: "list" }, ...entries.slice(0, SHOWN).map((entry) => rowOf(entry, restore))),
    make(
      "div",
      { class: "tx-dialog-buttons" },
      entries.length ? emptyButton(sureLabel, empty, dialog) : make("span"),
      make("button", { type: "button", class: "tx-button", click: () => dialog.close() }, tr("sheet_close")),
    ),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // the backdrop
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** Return whether a request has succeeded; then the list of conversations is read again. */
const done = async (request) => {
  const answer = await attempt(request);
  if (answer) refresh();
  return Boolean(answer);
};

async function showBin() {
  const answer = await attempt(get("/chat/bin"));
  if (!answer) return;
  const entries = answer.conversations;
  openBin({
    entries,
    info: tr("bin_info"),
    sureLabel: tr("empty_bin_yes", { count: entries.length }),
    restore: (id) => done(post(route(id, "restore"))),
    empty: () => done(post("/chat/bin/empty")),
  });
}

const label = make("span");

/** The button of the sidebar, which is there while the bin is not empty. */
export const binButton = make("button", { id: "tx-show-bin", type: "button", class: "tx-side-button tx-quiet", hidden: true, click: showBin }, icon("bin"), label);

onList(() => {
  binButton.hidden = !binCount();
  label.textContent = tr("recently_deleted", { count: binCount() });
});
