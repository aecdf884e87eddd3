// Runs when the Model page is drawn. Marks each option with the source of its value, offers to reset it, and filters the
// form. Options in folded groups are drawn only when their group is opened, hence the observer.
const card = document.querySelector("#tx-opts");
let query = "";

const EMPTY = { sources: {}, errors: {}, presets: {}, counts: {}, words: {}, priced: [], values: {}, loader: "" };
const readMarks = () => ({ ...EMPTY, ...JSON.parse(element.querySelector("[data-marks]")?.dataset.marks || "{}") });
const keyOf = (option) => option.id.replace("tx-opt-", "");

const resetButton = (option, title) => {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tx-reset";
  button.dataset.key = keyOf(option);
  button.title = button.ariaLabel = title;
  button.textContent = "↺";
  return button;
};

const short = (count) => (count % 1024 ? String(count) : count / 1024 + "k");

// One click for the usual values: on a slider from 256 to a million none of them could be picked exactly.
const presetRow = (key, values, most, words) => {
  const row = document.createElement("div");
  row.className = "tx-presets";
  row.dataset.values = values.join();
  for (const value of values) {
    const chip = Object.assign(document.createElement("button"), { type: "button", title: String(value) });
    chip.textContent = words[value] ?? short(value) + (value === values.at(-1) ? " " + most : "");
    Object.assign(chip.dataset, { key, value });
    row.append(chip);
  }
  return row;
};

// Adds or removes the child element of a class; returns the one that is there afterwards.
const child = (option, name, wanted, make) => {
  const existing = option.querySelector(":scope > ." + name);
  if (existing && !wanted) existing.remove();
  if (!existing && wanted) option.append(make());
  return option.querySelector(":scope > ." + name);
};

const mark = () => {
  const { sources, errors, presets: offered, counts, words, reset, most, changed } = readMarks();
  const invalid = Object.keys(errors).length > 0; // then the server sends nothing else
  for (const option of card.querySelectorAll(".tx-opt")) {
    const [source, text] = sources[keyOf(option)] || ["", ""];
    const error = errors[keyOf(option)] || "";
    const chip = child(option, "tx-source", source, () => Object.assign(document.createElement("span"), { className: "tx-source" }));
    if (chip && chip.textContent !== text) chip.textContent = text;
    if (chip) chip.dataset.source = source;
    child(option, "tx-reset", source === "form" || source === "saved" || error, () => resetButton(option, reset));
    const values = offered[keyOf(option)] || [];
    const row = option.querySelector(":scope > .tx-presets");
    if (!invalid && row && row.dataset.values !== values.join()) row.remove();
    if (!invalid) child(option, "tx-presets", values.length > 1, () => presetRow(keyOf(option), values, most, words[keyOf(option)] ?? {}));
    const alert = child(option, "tx-error", error, () => Object.assign(document.createElement("p"), { className: "tx-error", role: "alert" }));
    if (alert && alert.textContent !== error) alert.textContent = error;
  }
  for (const group of card.querySelectorAll(".tx-group[id^=tx-group-]")) {
    const count = counts[group.id.replace("tx-group-", "")];
    const header = group.querySelector(".label-wrap > span");
    if (header) header.dataset.changed = count ? `${count} ${changed}` : "";
  }
  if (!invalid) {
    const { priced, values, loader } = readMarks();
    const model = element.querySelector("[data-marks]")?.dataset.model ?? "";
    document.dispatchEvent(new CustomEvent("tx-marked", { detail: { model, loader, values, priced } })); // for price_buttons.js
  }
  const unsaved = Object.values(sources).some(([source]) => source === "form");
  document.querySelector("#tx-save")?.classList.toggle("tx-unsaved", unsaved);
};

const filter = () => {
  const loader = [...document.querySelector("#tx-page").classList].find((name) => name.startsWith("show-")) || "";
  card.classList.toggle("tx-filtering", query !== "");
  const headers = [...card.querySelectorAll(".tx-group .label-wrap")];
  if (query) headers.filter((header) => !header.classList.contains("open")).forEach((header) => { header.dataset.opened = "1"; header.click(); });
  else headers.filter((header) => header.dataset.opened).forEach((header) => { delete header.dataset.opened; header.click(); });
  for (const option of card.querySelectorAll(".tx-opt")) {
    const hit = (keyOf(option) + " " + option.textContent).toLowerCase().includes(query);
    option.classList.toggle("tx-miss", query !== "" && !(hit && option.classList.contains(loader.replace("show-", "ld-"))));
  }
};

let scheduled = false;
const refresh = () => {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => { scheduled = false; mark(); if (query) filter(); });
};

new MutationObserver((changes) => {
  if (changes.some((change) => [...change.addedNodes].some((node) => node.nodeType === 1 && !/tx-(source|reset|error|presets|price)/.test(node.className)))) refresh();
}).observe(card, { childList: true, subtree: true });
document.addEventListener("tx-filter", (event) => { query = event.detail.trim().toLowerCase(); filter(); });
document.addEventListener("tx-loader", () => { if (query) filter(); });
card.addEventListener("click", (event) => {
  const pressed = event.target.closest(".tx-reset, .tx-presets button");
  if (pressed) trigger("click", { ...pressed.dataset });
});
watch("value", refresh);
refresh();
