// Runs when the Model tab is drawn. Marks each option with where its value comes from, offers to set it back, and
// filters the form. Options in folded groups are drawn only when their group is opened, hence the observer.
const card = document.querySelector("#tx-opts");
let words = "";

const NOTHING = { sources: {}, errors: {}, presets: {}, counts: {} };
const told = () => ({ ...NOTHING, ...JSON.parse(element.querySelector("[data-marks]")?.dataset.marks || "{}") });
const keyOf = (option) => option.id.replace("tx-opt-", "");

const button = (option, title) => {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "tx-reset";
  made.dataset.key = keyOf(option);
  made.title = made.ariaLabel = title;
  made.textContent = "↺";
  return made;
};

const short = (count) => (count % 1024 ? String(count) : count / 1024 + "k");

// One click for the values that people choose: a slider from 256 to a million could not be set by hand.
const presets = (key, values, most) => {
  const made = document.createElement("div");
  made.className = "tx-presets";
  made.dataset.values = values.join();
  for (const value of values) {
    const chip = Object.assign(document.createElement("button"), { type: "button", title: String(value) });
    chip.textContent = short(value) + (value === values.at(-1) ? " " + most : "");
    Object.assign(chip.dataset, { key, value });
    made.append(chip);
  }
  return made;
};

const child = (option, name, wanted, make) => {
  const there = option.querySelector(":scope > ." + name);
  if (there && !wanted) there.remove();
  if (!there && wanted) option.append(make());
  return option.querySelector(":scope > ." + name);
};

const mark = () => {
  const { sources, errors, presets: offered, counts, reset, most, changed } = told();
  const broken = Object.keys(errors).length > 0; // then nothing else is told
  for (const option of card.querySelectorAll(".tx-opt")) {
    const [source, text] = sources[keyOf(option)] || ["", ""];
    const error = errors[keyOf(option)] || "";
    const chip = child(option, "tx-source", source, () => Object.assign(document.createElement("span"), { className: "tx-source" }));
    if (chip && chip.textContent !== text) chip.textContent = text;
    if (chip) chip.dataset.source = source;
    child(option, "tx-reset", source === "form" || source === "saved" || error, () => button(option, reset));
    const values = offered[keyOf(option)] || [];
    const row = option.querySelector(":scope > .tx-presets");
    if (!broken && row && row.dataset.values !== values.join()) row.remove();
    if (!broken) child(option, "tx-presets", values.length > 1, () => presets(keyOf(option), values, most));
    const alert = child(option, "tx-error", error, () => Object.assign(document.createElement("p"), { className: "tx-error", role: "alert" }));
    if (alert && alert.textContent !== error) alert.textContent = error;
  }
  for (const group of card.querySelectorAll(".tx-group[id^=tx-group-]")) {
    const count = counts[group.id.replace("tx-group-", "")];
    const header = group.querySelector(".label-wrap > span");
    if (header) header.dataset.changed = count ? `${count} ${changed}` : "";
  }
  const unsaved = Object.values(sources).some(([source]) => source === "form");
  document.querySelector("#tx-save")?.classList.toggle("tx-unsaved", unsaved);
};

const filter = () => {
  const loader = [...document.querySelector("#tx-page").classList].find((name) => name.startsWith("show-")) || "";
  card.classList.toggle("tx-filtering", words !== "");
  const headers = [...card.querySelectorAll(".tx-group .label-wrap")];
  if (words) headers.filter((each) => !each.classList.contains("open")).forEach((each) => { each.dataset.opened = "1"; each.click(); });
  else headers.filter((each) => each.dataset.opened).forEach((each) => { delete each.dataset.opened; each.click(); });
  for (const option of card.querySelectorAll(".tx-opt")) {
    const hit = (keyOf(option) + " " + option.textContent).toLowerCase().includes(words);
    option.classList.toggle("tx-miss", words !== "" && !(hit && option.classList.contains(loader.replace("show-", "ld-"))));
  }
};

let due = false;
const refresh = () => {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; mark(); if (words) filter(); });
};

new MutationObserver((changes) => {
  if (changes.some((each) => [...each.addedNodes].some((node) => node.nodeType === 1 && !/tx-(source|reset|error|presets)/.test(node.className)))) refresh();
}).observe(card, { childList: true, subtree: true });
document.addEventListener("tx-filter", (event) => { words = event.detail.trim().toLowerCase(); filter(); });
document.addEventListener("tx-loader", () => { if (words) filter(); });
card.addEventListener("click", (event) => {
  const pressed = event.target.closest(".tx-reset, .tx-presets button");
  if (pressed) trigger("click", { ...pressed.dataset });
});
watch("value", refresh);
refresh();
