// Export the LoRA of a run: as a ZIP file, as a GGUF adapter, or merged into a new model.
import { get } from "./chat_client.js";
import { make } from "./dom.js";
import { toast } from "./popups.js";
import { tr } from "./texts.js";
import { act } from "./training_run.js";

const save = (path) => make("a", { href: path, download: true }).click();

const query = (values) => new URLSearchParams({ ...values, lang: document.documentElement.lang.startsWith("zh") ? "zh" : "en" });

/** Open a dialog with a text, one field and a button, which calls `done` with the value of the field. */
const ask = (title, text, label, field, action, done) => {
  const dialog = make("dialog", { class: "tx-dialog", "aria-labelledby": "tx-t-export-title" });
  const status = make("p", { class: "tx-hint", role: "status" });
  const confirm = make("button", { type: "button", class: "tx-button tx-primary" }, action);
  confirm.addEventListener("click", async () => {
    if (!field.value) return field.focus();
    confirm.disabled = true;
    status.textContent = (await done(field.value)) ?? "";
    confirm.disabled = false;
    if (!status.textContent) dialog.close();
  });
  field.id = "tx-t-export-field";
  dialog.append(
    make("h2", { id: "tx-t-export-title" }, title),
    make("p", { class: "tx-hint" }, text),
    make("div", { class: "tx-form-row" }, make("label", { for: field.id }, label), field),
    status,
    make("div", { class: "tx-dialog-buttons" }, make("span", { class: "tx-gap" }), make("button", { type: "button", class: "tx-button", click: () => dialog.close() }, tr("cancel")), confirm),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  field.focus();
};

const exportGguf = (run, models) => {
  if (!models.length) return toast(tr("tr_no_gguf"));
  const field = make("select", { class: "tx-field" }, ...models.map((name) => make("option", { value: name }, name)));
  ask(tr("tr_export_gguf"), tr("tr_export_gguf_info"), tr("tr_gguf_model"), field, tr("tr_export"), async (model) => {
    const path = `/training/export/gguf?${query({ name: run.name, model })}`;
    try {
      await get(`/training/export/check?${query({ name: run.name, model })}`);
    } catch (error) {
      return error.message;
    }
    save(path);
  });
};

const merge = (run) => {
  const field = make("input", { class: "tx-field", type: "text", maxlength: "200", autocomplete: "off", value: `${run.model}-${run.adapter}`.replaceAll("/", "-") });
  ask(tr("tr_merge"), tr("tr_merge_info", { model: run.model }), tr("tr_merge_name"), field, tr("tr_merge_start"), async (model) => {
    await act("merge", run.name, { model });
  });
};

/** Return the entries of a run's menu; `models` returns the GGUF models when one is to be chosen. */
export const items = (run, models) => [
  { label: tr("tr_export_adapter"), href: `/training/export/adapter?${query({ name: run.name })}` },
  { label: tr("tr_export_gguf"), action: () => exportGguf(run, models()) },
  { label: tr("tr_merge"), action: () => merge(run) },
];
