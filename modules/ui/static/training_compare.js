// Compare the answers of a base model with and without a LoRA, side by side.
import { post } from "./chat_client.js";
import { make, single } from "./dom.js";
import { tr } from "./texts.js";
import { act } from "./training_run.js";

/** Open the comparison for the LoRA of a run. */
export function open(run) {
  const question = make("textarea", { id: "tx-t-question", class: "tx-field", rows: "2", maxlength: "8000" });
  const ask = make("button", { type: "button", class: "tx-button tx-primary" }, tr("tr_ask"));
  const load = make("button", { type: "button", class: "tx-button", hidden: true }, tr("tr_apply_first", { model: run.model }));
  const answers = { base: make("p", { class: "tx-t-answer" }), lora: make("p", { class: "tx-t-answer" }) };
  const status = make("p", { class: "tx-hint", role: "status" });
  const column = (title, key) => make("section", {}, make("h3", {}, title), answers[key]);
  const dialog = make(
    "dialog",
    { class: "tx-dialog tx-t-compare", "aria-labelledby": "tx-t-compare-title" },
    make("h2", { id: "tx-t-compare-title" }, tr("tr_compare_title", { name: run.adapter })),
    make("p", { class: "tx-hint" }, tr("tr_compare_info")),
    make("label", { for: "tx-t-question" }, tr("tr_question")),
    question,
    make("div", { class: "tx-t-answers" }, column(tr("tr_base"), "base"), column(run.adapter, "lora")),
    status,
    make("div", { class: "tx-dialog-buttons" }, load, make("span", { class: "tx-gap" }), make("button", { type: "button", class: "tx-button", click: () => dialog.close() }, tr("close")), ask),
  );
  const compare = single(async () => {
    if (!question.value.trim()) return question.focus();
    ask.disabled = true;
    load.hidden = true;
    status.textContent = tr("tr_comparing");
    try {
      const found = await post("/training/runs/compare", { name: run.name, question: question.value });
      for (const key of ["base", "lora"]) answers[key].textContent = found[key] || tr("tr_no_answer");
      status.textContent = "";
    } catch (error) {
      status.textContent = error.message;
      load.hidden = error.status !== 409;
    }
    ask.disabled = false;
  });
  ask.addEventListener("click", compare);
  load.addEventListener("click", async () => {
    load.hidden = true;
    status.textContent = (await act("apply", run.name)) ? tr("tr_loading_wait") : "";
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    compare();
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  question.focus();
}
