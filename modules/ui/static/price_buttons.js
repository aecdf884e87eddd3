// "What does it cost here?" at the options of the Model page, with the newest price of each. options.js says when the form
// has been marked, and for which model, loader and values.
import { get } from "./chat_client.js";
import { make } from "./dom.js";
import { tr } from "./texts.js";

let kept = {};
let asked = "";
let wanted = null;

/** Return the option whose button was pressed last, {key, model, loader, values, id}, once; null without one. */
export function takeWanted() {
  const taken = wanted;
  wanted = null;
  return taken;
}

const keyOf = (option) => option.id.replace("tx-opt-", "");

const open = (key, detail, id = "") => {
  wanted = { key, model: detail.model, loader: detail.loader, values: detail.values, id };
  location.hash = "#training/price";
};

const place = (option, detail) => {
  const key = keyOf(option);
  const price = kept[key];
  const label = option.querySelector("[data-testid='block-info'], .label-text")?.textContent.trim() ?? key;
  const button = make("button", { type: "button", title: label, click: () => open(key, detail, price?.id) }, price ? price.text : tr("pc_ask"));
  const row = make("div", { class: "tx-price" }, button);
  option.querySelector(":scope > .tx-price")?.remove();
  option.append(row);
};

const draw = (detail) => {
  for (const option of document.querySelectorAll("#tx-opts .tx-opt")) {
    const stamp = JSON.stringify([detail, kept[keyOf(option)] ?? null]);
    const row = option.querySelector(":scope > .tx-price");
    if (!detail.model || !detail.priced.includes(keyOf(option))) row?.remove();
    else if (row?.dataset.stamp !== stamp) {
      place(option, detail);
      option.querySelector(":scope > .tx-price").dataset.stamp = stamp;
    }
  }
};

let last = null;

async function refreshKept(detail) {
  asked = JSON.stringify([detail.model, detail.loader]);
  const mine = asked;
  const found = await get(`/price/kept?model=${encodeURIComponent(detail.model)}&loader=${encodeURIComponent(detail.loader)}`).catch(() => ({ kept: {} }));
  if (mine !== asked) return;
  kept = found.kept;
  draw(last);
}

document.addEventListener("tx-marked", ({ detail }) => {
  last = detail;
  if (detail.model && detail.priced.length && asked !== JSON.stringify([detail.model, detail.loader])) {
    kept = {};
    refreshKept(detail);
  }
  draw(detail);
});

addEventListener("hashchange", () => {
  if (location.hash.startsWith("#model") && last?.model && last.priced.length) refreshKept(last); // prices may have been measured meanwhile
});
