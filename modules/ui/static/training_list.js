// All runs: their states, and what can be done with them.
import { make, single } from "./dom.js";
import { icon } from "./icons.js";
import { openMenu } from "./popups.js";
import { language, tr } from "./texts.js";
import { act, duration, number, stateText } from "./training_run.js";

const rows = make("ul", { class: "tx-t-runs" });
const merge = make("p", { class: "tx-s-note", role: "status", hidden: true });
export const element = make("section", { class: "tx-t-card", "aria-label": tr("tr_runs") }, make("h2", {}, tr("tr_runs")), merge, rows);

/** Show how the last merge of a LoRA into a model went; null if there was none. */
export function showMerge(found) {
  merge.hidden = !found;
  if (!found) return;
  const percent = Math.round(found.progress * 100);
  const text = { running: () => tr("tr_merging", { ...found, percent }), done: () => tr("tr_merged", found), failed: () => tr("tr_merge_failed", found) }[found.state]();
  if (merge.textContent !== text) merge.textContent = text;
}

const time = (seconds) => new Date(seconds * 1000).toLocaleString(language === "zh" ? "zh-CN" : "en", { dateStyle: "medium", timeStyle: "short" });

const button = (label, click, attributes = {}) => make("button", { type: "button", class: "tx-button", click, ...attributes }, label);

const confirmDelete = (run, actions) => {
  const dialog = make("dialog", { class: "tx-dialog", "aria-labelledby": "tx-t-delete-title" });
  const close = () => dialog.close();
  const text = run.adapter ? tr("tr_delete_text_adapter", { name: run.adapter }) : tr("tr_delete_text");
  dialog.append(
    make("h2", { id: "tx-t-delete-title" }, tr("tr_delete_title", { name: run.name })),
    make("p", {}, text),
    make("div", { class: "tx-dialog-buttons" }, make("span", { class: "tx-gap" }), button(tr("cancel"), close), button(tr("delete"), () => { close(); actions.remove(run); }, { class: "tx-button tx-danger" })),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
};

const buttonsOf = (run, actions) => {
  const found = [];
  if (["failed", "interrupted", "stopped"].includes(run.state)) found.push(button(tr(run.resumable ? "tr_resume" : "tr_again"), single(() => act("resume", run.name)), { "data-act": "resume" }));
  if (run.adapter) found.push(button(tr("tr_apply"), () => actions.apply(run), { "data-act": "apply" }));
  const items = [{ label: tr("tr_show"), action: () => actions.show(run) }, { label: tr("tr_copy"), action: () => actions.copy(run) }];
  if (run.adapter) items.push({ label: tr("tr_compare"), action: () => actions.compare(run) }, { label: tr("tr_continue"), action: () => actions.continue(run) });
  if (run.adapter) items.push(...actions.exports(run));
  if (!["running", "queued"].includes(run.state)) items.push({ label: tr("delete"), danger: true, action: () => confirmDelete(run, actions) });
  const label = tr("more_for", { title: run.name });
  const more = make("button", { type: "button", class: "tx-act", "aria-haspopup": "menu", "aria-label": label, title: label }, icon("more"));
  more.addEventListener("click", () => openMenu(more, label, items));
  return [...found, more];
};

const about = (run) => {
  const parts = [run.model, run.data, time(run.created)];
  if (run.update) parts.push(tr("tr_updates_done", { done: run.update, all: run.updates || run.update }));
  if (run.smoothed !== null) parts.push(tr("tr_loss_value", { loss: number(run.smoothed) }));
  if (run.seconds) parts.push(duration(run.seconds));
  if (run.continues) parts.push(tr("tr_continued", { name: run.continues }));
  return parts.filter(Boolean).join(" · ");
};

const rowOf = (run, actions) =>
  make(
    "li",
    { "data-run": run.name, "data-state": run.state },
    make(
      "div",
      { class: "tx-t-run" },
      make("p", {}, make("b", {}, run.name), make("span", { class: "tx-t-state" }, stateText(run))),
      make("p", { class: "tx-s-info" }, about(run)),
      run.error && make("p", { class: "tx-t-error" }, run.error.split("\n")[0]),
    ),
    make("div", { class: "tx-t-run-buttons" }, ...buttonsOf(run, actions)),
  );

let drawn = "";

/** Draw the runs, the newest first. */
export function show(runs, actions) {
  const body = JSON.stringify(runs.map((run) => [run.name, stateText(run), about(run), run.error, run.adapter, run.resumable]));
  if (body === drawn) return;
  drawn = body;
  const focused = rows.contains(document.activeElement) ? [document.activeElement.closest("li").dataset.run, document.activeElement.dataset.act ?? ""] : null;
  rows.replaceChildren(...(runs.length ? runs.map((run) => rowOf(run, actions)) : [make("li", { class: "tx-s-quiet" }, tr("tr_no_runs"))]));
  if (!focused) return;
  const row = [...rows.children].find(({ dataset }) => dataset.run === focused[0]);
  (row?.querySelector(`[data-act="${focused[1]}"]`) ?? row?.querySelector(".tx-act"))?.focus();
}
