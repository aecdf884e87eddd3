// The preview of the data: rows token by token with the trained ones colored, and the lengths of all rows.
import { post } from "./chat_client.js";
import { make } from "./dom.js";
import { tr } from "./texts.js";

export const element = make("section", { class: "tx-t-preview", "aria-label": tr("tr_preview"), hidden: true });

let seed = 0;
let asked = 0;

const KINDS = { first: () => tr("tr_kind_first"), longest: () => tr("tr_kind_longest"), random: () => tr("tr_kind_random") };

const piece = ([text, trained, special]) => {
  if (special) return make("span", { class: trained ? "tx-t-piece tx-t-trained tx-t-special" : "tx-t-piece tx-t-special", title: trained ? tr("tr_trained") : tr("tr_context") }, special);
  return make(trained ? "mark" : "span", { class: trained ? "tx-t-piece tx-t-trained" : "tx-t-piece" }, text);
};

const example = (row) => {
  const notes = [tr("tr_row_tokens", { row: row.row, tokens: row.tokens })];
  if (row.cut) notes.push(tr("tr_too_long", { count: row.cut }));
  if (row.hidden) notes.push(tr("tr_hidden", { count: row.hidden }));
  const title = `${KINDS[row.kind]?.() ?? row.kind} · ${notes.join(" · ")}`;
  return make("div", { class: "tx-t-example" }, make("h3", {}, title), make("div", { class: "tx-t-pieces", tabindex: "0", role: "region", "aria-label": title }, ...row.pieces.map(piece)));
};

const lengths = ({ histogram: { width, counts }, cutoff_len: cutoff }) => {
  const most = Math.max(...counts, 1);
  const bars = counts.map((count, index) =>
    make("div", { class: index * width >= cutoff ? "tx-t-bar tx-t-beyond" : "tx-t-bar", style: `--share: ${count / most}`, title: tr("tr_bin", { from: index * width, to: (index + 1) * width - 1, count }) }),
  );
  const label = tr("tr_lengths");
  const ends = make("p", { class: "tx-s-info tx-t-ends" }, make("span", {}, "0"), make("span", {}, String(counts.length * width)));
  return make("div", { class: "tx-t-lengths" }, make("h3", {}, label), make("div", { class: "tx-t-bars", role: "img", "aria-label": label }, ...bars), ends);
};

const summary = (found) => {
  if (!found.examples) return [make("p", {}, tr("tr_preview_rows", { rows: 0 }))];
  const parts = [tr("tr_preview_rows", { rows: found.rows }), tr("tr_preview_tokens", { tokens: found.tokens, trained: found.trained_tokens, longest: found.longest })];
  if (found.dropped) parts.push(tr("tr_dropped", { count: found.dropped, cutoff: found.cutoff_len }));
  if (found.truncated) parts.push(tr("tr_truncated", { count: found.truncated, cutoff: found.cutoff_len }));
  if (found.untrained) parts.push(tr("tr_untrained", { count: found.untrained }));
  if (found.samples < found.of) parts.push(tr("tr_sampled", { count: found.samples, all: found.of }));
  return parts.map((text) => make("p", {}, text));
};

const problems = (files) =>
  files.filter(({ bad_count: count }) => count).map(({ name, bad_count: count, bad }) =>
    make("details", { class: "tx-s-note", open: bad.length <= 5 }, make("summary", {}, tr("tr_bad_rows", { file: name, count })), make("ul", {}, ...bad.map(({ row, problem }) => make("li", {}, tr("tr_bad_row", { row, problem }))))),
  );

const legend = () =>
  make("p", { class: "tx-s-info tx-t-legend" }, make("mark", { class: "tx-t-piece tx-t-trained" }, tr("tr_trained")), make("span", { class: "tx-t-piece" }, tr("tr_context")), make("span", { class: "tx-t-piece tx-t-special" }, tr("tr_special")));

/** Ask the server to tokenize the data, and show it. */
export async function show(values, another = false) {
  seed = another ? seed + 1 : seed;
  const mine = ++asked;
  element.hidden = false;
  element.setAttribute("aria-busy", "true");
  if (!element.childElementCount) element.replaceChildren(make("p", { class: "tx-s-quiet", role: "status" }, tr("tr_preview_wait")));
  const found = await post("/training/preview", { values, seed }).catch((error) => ({ error: error.message }));
  if (mine !== asked) return;
  element.removeAttribute("aria-busy");
  if (found.error) {
    element.replaceChildren(make("p", { class: "tx-s-problem", role: "alert" }, found.error));
    return;
  }
  const buttons = make(
    "div",
    { class: "tx-s-buttons" },
    make("button", { type: "button", class: "tx-button", click: () => show(values, true) }, tr("tr_another")),
    make("button", { type: "button", class: "tx-button", click: hide }, tr("close")),
  );
  const notes = found.notes.map((note) => make("p", { class: "tx-s-note" }, note));
  const different = (found.examples ?? []).filter(({ row }, index, all) => all.findIndex((one) => one.row === row) === index);
  const examples = found.examples ? [legend(), ...different.map(example), lengths(found)] : [];
  element.replaceChildren(make("div", { role: "status" }, ...summary(found)), ...problems(found.files), ...notes, ...examples, buttons);
}

export function hide() {
  element.hidden = true;
  element.replaceChildren();
}
