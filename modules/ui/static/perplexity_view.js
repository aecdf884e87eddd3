// Perplexity: what to evaluate, the evaluation that is going on, and the table of results. Evaluations are the server's:
// every page that is open shows the same ones.
import { get, post } from "./chat_client.js";
import { make } from "./dom.js";
import { boxList, bytesText, choice, fieldRow, fillMenu, inputOf, timeText } from "./perplexity_fields.js";
import * as run from "./perplexity_run.js";
import * as table from "./perplexity_table.js";
import { polling } from "./polling.js";
import { tr } from "./texts.js";

const KEPT = "tx-perplexity-form";
const LOADED = "\n"; // the value of the loaded model, which no model can be called

let lists = null;
let estimateTimer = 0;
let asked = 0;
const inputs = new Map(); // of the options, by key

// -- the form -------------------------------------------------------------------------------------------------------------

const textMenu = make("select", {});
const textNote = make("p", { class: "tx-s-info", role: "status" });
const fetchButton = make("button", { type: "button", class: "tx-button", id: "tx-p-wikitext" }, tr("pp_fetch_wikitext"));
const models = boxList("tx-p-models", tr("pp_models"));
const reference = make("select", {});
const loraMode = make("select", {}, choice("saved", tr("pp_loras_saved")), choice("none", tr("pp_loras_none")), choice("with", tr("pp_loras_with")), choice("both", tr("pp_loras_both")));
const loras = boxList("tx-p-loras", tr("pp_loras"));
const mayUnload = make("input", { type: "checkbox" });
const skipTested = make("input", { type: "checkbox" });
const options = make("div", { class: "tx-p-grid" });
const problem = make("div", { class: "tx-s-problem", role: "alert", hidden: true });
const facts = make("div", { class: "tx-p-facts", role: "status" });
const startButton = make("button", { type: "button", class: "tx-button tx-main", id: "tx-p-start" }, tr("pp_start"));

const referenceRow = fieldRow("tx-p-reference", tr("pp_reference"), reference, tr("pp_reference_info"));
const form = make(
  "section",
  { class: "tx-p-card", "aria-label": tr("pp_form") },
  fieldRow("tx-p-text", tr("pp_text"), textMenu),
  textNote,
  make("div", { class: "tx-s-buttons" }, fetchButton),
  models.element,
  fieldRow("tx-p-lora-mode", tr("pp_loras_used"), loraMode),
  loras.element,
  referenceRow,
  options,
  fieldRow("tx-p-skip", tr("pp_skip"), skipTested, tr("pp_skip_info")),
  fieldRow("tx-p-unload", tr("pp_unload"), mayUnload),
);
const plan = make("section", { class: "tx-p-card", "aria-label": tr("pp_plan") }, make("h2", {}, tr("pp_plan")), facts, problem, make("div", { class: "tx-s-buttons" }, startButton));
export const element = make("div", { class: "tx-p", "data-view": "perplexity" }, make("p", { class: "tx-s-info" }, tr("pp_about")), make("div", { class: "tx-p-columns" }, form, make("div", { class: "tx-p-side" }, plan, run.element)), table.element);

const nameOf = (value) => (value === LOADED ? tr("pp_loaded_named", { name: lists.loaded }) : value);

const subjects = () => {
  const chosen = models.chosen();
  const first = reference.value;
  const ordered = chosen.includes(first) ? [first, ...chosen.filter((one) => one !== first)] : chosen;
  const weights = Object.fromEntries(loras.chosen().map((name) => [name, 1]));
  const variants = { saved: [null], none: [{}], with: [weights], both: [{}, weights] }[loraMode.value];
  return ordered.flatMap((value) => (value === LOADED ? [{ model: "" }] : variants.map((one) => ({ model: value, loras: one }))));
};

const optionValues = () => {
  const values = {};
  for (const [key, input] of inputs) {
    if (key === "stride" && inputs.get("method").value !== "rolling") continue;
    values[key] = input.type === "checkbox" ? input.checked : input.value.trim();
  }
  return values;
};

const wanted = () => ({ text: textMenu.value, subjects: subjects(), options: optionValues(), may_unload: mayUnload.checked, skip_tested: skipTested.checked });

const keep = () => {
  const values = { text: textMenu.value, models: models.chosen(), loras: loras.chosen(), mode: loraMode.value, options: optionValues(), skip: skipTested.checked };
  localStorage.setItem(KEPT, JSON.stringify(values));
};

const restore = () => {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return; // written by something else
  }
  if ([...textMenu.options].some(({ value }) => value === kept.text)) textMenu.value = kept.text;
  models.tick(kept.models ?? [LOADED]);
  loras.tick(kept.loras ?? []);
  loraMode.value = ["saved", "none", "with", "both"].includes(kept.mode) ? kept.mode : "saved";
  skipTested.checked = Boolean(kept.skip);
  for (const [key, value] of Object.entries(kept.options ?? {})) {
    const input = inputs.get(key);
    if (input?.type === "checkbox") input.checked = Boolean(value);
    else if (input) input.value = String(value);
    if (input?.tagName === "SELECT" && input.selectedIndex < 0) input.selectedIndex = 0;
  }
};

const showProblem = (text) => {
  problem.textContent = text;
  problem.hidden = !text;
};

function changed() {
  const text = lists.texts.find(({ name }) => name === textMenu.value);
  textNote.textContent = text ? `${text.note} · ${bytesText(text.size)}` : tr("pp_no_texts", { folder: lists.folder });
  const chosen = models.chosen();
  fillMenu(reference, chosen.map((value) => choice(value, nameOf(value))));
  const several = subjects().length > 1;
  referenceRow.hidden = chosen.length < 2;
  loras.element.hidden = !["with", "both"].includes(loraMode.value);
  inputs.get("kl").closest(".tx-p-row").hidden = !several;
  inputs.get("stride").closest(".tx-p-row").hidden = inputs.get("method").value !== "rolling";
  startButton.disabled = !text || !chosen.length;
  showProblem("");
  keep();
  clearTimeout(estimateTimer);
  estimateTimer = setTimeout(showEstimate, 300);
}

const fact = (name, value) => [make("dt", {}, name), make("dd", {}, value)];

async function showEstimate() {
  const mine = ++asked;
  if (startButton.disabled) {
    facts.replaceChildren(make("p", { class: "tx-s-quiet" }, tr("pp_choose_first")));
    return;
  }
  const found = await post("/perplexity/estimate", wanted()).catch((error) => ({ error: error.message }));
  if (mine !== asked) return;
  if (found.error) {
    facts.replaceChildren();
    showProblem(found.error);
    return;
  }
  const memory = found.models.map(({ name, bytes, short }) => fact(name, bytes === null ? tr("pp_unknown") : short ? tr("pp_memory_short", { size: bytesText(bytes) }) : tr("pp_about_value", { value: bytesText(bytes) })));
  const seconds = found.seconds === null ? tr("pp_time_later") : tr("pp_about_value", { value: timeText(found.seconds) });
  const list = make("dl", { class: "tx-s-facts" }, ...fact(tr("pp_time"), seconds), ...fact(tr("pp_tokens"), tr("pp_about_value", { value: found.tokens })), ...memory.flat());
  facts.replaceChildren(list, ...(found.kl ? [make("p", { class: "tx-s-info" }, tr("pp_kl_disk"))] : []));
}

startButton.addEventListener("click", async () => {
  startButton.disabled = true;
  showProblem("");
  try {
    run.choose((await post("/perplexity/start", wanted())).id);
    await evaluations.now();
    run.element.scrollIntoView({ block: "nearest", behavior: "smooth" });
  } catch (error) {
    showProblem(error.message);
  }
  startButton.disabled = false;
});

fetchButton.addEventListener("click", async () => {
  fetchButton.disabled = true;
  textNote.textContent = tr("pp_fetching");
  try {
    setLists(await post("/perplexity/wikitext"));
    textMenu.value = "wikitext-2-test.txt";
    changed();
  } catch (error) {
    textNote.textContent = error.message;
  }
  fetchButton.disabled = false;
});

const setLists = (found) => {
  lists = found;
  fillMenu(textMenu, found.texts.map(({ name }) => choice(name, name.replace(/\.txt$/i, ""))));
  const loaded = { value: LOADED, label: found.loaded ? tr("pp_loaded_named", { name: found.loaded }) : tr("pp_loaded_none"), disabled: !found.loaded };
  models.set([loaded, ...found.models.map((value) => ({ value, label: value }))], "");
  loras.set(found.loras.map((value) => ({ value, label: value })), tr("pp_no_loras"));
  fetchButton.parentElement.hidden = found.has_wikitext;
};

async function build() {
  try {
    const found = await get("/perplexity/form");
    if (!inputs.size) {
      for (const field of found.fields) {
        const input = inputOf(field);
        inputs.set(field.key, input);
        options.append(fieldRow(`tx-p-${field.key}`, field.label, input, field.help));
      }
      setLists(found);
      restore();
      form.addEventListener("change", () => changed());
    } else setLists(found);
    changed();
  } catch (error) {
    startButton.disabled = true;
    showProblem(error.message);
  }
}

// -- what is going on -----------------------------------------------------------------------------------------------------

const evaluations = polling(() => run.refresh(table.refresh));

/** Begin to follow the evaluations. */
export function show() {
  build();
  table.refresh();
  evaluations.begin();
}

/** Stop following them. */
export const hide = evaluations.end;
