// Runs when the Model tab is drawn. Marks each option with where its value comes from, offers to set it back, and
// filters the form. Options in folded groups are drawn only when their group is opened, hence the observer.
const card = document.querySelector("#tx-opts");
let words = "";

const told = () => JSON.parse(element.querySelector("[data-marks]")?.dataset.marks || '{"sources":{},"errors":{}}');
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

const child = (option, name, wanted, make) => {
  const there = option.querySelector(":scope > ." + name);
  if (there && !wanted) there.remove();
  if (!there && wanted) option.append(make());
  return option.querySelector(":scope > ." + name);
};

const mark = () => {
  const { sources, errors, reset } = told();
  for (const option of card.querySelectorAll(".tx-opt")) {
    const [source, text] = sources[keyOf(option)] || ["", ""];
    const error = errors[keyOf(option)] || "";
    const chip = child(option, "tx-source", source, () => Object.assign(document.createElement("span"), { className: "tx-source" }));
    if (chip && chip.textContent !== text) chip.textContent = text;
    if (chip) chip.dataset.source = source;
    child(option, "tx-reset", source === "form" || source === "saved" || error, () => button(option, reset));
    const alert = child(option, "tx-error", error, () => Object.assign(document.createElement("p"), { className: "tx-error", role: "alert" }));
    if (alert && alert.textContent !== error) alert.textContent = error;
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
  if (changes.some((each) => [...each.addedNodes].some((node) => node.nodeType === 1 && !/tx-(source|reset|error)/.test(node.className)))) refresh();
}).observe(card, { childList: true, subtree: true });
document.addEventListener("tx-filter", (event) => { words = event.detail.trim().toLowerCase(); filter(); });
card.addEventListener("click", (event) => {
  const pressed = event.target.closest(".tx-reset");
  if (pressed) trigger("click", { key: pressed.dataset.key });
});
watch("value", refresh);
refresh();
