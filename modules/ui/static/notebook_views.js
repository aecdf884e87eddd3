// Views of a text other than the text itself: as Markdown, as tokens, and what the next token may be.
import { post } from "./chat_client.js";
import { make, rendered } from "./dom.js";
import * as client from "./notebook_client.js";
import { tr } from "./texts.js";

const DRAWN_AT_ONCE = 400;

/** Return a text with its spaces and line breaks visible. */
export const visibleText = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";

/** Return a probability as text: 34.5 %, < 0.01 %. */
export const percent = (probability) => {
  if (probability > 0 && probability < 0.0001) return "< 0.01%";
  return `${(probability * 100).toFixed(probability < 0.01 ? 2 : 1)}%`;
};

const message = (text) => make("p", { class: "nb-message", role: "status" }, text);
const failed = (error) => message(error.message);

// -- Markdown -------------------------------------------------------------------------------------------------------------

export async function drawRendered(place) {
  const { text } = client.shown();
  if (!text.trim()) return place.replaceChildren(message(tr("nb_empty")));
  try {
    const { blocks, whole } = await post("/notebook/render", { text });
    place.replaceChildren(...(whole ? [] : [message(tr("nb_last_part"))]), make("div", { class: "tx-md" }, ...blocks.map((html) => rendered(html, "tx-block"))));
  } catch (error) {
    place.replaceChildren(failed(error));
  }
}

// -- tokens ---------------------------------------------------------------------------------------------------------------

const bytesOf = (hex) => hex.replace(/../g, "$& ").trim();

export async function drawPieces(place) {
  const { text } = client.shown();
  if (!text) return place.replaceChildren(message(tr("nb_empty")));
  try {
    const { pieces, whole } = await post("/notebook/pieces", { text });
    const rows = make("tbody", {});
    const more = make("button", { type: "button", class: "tx-button" }, tr("nb_more_pieces"));
    let drawn = 0;
    const drawMore = () => {
      const next = pieces.slice(drawn, drawn + DRAWN_AT_ONCE);
      rows.append(...next.map(([id, piece, hex]) => make("tr", {}, make("td", {}, String(id)), make("td", { class: piece ? "nb-piece" : "nb-piece nb-fragment" }, piece ? visibleText(piece) : tr("nb_fragment")), make("td", {}, bytesOf(hex)))));
      drawn += next.length;
      more.hidden = drawn >= pieces.length;
    };
    more.addEventListener("click", drawMore);
    drawMore();
    const count = tr("nb_count_pieces", { count: pieces.length });
    const head = make("tr", {}, ...[tr("nb_id"), tr("nb_token"), tr("nb_bytes")].map((name) => make("th", { scope: "col" }, name)));
    place.replaceChildren(message(whole ? count : `${count} · ${tr("nb_last_part")}`), make("table", { class: "nb-table" }, make("thead", {}, head), rows), more);
  } catch (error) {
    place.replaceChildren(failed(error));
  }
}

// -- the next token -------------------------------------------------------------------------------------------------------

let results = []; // the last one first, then the one before
let sampled = true;

const column = (title, result) => {
  const heading = make("h3", {}, title);
  if (!result) return make("section", {}, heading, message(tr("nb_no_previous")));
  const rows = result[sampled ? "sampled" : "plain"].map(([id, text, number]) => [id, text, sampled ? number : Math.exp(number)]);
  return make("section", {}, heading, make("p", { class: "nb-context" }, `…${result.context.replaceAll("\n", "↵")}`), make("table", { class: "nb-table" },
    make("thead", {}, make("tr", {}, ...[tr("nb_token"), tr("nb_id"), tr("nb_probability")].map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows.map(([id, text, probability]) => make("tr", {}, make("td", { class: "nb-piece" }, visibleText(text)), make("td", {}, String(id)),
      make("td", { class: "nb-bar" }, make("i", { style: `width:${(probability * 100).toFixed(2)}%` }), make("span", {}, percent(probability))))))));
};

/** Draw the candidates for the token at the position that `at` returns, and ask for them `atOnce`. */
export function drawNext(place, at, atOnce) {
  const columns = make("div", { class: "nb-columns" });
  const note = make("div", {});
  const show = () => columns.replaceChildren(column(tr("nb_now"), results[0]), column(tr("nb_previous"), results[1]));
  const box = make("input", { type: "checkbox", id: "nb-sampled" });
  box.checked = sampled;
  box.addEventListener("change", () => { sampled = box.checked; if (results.length) show(); });
  const askNext = async () => {
    button.disabled = true;
    try {
      await client.flush();
      const { next } = await client.ask("next", { at: at() });
      const result = { ...next, context: client.shown().text.slice(0, at.units()).slice(-40) };
      if (JSON.stringify(result) !== JSON.stringify(results[0])) results = [result, ...results].slice(0, 2);
      note.replaceChildren();
      show();
    } catch (error) {
      note.replaceChildren(failed(error));
    }
    button.disabled = false;
  };
  const button = make("button", { type: "button", class: "tx-button nb-primary", id: "nb-get-next", click: askNext }, tr("nb_get_next"));
  place.replaceChildren(make("div", { class: "nb-next-head" }, button, make("label", { for: "nb-sampled" }, box, tr("nb_used_samplers"))), note, columns);
  if (results.length) show();
  if (atOnce && client.currentName()) askNext();
}
