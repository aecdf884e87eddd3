// The receipt of a reply: with which model and parameters it was made, and from which prompt.
import { get } from "./chat_client.js";
import { make } from "./dom.js";
import { language, tr } from "./texts.js";

/** Return a value of a receipt as text: names and values a line each. */
const asText = (value) => {
  if (Array.isArray(value)) return value.map(asText).join("\n");
  if (value === null || typeof value !== "object") return String(value);
  return Object.entries(value).map(([key, part]) => `${key}: ${typeof part === "object" ? JSON.stringify(part) : part}`).join("\n");
};

/** Return the labels and texts of a receipt; what it does not have is left out. */
function receiptRows({ model = {}, template = {}, seconds = {}, ...receipt }) {
  const rows = [
    [tr("receipt_model"), [model.name, model.format, model.quantization].filter(Boolean).join(" · ")],
    [tr("receipt_hash"), model.hash],
    [tr("receipt_loader"), receipt.loader],
    [tr("receipt_options"), asText(receipt.options ?? {})],
    [tr("receipt_loras"), (receipt.loras ?? []).map(({ name, weight }) => `${name}: ${weight}`).join("\n")],
    [tr("receipt_template"), template.ours ? "Alpaca" : template.name || template.sha256],
    [tr("receipt_notes"), (template.notes ?? []).map((note) => note[language] ?? "").join("\n")],
    [tr("receipt_parameters"), asText(receipt.parameters ?? {})],
    [tr("receipt_seed"), receipt.seed],
    [tr("receipt_tokens"), asText(receipt.tokens ?? {})],
    [tr("receipt_seconds"), Object.entries(seconds).map(([key, value]) => `${key}: ${Number(value).toFixed(2)}`).join("\n")],
    [tr("receipt_reason"), receipt.reason],
    [tr("receipt_time"), receipt.time && new Date(receipt.time * 1000).toLocaleString(language)],
    [tr("receipt_version"), receipt.version],
  ];
  return rows.filter(([, text]) => text !== undefined && text !== null && text !== "");
}

/** Show the receipt of a message, with a button that calls `again`. */
export async function showReceipt(conversation, message, again) {
  const sheet = make("dialog", { class: "tx-sheet", "aria-label": tr("receipt") });
  const answer = await get(`/chat/${encodeURIComponent(conversation)}/receipt?message=${message}`).catch((error) => ({ error: error.message }));
  const rows = receiptRows(answer.receipt ?? {}).flatMap(([label, text]) => [make("dt", {}, label), make("dd", {}, String(text))]);
  const close = () => { sheet.close(); sheet.remove(); };
  sheet.append(
    make("h2", {}, tr("receipt")),
    answer.error ? make("p", { role: "alert" }, answer.error) : make("dl", {}, ...rows),
    answer.prompt ? make("details", {}, make("summary", {}, tr("exact_prompt")), make("pre", { lang: language }, answer.prompt)) : "",
    make("div", { class: "tx-edit-buttons" },
      make("button", { type: "button", class: "tx-primary", click: () => { close(); again(); } }, tr("again_with_these")),
      make("button", { type: "button", click: close }, tr("close"))));
  sheet.addEventListener("close", () => sheet.remove());
  document.body.append(sheet);
  sheet.showModal();
}
